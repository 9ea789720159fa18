"""Golden samples, read and written: a few inputs of a variant, and the answers of every exit when it was exported."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from msgspec import Struct

from ..errors import BundleError, quoted
from .manifest import Tensor, Variant
from .reading import Bundle

__all__ = ["Golden", "claimed_bytes", "read_golden", "write_golden"]


class Golden(Struct, frozen=True):
    """The golden samples of a variant.

    Attributes:
        inputs: one array per input of the network, N samples each, as the network takes them.
        label: int64 (N, exits), the class that each exit gave.
        score: float32 (N, exits), how sure each exit was.
        logits: float (N, exits, classes), each exit's logits.
    """

    inputs: tuple[np.ndarray, ...]
    label: np.ndarray
    score: np.ndarray
    logits: np.ndarray


def read_golden(bundle: Bundle, variant: Variant) -> Golden:
    """Read a variant's golden samples.

    Raises:
        BundleError: the file is damaged, or does not belong to the variant.
    """
    path, content = bundle.path / variant.folder / variant.golden, bundle.read(variant, variant.golden)
    try:
        names = [f"input{i}" for i in range(len(bundle.manifest.inputs))]
        *inputs, label, score, logits = _read_arrays(content, [*names, "label", "score", "logits"])
    except Exception as error:  # a damaged archive raises one of a dozen types
        raise BundleError(
            f"{path} does not hold golden samples: {quoted(error)} Export the network anew.", path=path
        ) from error
    golden = Golden(tuple(inputs), label, score, logits)
    if (rows := _count_rows(inputs, bundle.manifest.inputs)) is None:
        found = ", ".join(f"{array.dtype} {array.shape}" for array in inputs)
        raise BundleError(
            f"{path} does not hold samples of this network: it has {found}. Export the network anew.", path=path
        )
    exits = len(variant.exits)
    if {array.dtype.kind for array in (golden.label, golden.score, golden.logits)} - set("iuf"):
        raise BundleError(f"{path} has answers that are no numbers. Export the network anew.", path=path)
    shapes = (golden.label.shape, golden.score.shape, golden.logits.shape)
    if shapes != ((rows, exits), (rows, exits), (rows, exits, bundle.manifest.classes)):
        raise BundleError(
            f"{path} does not fit variant {variant.name}, which has {exits} exits. Export the network anew.", path=path
        )
    return golden


def _read_arrays(content: bytes, names: Sequence[str]) -> list[np.ndarray]:
    """Read arrays of an archive of NumPy's whose members are not compressed, so that they are no larger than the archive.

    Raises:
        ValueError: a member is compressed, or an array claims another size than it has. Others where the archive is damaged.
    """
    import zipfile  # takes long to import

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [archive.getinfo(f"{name}.npy") for name in names]
        if sum(member.file_size for member in members) > len(content):
            raise ValueError("Its arrays are compressed.")
        return [_read_array(archive.read(member), member.filename) for member in members]


def _read_array(content: bytes, name: str) -> np.ndarray:
    """Read an array of NumPy's form; memory is taken only once its size is known to be right.

    Raises:
        ValueError: it is damaged, pickled, or claims another size than it has.
    """
    file = io.BytesIO(content)
    if claimed_bytes(file) not in (None, len(content)):
        raise ValueError(f"{name} does not have the size that it claims.")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def claimed_bytes(file: IO[bytes]) -> int | None:
    """Read the header of an array of NumPy's form; return how long it says that its file is, or None for Python objects.

    Raises:
        ValueError: it is damaged.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    return None if dtype.hasobject else file.tell() + math.prod(shape) * dtype.itemsize


def _count_rows(inputs: Sequence[np.ndarray], tensors: Sequence[Tensor]) -> int | None:
    """Return the number of samples; None if there are none, or if they are not samples of these inputs."""
    lengths: dict[str, int] = {}
    rows = set()
    for array, tensor in zip(inputs, tensors, strict=True):
        if array.size == 0 or array.dtype.kind != np.dtype(tensor.dtype).kind or not tensor.fits(array.shape, lengths):
            return None
        rows.add(array.shape[tensor.batch_axis or 0])
    return rows.pop() if len(rows) == 1 else None


def write_golden(path: Path, golden: Golden) -> None:
    """Write golden samples as arrays `input0`, `input1`, ..., `label`, `score` and `logits`."""
    arrays = {f"input{i}": array for i, array in enumerate(golden.inputs)}
    np.savez(path, label=golden.label, score=golden.score, logits=golden.logits, **arrays)  # type: ignore[arg-type]
