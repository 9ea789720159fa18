"""Samples from outside are checked before they are measured or run in bulk."""

import numpy as np

from ..errors import DataError
from ..schema import Tensor


def check_inputs(x: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Return samples (N, ...) in the network's dtype, contiguous.

    Args:
        x: samples, the batch axis first.
        tensor: the network's input.

    Raises:
        DataError: there are none, shape or dtype do not fit, or a value is not finite.
    """
    x = np.asarray(x)
    sample = tuple(axis for axis in tensor.shape if axis is not None)
    if x.ndim == 0 or len(x) == 0:
        raise DataError("The data set is empty: there are no samples in it.")
    if x.shape[1:] != sample:
        raise DataError(f"The samples have the shape {x.shape[1:]}; the network takes {sample}.")
    dtype = np.dtype(tensor.dtype)
    if x.dtype.kind != dtype.kind:
        raise DataError(
            f"The samples are {x.dtype}; the network takes {dtype}. Prepare them as in training (scale, normalise)."
        )
    check_range(x, dtype)
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, dtype)
    if dtype.kind == "f" and not (finite := np.isfinite(x).reshape(len(x), -1).all(axis=1)).all():
        raise DataError(f"Sample {int(np.argmin(finite))} holds NaN or infinity.")
    return x


def check_range(x: np.ndarray, dtype: np.dtype) -> None:
    """See that integers keep their values in a narrower dtype; `x` is not empty.

    Raises:
        DataError: one does not.
    """
    if dtype.kind in "iu" and not np.can_cast(x.dtype, dtype):
        limits = np.iinfo(dtype)
        if x.min() < limits.min or x.max() > limits.max:
            raise DataError(f"A value from {x.min()} to {x.max()} does not fit into the network's {dtype}.")
