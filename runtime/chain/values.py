"""What a sample's values may be: finite, and within the table that they are indices into.

Both have to be looked for. Max-pooling drops NaN, so that a network may answer a broken sample with a confident label; and some
engines read zeros where a table has no row.
"""

from collections.abc import Sequence

import numpy as np

from ...bundle import Tensor
from ...errors import DataError

__all__ = ["FloatMarks", "make_marks", "refuse_indices", "refuse_infinite"]

FloatMarks = tuple[np.ndarray | None, bytearray | None]
"""The same bytes twice, a 0 for each float of an array that is not finite: as a bool array, which `np.isfinite` writes, and as
bytes, in which Python finds a 0 faster than NumPy finds a False. None for an array that holds no floats."""


def make_marks(array: np.ndarray) -> FloatMarks:
    """Return the marks of an array."""
    if array.dtype.kind != "f":
        return None, None
    marks = bytearray(array.size)
    return np.frombuffer(marks, np.bool_).reshape(array.shape), marks


def refuse_infinite(arrays: Sequence[np.ndarray], inputs: Sequence[Tensor], first: int | None) -> None:
    """Refuse samples that hold NaN or infinity in their network's dtype.

    Args:
        arrays: one for each input, with its batch axis.
        inputs: the network's inputs.
        first: the number of the first sample in the program's batch; None for a sample alone.

    Raises:
        DataError: a value is not finite. It names the first such sample.
    """
    for array, tensor in zip(arrays, inputs, strict=True):
        if array.dtype.kind == "f" and (found := _find_first(~np.isfinite(array), tensor)) is not None:
            raise DataError(f"{_which(first, found)} holds NaN or infinity in {tensor.name} ({array.dtype}).")


def refuse_indices(
    arrays: Sequence[np.ndarray], inputs: Sequence[Tensor], rows: Sequence[int | None], first: int | None
) -> None:
    """Refuse samples that hold an index beyond its table; engines other than ONNX Runtime's CPU read something there.

    Args:
        arrays, inputs, first: as for `refuse_infinite`.
        rows: for each input the rows of its table, or None.

    Raises:
        DataError: an index is out of range. It names the first such sample.
    """
    for array, tensor, most in zip(arrays, inputs, rows, strict=True):
        if most is None:
            continue
        beyond = (array >= most) | (array < -most)
        if (found := _find_first(beyond, tensor)) is not None:
            value = int(array[beyond][0])
            raise DataError(
                f"{_which(first, found)} holds {value} in {tensor.name}, which is an index into {most} rows: 0 to {most - 1}, or "
                f"from the end -1 to -{most}."
            )


def _find_first(wrong: np.ndarray, tensor: Tensor) -> int | None:
    """Return the number of the first sample with a wrong value; None if there is none."""
    rows = np.moveaxis(wrong, tensor.batch_axis or 0, 0)
    is_wrong = rows.reshape(len(rows), -1).any(axis=1)
    return int(np.argmax(is_wrong)) if is_wrong.any() else None


def _which(first: int | None, found: int) -> str:
    return "The sample" if first is None else f"Sample {first + found}"
