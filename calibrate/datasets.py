"""Samples that a program holds: arrays and tensors, or datasets and loaders, which are read one item after another."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..bundle import Manifest
from ..errors import DataError, MissingError, OfframpError, UsageError
from ..progress import Progress
from ..runtime.chain.samples import to_array
from .images import ImageReader
from .sample_memory import make_array
from .truth import Ragged, gather_truth

__all__ = ["name_arrays", "read_samples"]

LABEL_NAMES = ("y", "label", "labels", "target", "targets")
"""Keys under which samples that are mappings have their labels."""


def read_samples(
    value: Any, manifest: Manifest | None, *, name: str, progress: Progress
) -> tuple[Any, np.ndarray | None]:
    """Return samples, as the network takes them, and labels or None.

    Args:
        value: `x` or `(x, y)`, `x` being an array or tensor, or a dict or tuple of them for several inputs; or a torch Dataset
            or DataLoader, a Hugging Face Dataset, a list or a generator of single samples or of batches.
        manifest: of the bundle that the samples are for. Pictures take it: it says their size.
        name: what `value` is called in messages.
        progress: is told of each sample or batch that is read.

    Raises:
        UsageError: `value` is a network, or another thing that holds no samples, or pictures without a manifest.
        DataError: the samples differ in shape or dtype, or reading them fails.
        MissingError: they do not fit into memory.
    """
    _check_kind(value, name)
    value = [value] if _is_picture(value) else value
    try:
        if _is_collection(value):
            return _Collector(value, manifest, name=name, progress=progress).collect()
        if isinstance(value, Mapping):
            arrays = {str(key): _to_array(part, name) for key, part in value.items()}
            if manifest is None and "x" not in arrays:
                return arrays, arrays.pop("y", None)
            return name_arrays(arrays, manifest, source=name)
        x, y = _split(value, 1 if manifest is None else len(manifest.inputs), name)
        samples: Any
        if isinstance(x, Mapping):
            samples = {key: _to_array(part, name) for key, part in x.items()}
        elif isinstance(x, list) and x and _is_picture(x[0]):
            samples, _ = _Collector(x, manifest, name=name, progress=progress).collect()
        else:
            samples = tuple(_to_array(part, name) for part in x) if isinstance(x, tuple) else _to_array(x, name)
        if y is not None and manifest is not None and not manifest.classes:
            return samples, _to_truth(y, name)
        return samples, None if y is None else _to_array(y, name)
    except MemoryError as error:
        raise MissingError(f"The samples of {name} do not fit into memory: give fewer.") from error


def name_arrays(
    arrays: Mapping[str, np.ndarray], manifest: Manifest | None, *, source: object
) -> tuple[Any, np.ndarray | None]:
    """Return samples and labels of named arrays: `x`, or one for each input by its name, and `y` if there are labels.

    The truth for a network that does not classify may be several arrays, `y.boxes` and `y.mask`; and rows of different lengths,
    whose offsets are `y.boxes.offset`. See `truth.Ragged`.

    Raises:
        DataError: an array is missing.
    """
    names = [key for key in arrays if key != "y"] if manifest is None else [tensor.name for tensor in manifest.inputs]
    if manifest is not None and not manifest.classes:
        y: Any = gather_truth({key: array for key, array in arrays.items() if key not in names})
    else:
        y = None if "y" in names else arrays.get("y")
    if "x" in arrays and (len(names) == 1 or "x" not in names):
        return arrays["x"], y
    if manifest is not None and len(names) == 1 and names[0] in arrays:
        return arrays[names[0]], y
    if manifest is None and len(names) == 1:
        return {names[0]: arrays[names[0]]}, y  # for whoever knows the network's inputs to take or refuse
    if len(names) < 2 or (missing := [name for name in names if name not in arrays]):
        wanted = f"`{missing[0]}`" if len(names) > 1 else "`x`"
        raise DataError(f"{source} has no array {wanted}; it has {', '.join(arrays) or 'none'}.")
    return {name: arrays[name] for name in names}, y


def _to_truth(y: Any, name: str) -> Any:
    """Return the truth for a network that does not classify: an array, rows of different lengths, or several by name."""
    if isinstance(y, Mapping):
        return {str(key): _to_truth(part, name) for key, part in y.items()}
    return y if isinstance(y, Ragged) else _to_array(y, name)


class _Rows:
    """Rows that are gathered into one array; it has room for as many as are expected, and grows if there are more."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._array: np.ndarray | None = None
        self.count = 0

    def add(self, rows: np.ndarray, what: str) -> None:
        """Add rows.

        Raises:
            DataError: their shape or dtype is not that of the rows before.
        """
        if self._array is None:
            self._array = make_array((max(self._expected, len(rows)), *rows.shape[1:]), rows.dtype)
        if rows.shape[1:] != self._array.shape[1:]:
            raise DataError(
                f"{what} has the shape {rows.shape[1:]}, and the ones before {self._array.shape[1:]}: give all the same shape."
            )
        if not (np.can_cast(rows.dtype, self._array.dtype) or rows.dtype.kind == self._array.dtype.kind == "f"):
            raise DataError(f"{what} is {rows.dtype}, and the ones before {self._array.dtype}.")
        end = self.count + len(rows)
        if end > len(self._array):
            larger = make_array((max(end, 2 * len(self._array)), *rows.shape[1:]), self._array.dtype)
            larger[: self.count] = self._array[: self.count]
            self._array = larger
        self._array[self.count : end] = rows
        self.count = end

    def finish(self) -> np.ndarray | None:
        """Return the array; None if there were no rows."""
        return None if self._array is None else self._array[: self.count]


