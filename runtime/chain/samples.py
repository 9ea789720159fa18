"""A program's samples: split by input, checked, and brought into one order, the batch axis first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from ...bundle import Tensor
from ...errors import DataError, unknown_name

__all__ = [
    "Samples",
    "check_kind",
    "check_samples",
    "convert_samples",
    "fill_input",
    "hash_each",
    "list_parts",
    "prepare_single",
    "show_shape",
    "split_inputs",
    "to_array",
]


MOST_CHARACTERS = 300
"""Of another package's message so many are shown."""


class Samples(Struct, frozen=True):
    """Samples of a network: one array per input, (N, ...) with the batch axis first."""

    arrays: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, rows: Any) -> Any:
        """Return one sample for a number, `Samples` for a slice or array. A sample of several inputs is a tuple of arrays."""
        parts = tuple(array[rows] for array in self.arrays)
        if not isinstance(rows, (int, np.integer)):
            return Samples(parts)
        return parts[0] if len(parts) == 1 else parts

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


def split_inputs(x: Any, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """Return one array per input.

    Args:
        x: an array for a network with one input; else a sequence in the order of the inputs, or a mapping by their names.
        inputs: the network's inputs.

    Raises:
        DataError: `x` has more or fewer arrays than the network has inputs, a name that no input has, or is no array of numbers.
    """
    names = [tensor.name for tensor in inputs]
    if isinstance(x, Mapping):
        for name in x:
            if name not in names:
                raise DataError(str(unknown_name("input", str(name), names)))
        if missing := [name for name in names if name not in x]:
            raise DataError(f"The input {missing[0]} is missing: the network takes {', '.join(names)}.")
        return [_read_part(x[name], name) for name in names]
    if len(inputs) == 1 and not (isinstance(x, (list, tuple)) and len(x) == 1):
        return [_read_part(x, names[0])]
    of_samples = isinstance(x, list) and x and all(isinstance(p, tuple) and p and hasattr(p[0], "ndim") for p in x)
    if not isinstance(x, (list, tuple)) or len(x) != len(inputs) or of_samples:
        raise DataError(
            f"The network takes {len(inputs)} inputs ({', '.join(names)}): pass a tuple of an array for each, or a dict by name"
            f"{', not a list of samples' if of_samples else ''}."
        )
    return [_read_part(part, name) for part, name in zip(x, names, strict=True)]


def _read_part(part: Any, name: str) -> np.ndarray:
    """Return what a program gives for one input as an array; a tensor of bfloat16, which NumPy does not have, as float32.

    Raises:
        DataError: it is no array of numbers, or has masked values.
    """
    try:
        array = to_array(part.float() if str(getattr(part, "dtype", "")) == "torch.bfloat16" else part)
    except DataError:
        raise
    except Exception as error:  # rows of different lengths, sparse tensors, whatever `__array__` raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:MOST_CHARACTERS]
        raise DataError(
            f"NumPy cannot make an array of what is given for {name}, {_show_type(part)}: {reason}"
        ) from error
    if array.dtype.kind not in "fiubc":
        raise DataError(f"The network takes an array of numbers for {name}, not {_show_type(part)} of {array.dtype}.")
    return array


def _show_type(value: Any) -> str:
    """Write the type of a value for a message: `a list`, `a torch.Tensor`."""
    module = type(value).__module__.partition(".")[0]
    return f"a {type(value).__name__}" if module == "builtins" else f"a {module}.{type(value).__name__}"


def check_samples(x: Any, inputs: Sequence[Tensor]) -> Samples:
    """Return samples with the batch axis first. Shapes and kinds of dtype are checked; dtypes stay as they are.

    Args:
        x: samples as `split_inputs` takes them, each array with the batch on its input's batch axis.
        inputs: the network's inputs.

    Raises:
        DataError: there are no samples, or a shape or kind of dtype does not fit.
    """
    if isinstance(x, Samples):
        return x
    arrays, lengths = [], dict[str, int]()
    is_single = len(inputs) == 1 and isinstance(x, (list, tuple)) and len(x) == 1
    for part, tensor in zip(split_inputs(x, inputs), inputs, strict=True):
        axis = tensor.batch_axis or 0
        if axis == 0 and is_single and part.ndim == len(tensor.shape) - 1:
            part = part[None]  # a list of a single sample, as programs collect them
        if part.shape[axis : axis + 1] == (0,):
            raise DataError("The data set is empty: there are no samples in it.")
        if part.size == 0 or not tensor.fits(part.shape, lengths):
            from .misfits import advise_shape  # which a product does without

            raise DataError(
                f"The network takes samples of shape {show_shape(tensor.shape)} for {tensor.name}, not {part.shape}."
                f"{_explain_lengths(part.shape, tensor, lengths) or advise_shape(part, tensor)}"
            )
        check_kind(part, tensor)
        arrays.append(np.moveaxis(part, axis, 0))
    if len({len(array) for array in arrays}) > 1:
        counts = ", ".join(f"{len(array)} of {t.name}" for array, t in zip(arrays, inputs, strict=True))
        raise DataError(f"The inputs differ in their number of samples: {counts}.")
    return Samples(tuple(arrays))


def prepare_single(parts: Sequence[np.ndarray], inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """Return one sample's arrays with a batch axis of 1, contiguous and in the network's dtypes.

    Args:
        parts: the arrays, with or without the batch axis.
        inputs: the network's inputs.

    Raises:
        DataError: the network does not take a shape or kind of dtype.
    """
    singles, lengths = [], dict[str, int]()
    for part, tensor in zip(parts, inputs, strict=True):
        axis = tensor.batch_axis or 0
        single = np.expand_dims(part, axis) if part.ndim == len(tensor.shape) - 1 else part
        has_axis = single.ndim == len(tensor.shape) and single.shape[axis] == 1
        if not has_axis or not tensor.fits(single.shape, lengths):
            which = f" for {tensor.name}" if len(inputs) > 1 else ""
            alone = show_shape([size for size in tensor.shape if size is not None])
            both = f"{alone} (or {show_shape([1 if size is None else size for size in tensor.shape])})"
            from .misfits import advise_shape  # which a product does without

            why = _explain_lengths(single.shape, tensor, lengths) or advise_shape(part, tensor, single=True)
            raise DataError(f"The network takes a sample of shape {both}{which}, not {part.shape}.{why}")
        check_kind(single, tensor)
        with np.errstate(over="ignore"):
            singles.append(np.ascontiguousarray(single, tensor.dtype))
    return singles


def _explain_lengths(shape: Sequence[int], tensor: Tensor, lengths: Mapping[str, int]) -> str:
    """Say which axis has another length than in an input before, if nothing else is wrong with a shape."""
    if not tensor.fits(shape, {}):
        return ""
    return "".join(
        f" The axis {axis} is {size} long here, and {lengths[axis]} in an input before."
        for axis, size in zip(tensor.shape, shape, strict=True)
        if isinstance(axis, str) and lengths.get(axis, size) != size
    )


def fill_input(place: np.ndarray, part: np.ndarray, tensor: Tensor) -> None:
    """Copy one sample's array into an input's memory.

    Raises:
        DataError: the network does not take the array's kind of dtype.
    """
    if part.dtype == place.dtype:
        place[...] = part.reshape(place.shape)
        return
    check_kind(part, tensor)
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which is refused
        place[...] = part.reshape(place.shape)


def convert_samples(x: Any, inputs: Sequence[Tensor]) -> Samples:
    """Return samples as `check_samples` does, contiguous and in the network's dtypes, so that running many does not convert them.

    Raises:
        DataError: as for `check_samples`, or a value is not finite.
    """
    arrays = []
    for part, tensor in zip(check_samples(x, inputs).arrays, inputs, strict=True):
        dtype = np.dtype(tensor.dtype)
        with np.errstate(over="ignore"):
            part = np.ascontiguousarray(part, dtype)
        for first in range(0, len(part) if dtype.kind == "f" else 0, ROWS_AT_ONCE):
            finite = np.isfinite(part[first : first + ROWS_AT_ONCE]).all(axis=tuple(range(1, part.ndim)))
            if not finite.all():
                raise DataError(f"Sample {first + int(np.argmin(finite))} holds NaN or infinity.")
        arrays.append(part)
    return Samples(tuple(arrays))


def hash_each(x: Samples) -> np.ndarray:
    """Return a hash of each sample's values, uint64 (N,): copies have the same."""
    import hashlib  # which loads OpenSSL; a product hashes no samples

    hashes = np.empty(len(x), np.uint64)
    for i in range(len(x)):
        digest = hashlib.blake2b(digest_size=8)
        for array in x.arrays:
            digest.update(array[i].tobytes())
        hashes[i] = int.from_bytes(digest.digest(), "little")
    return hashes


ROWS_AT_ONCE = 256
"""Samples that are looked at at once, so that no large copy is made."""


def show_shape(axes: Sequence["int | str | None"]) -> str:
    """Write a shape for a message, with the names of named axes and N for the batch: `(N, time, 12)`."""
    sizes = ["N" if axis is None else str(axis) for axis in axes]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def check_kind(x: np.ndarray, tensor: Tensor) -> None:
    """Check that an array, which is not empty, can be converted to an input's dtype without changing its meaning.

    Raises:
        DataError: the array is of another kind, or an integer does not fit.
    """
    dtype = np.dtype(tensor.dtype)
    if x.dtype == dtype:
        return
    if x.dtype.kind != dtype.kind:
        from .misfits import advise_kind  # which a product does without

        raise DataError(f"The network takes {dtype} for {tensor.name}, not {x.dtype}. {advise_kind(x, tensor)}")
    if dtype.kind in "iu" and not np.can_cast(x.dtype, dtype):
        limits = np.iinfo(dtype)
        if x.min() < limits.min or x.max() > limits.max:
            raise DataError(f"A value from {x.min()} to {x.max()} does not fit into the network's {dtype}.")


def list_parts(x: Any) -> list[Any]:
    """Return what a user gives for each input, in order: the parts of a tuple or list, else `x` alone."""
    return list(x) if isinstance(x, (list, tuple)) else [x]


def to_array(x: Any) -> np.ndarray:
    """Return numbers, an array or a torch tensor, on whichever device it lies, as a numpy array.

    Raises:
        TypeError: the tensor has a dtype that NumPy does not have.
        ValueError: the rows differ in their lengths.
        DataError: values are masked in an array of NumPy's, or in one of a list of arrays: their mask would be lost.
    """
    parts = x if isinstance(x, (list, tuple)) and x else [x]
    if hasattr(parts[0], "dtype" if parts is x else "filled") and any(map(np.ma.is_masked, parts)):
        raise DataError("A masked array has masked values, which no network takes: put numbers there, x.filled(value).")
    return np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x)
