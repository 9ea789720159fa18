"""What to do with samples that do not fit a network: which axes are in another order, which values are scaled otherwise."""

from collections.abc import Sequence

import numpy as np

from ...bundle import Tensor

__all__ = ["advise_kind", "advise_shape"]


def advise_shape(part: np.ndarray, tensor: Tensor, *, single: bool = False) -> str:
    """Return what would make an array of another shape fit an input, as a sentence behind a space; empty if nothing obvious does.

    Args:
        part: the array.
        tensor: the input that it does not fit.
        single: the array is one sample, with or without the batch axis.

    Example:
        >>> import numpy as np
        >>> from offramp.bundle import Tensor
        >>> image = Tensor(name="x", dtype="float32", shape=(None, 3, 8, 8))
        >>> advise_shape(np.zeros((5, 8, 8, 3)), image)
        ' Its axes are in another order: give x.transpose(0, 3, 1, 2).'
    """
    axis, ndim = tensor.batch_axis or 0, len(tensor.shape)
    missing = ndim - part.ndim
    if not single and missing == 1 and tensor.fits(np.expand_dims(part, axis).shape, {}):
        return f" This is a single sample: give np.expand_dims(x, {axis})."
    if single and missing == 1:
        return _advise_order(np.expand_dims(part, axis).shape, tensor, axis, has_batch=False)
    if missing == 0:
        return _advise_order(part.shape, tensor, axis, has_batch=True)
    if missing == 1:
        for k in range(ndim):
            if k != axis and tensor.fits(np.expand_dims(part, k).shape, {}):
                return f" An axis of length 1 is missing: give np.expand_dims(x, {k})."
    if part.ndim == 1 and part.dtype.kind in "iu":
        return " One whole number for each sample looks like labels: samples come first, (x, y)."
    sizes = ", ".join(str(-1 if size is None else size) for size in tensor.shape)
    if part.ndim == 2 and tensor.is_sized and axis == 0 and part.shape[1] == tensor.least_values:
        return f" The samples were flattened: give x.reshape({sizes})."
    return ""


def _advise_order(shape: Sequence[int], tensor: Tensor, axis: int, *, has_batch: bool) -> str:
    """Return which order of axes fits, the first or the last of a sample being moved; else which axis has another size."""
    others = [k for k in range(len(shape)) if k != axis]
    for moved in ((*others[-1:], *others[:-1]), (*others[1:], *others[:1])):
        order = list(moved)
        order.insert(axis, axis)
        if order != list(range(len(shape))) and tensor.fits([shape[k] for k in order], {}):
            shown = order if has_batch else [k - (k > axis) for k in moved]
            return f" Its axes are in another order: give x.transpose({', '.join(map(str, shown))})."
    wrong = [k for k, size in enumerate(tensor.shape) if isinstance(size, int) and shape[k] != size]
    if not wrong or len(shape) < 3:
        return ""
    sizes = ", ".join(f"axis {k - (not has_batch and k > axis)} is {shape[k]}, not {tensor.shape[k]}" for k in wrong)
    return f" Bring samples to the network's size as in training: {sizes}."


def advise_kind(x: np.ndarray, tensor: Tensor) -> str:
    """Return what makes values of another kind fit an input, as sentences: floats that should be integers, or the reverse."""
    wanted = np.dtype(tensor.dtype)
    if wanted.kind == "f" and x.dtype == np.uint8:
        return (
            "Prepare samples as in training (scale, normalise) before they are passed: pixels from 0 to 255 often as "
            "x.astype(np.float32) / 255."
        )
    if wanted == np.uint8 and x.dtype.kind == "f":
        times = "" if x.max() > 1 else "(x * 255).round()" if x.min() >= 0 else None
        how = "give them before they were normalised" if times is None else f"give {times or 'x'}.astype(np.uint8)"
        return f"It takes pixels as they were read, whole numbers from 0 to 255, and scales them itself: {how}."
    if wanted.kind in "iu" and x.dtype.kind in "fiu":
        return f"It takes whole numbers, such as indices into a table: give x.astype(np.{wanted})."
    return "Prepare samples as in training (scale, normalise) before they are passed."