class _Collector:
    """Reads a dataset or loader into one array for each input, and one of labels."""

    def __init__(self, value: Any, manifest: Manifest | None, *, name: str, progress: Progress) -> None:
        self._value, self._manifest, self._name, self._progress = value, manifest, name, progress
        self._inputs = () if manifest is None else manifest.inputs
        self._reader: ImageReader | None = None
        self._columns: dict[Any, _Rows] = {}
        self._labels: _Rows | None = None

    def collect(self) -> tuple[Any, np.ndarray | None]:
        """Read all items."""
        total = _count(self._value)
        done = 0
        for item in self._items():
            self._add(item, total, f"Item {done} of {self._name}")
            done += 1
            self._progress("loading samples", done, max(total, done))
        if not done:
            raise DataError(f"The data set is empty: {self._name} gives no samples.")
        if self._reader is not None:
            self._reader.warn(self._name)
        columns = {
            key: np.moveaxis(self._finish(rows), 0, self._batch_axis(key)) for key, rows in self._columns.items()
        }
        labels = None if self._labels is None else self._finish(self._labels)
        if labels is not None and len(labels) != next(iter(self._columns.values())).count:
            raise DataError(f"Some samples of {self._name} have labels, and some have none.")
        if None in columns:
            return columns[None], labels
        return (columns if isinstance(next(iter(columns)), str) else tuple(columns.values())), labels

    def _finish(self, rows: _Rows) -> np.ndarray:
        array = rows.finish()
        assert array is not None
        return array

    def _items(self) -> Iterator[Any]:
        value = self._value
        try:
            # Without __iter__, Python counts until IndexError, which many datasets do not raise.
            yield from value if hasattr(value, "__iter__") else (value[i] for i in range(len(value)))
        except (OfframpError, MemoryError):
            raise
        except Exception as error:
            raise DataError(f"Reading samples from {self._name} failed: {type(error).__name__}: {error}") from error

    def _add(self, item: Any, total: int, what: str) -> None:
        x, y = self._split(item, what)
        labels = None if y is None else _to_array(y, what)
        parts: Mapping[Any, Any] = (
            x
            if isinstance(x, Mapping) and not _is_picture(x)
            else dict(enumerate(x))
            if isinstance(x, tuple)
            else {None: x}
        )
        if not parts:
            raise DataError(f"{what} has no samples x.")
        for key, part in parts.items():
            array = self._read_picture(part, what) if _is_picture(part) else _to_array(part, what)
            is_batch = array.ndim > 0 and self._is_batch(key, array, labels) and not _is_picture(part)
            rows = np.moveaxis(array, self._batch_axis(key), 0) if is_batch else array[np.newaxis]
            if key not in self._columns:
                self._columns[key] = _Rows(total * len(rows))
            self._columns[key].add(rows, what)
        if labels is not None:
            if labels.size != len(rows):
                raise DataError(
                    f"{what} has labels of shape {labels.shape}: one whole number for each sample is needed."
                )
            self._labels = self._labels or _Rows(total * (len(labels) if labels.ndim else 1))
            self._labels.add(labels if labels.ndim else labels[np.newaxis], what)

    def _split(self, item: Any, what: str) -> tuple[Any, Any]:
        """Return the samples and the labels of an item."""
        if not isinstance(item, Mapping) or _is_picture(item):
            return _split(_as_tuple(item), len(self._inputs) or 1, what)
        names = [tensor.name for tensor in self._inputs]
        label = next((key for key in LABEL_NAMES if key in item and key not in names), None)
        rest = {key: part for key, part in item.items() if key != label}
        y = None if label is None else item[label]
        if names and all(name in rest for name in names):
            return ({name: rest[name] for name in names} if len(names) > 1 else rest[names[0]]), y
        if "x" in rest or len(rest) == 1:
            return rest.get("x", next(iter(rest.values()))), y
        if names:
            raise DataError(
                f"{what} has {', '.join(map(str, rest))}: which is the network's {', '.join(names)}? Call it so, or `x`, and the "
                "labels `y`."
            )
        return rest, y

    def _is_batch(self, key: Any, array: np.ndarray, labels: np.ndarray | None) -> bool:
        """Return whether an item holds several samples: by the axes that the network takes, or else by its labels."""
        tensor = self._tensor(key)
        if tensor is not None:
            return array.ndim == len(tensor.shape)
        if labels is not None:
            return labels.ndim > 0 and labels.shape[:1] == array.shape[:1]
        return not hasattr(self._value, "__getitem__")

    def _batch_axis(self, key: Any) -> int:
        tensor = self._tensor(key)
        return 0 if tensor is None else tensor.batch_axis or 0

    def _tensor(self, key: Any) -> Any:
        if isinstance(key, str):
            return next((tensor for tensor in self._inputs if tensor.name == key), None)
        return self._inputs[key or 0] if (key or 0) < len(self._inputs) else None

    def _read_picture(self, picture: Any, what: str) -> np.ndarray:
        if self._manifest is None:
            raise UsageError(
                f"{self._name} gives pictures, which need a bundle that says their size; give arrays here."
            )
        self._reader = self._reader or ImageReader(self._manifest)
        try:
            if isinstance(picture, Mapping):
                return self._reader.decode(picture["bytes"], picture["path"])
            return self._reader.convert(picture)
        except MemoryError:
            raise
        except Exception as error:  # a damaged picture raises one of a dozen types
            raise DataError(f"{what} is not a readable image: {error}.") from error


