"""Samples are checked once, before anything is measured with them."""

from collections.abc import Callable

import numpy as np

from ..bundle import Manifest
from ..errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is in all."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


def check_samples(data: tuple[np.ndarray, np.ndarray], manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Return samples (N, ...) in the network's dtype and labels int64 (N,).

    Raises:
        DataError: there are none, shapes or dtypes do not fit, a value is not finite, or a label is not one of the classes.
    """
    x, y = (np.asarray(part) for part in data)
    tensor = manifest.inputs[0]
    sample = tuple(axis for axis in tensor.shape if axis is not None)
    if len(x) == 0 if x.ndim else True:
        raise DataError("The data set is empty: there are no samples in it.")
    if x.shape[1:] != sample:
        raise DataError(f"The samples have the shape {x.shape[1:]}; the network takes {sample}.")
    dtype = np.dtype(tensor.dtype)
    if x.dtype.kind != dtype.kind:
        raise DataError(
            f"The samples are {x.dtype}; the network takes {dtype}. Prepare them as in training (scale, normalise)."
        )
    if dtype.kind == "f" and not (finite := np.isfinite(x).reshape(len(x), -1).all(axis=1)).all():
        raise DataError(f"Sample {int(np.argmin(finite))} holds NaN or infinity.")
    if y.shape != (len(x),):
        raise DataError(f"There are {len(x)} samples but labels of shape {y.shape}: one label per sample is needed.")
    if y.dtype.kind not in "iu":
        raise DataError(f"The labels are {y.dtype}; they must be whole numbers, the index of the class.")
    wrong = (y < 0) | (y >= manifest.classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"Label {y[row]} of sample {row} is not one of the network's classes, 0 to {manifest.classes - 1}.")
    return np.ascontiguousarray(x, dtype), y.astype(np.int64)
