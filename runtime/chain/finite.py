"""Whether a sample's floats are all finite, found in one fast pass.

It has to be looked for: max-pooling drops NaN, so that a network may answer a broken sample with a confident label.
"""

from collections.abc import Sequence

import numpy as np

from ...bundle import Tensor
from ...errors import DataError

__all__ = ["FloatMarks", "make_marks", "refuse_infinite"]

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
        if array.dtype.kind == "f":
            rows = np.moveaxis(array, tensor.batch_axis or 0, 0)
            finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
            if not finite.all():
                which = "The sample" if first is None else f"Sample {first + int(np.argmin(finite))}"
                raise DataError(f"{which} holds NaN or infinity in {tensor.name} ({array.dtype}).")