def _as_tuple(item: Any) -> Any:
    """Return a list of arrays as a tuple: torch's loaders make lists of tuples."""
    if isinstance(item, list) and any(getattr(part, "ndim", 0) or _is_picture(part) for part in item):
        return tuple(map(_as_tuple, item))
    return item


def _split(value: Any, inputs: int, name: str) -> tuple[Any, Any]:
    """Return the samples and the labels of `x`, `(x, y)` or, with several inputs, `(a, b)` or `(a, b, y)`."""
    if not isinstance(value, (tuple, list)) or (isinstance(value, list) and len(value) != 2):
        return value, None
    if inputs > 1 and len(value) == inputs and not isinstance(value[0], (tuple, list, Mapping)):
        return tuple(value), None
    if inputs > 1 and len(value) == inputs + 1:
        return tuple(value[:inputs]), value[inputs]
    if len(value) == 2:
        x, y = value
        return (tuple(x) if isinstance(x, list) and inputs > 1 else x), y
    if len(value) == 1:
        return value[0], None
    raise DataError(f"{name} gives {len(value)} things: give the samples x, or a pair (x, y) of samples and labels.")


def _check_kind(value: Any, name: str) -> None:
    if value is None or isinstance(value, (str, bytes, bool, int, float)):
        raise UsageError(f"{name} gives {value!r:.40}, not samples: give x or (x, y).")
    if isinstance(value, io.IOBase):
        raise UsageError(f"{name} gives an open file, not samples: give its path.")
    if hasattr(value, "state_dict") and hasattr(value, "parameters"):
        raise UsageError(f"{name} gives the network {type(value).__name__}, not samples: give x or (x, y).")
    if isinstance(value, Mapping) and value and all(hasattr(part, "column_names") for part in value.values()):
        splits = ", ".join(map(str, value))
        raise UsageError(f"{name} gives several datasets, {splits}: give one of them.")


def _count(value: Any) -> int:
    """Return how many items a collection has; 0 if it does not know."""
    try:
        return len(value)
    except (TypeError, ValueError):  # a torch loader has a length only if its dataset has, and it may be no length
        return 0


def _is_collection(value: Any) -> bool:
    """Return whether samples are read from a value item by item: whether it is neither an array nor made of arrays."""
    if isinstance(value, list):
        item = value[0] if value else None
        first = item[0] if isinstance(item, tuple) and item else item
        is_item = hasattr(first, "shape") and (isinstance(item, tuple) or len(value) != 2)
        return is_item or _is_picture(first) or isinstance(first, Mapping)
    if isinstance(value, (tuple, Mapping)) or hasattr(value, "__array__") or hasattr(value, "detach"):
        return False
    return hasattr(value, "__iter__") or (hasattr(value, "__getitem__") and hasattr(value, "__len__"))


def _is_picture(value: Any) -> bool:
    """Return whether a value is an image of Pillow's, or one that Hugging Face's datasets did not decode."""
    if isinstance(value, Mapping):
        return value.keys() == {"bytes", "path"}
    return hasattr(value, "getexif") and hasattr(value, "convert")


def _to_array(x: Any, name: str) -> np.ndarray:
    """Return numbers as an array; those of a torch dtype that NumPy lacks as float32.

    Raises:
        DataError: they are no numbers, or their rows differ in length.
    """
    if hasattr(x, "detach") and "bfloat16" in str(x.dtype):
        x = x.float()
    try:
        array = to_array(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} gives no arrays x or (x, y): {error}") from error
    if array.dtype.kind in "US":
        raise DataError(
            f"{name} gives the text {str(array.flat[0])!r:.40}; labels are whole numbers, the index of the class."
        )
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} gives {type(x).__name__} where numbers are needed: give x or (x, y).")
    return array
