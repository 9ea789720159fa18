"""The axes of a network's inputs: which one is the batch, and which differ from call to call."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ModelError, UsageError, unknown
from ..schema import Tensor

BATCH = "batch"
"""The name of the dynamic batch dimension in every graph that is written."""

Axes = tuple["str | None", ...]
"""The names of one input's axes: `batch` once, others for sizes that differ, None where the size is fixed."""


def resolve_axes(axes: Any, names: Sequence[str], arrays: Sequence[np.ndarray]) -> list[Axes]:
    """Return the axes of every input from what the user gave.

    Args:
        axes: None for the batch first and all else fixed; the names of the axes for a network with one input; or a mapping
            from an input's name to them (what it leaves out has the batch first).
        names: the inputs.
        arrays: an example of each.

    Raises:
        UsageError: they do not fit the example, or an input has not exactly one axis named `batch`.
    """
    given: dict[str, Any] = {}
    if isinstance(axes, Mapping):
        for name in axes:
            if name not in names:
                raise unknown("input", str(name), names)
        given = dict(axes)
    elif axes is not None:
        if len(names) != 1:
            raise UsageError(f"The network has several inputs: give axes as a dict by their names, {', '.join(names)}.")
        given = {names[0]: axes}
    resolved = []
    for name, array in zip(names, arrays, strict=True):
        own = given.get(name, (BATCH,) + (None,) * (array.ndim - 1))
        own = tuple(own) if isinstance(own, (list, tuple)) else (own,)
        if (
            len(own) != array.ndim
            or own.count(BATCH) != 1
            or not all(a is None or (a and isinstance(a, str)) for a in own)
        ):
            raise UsageError(
                f"The axes of input {name} are {own}, its example has the shape {array.shape}: give one entry per axis, "
                f"'{BATCH}' once, a name where the size differs from call to call, None where it is fixed."
            )
        resolved.append(own)
    return resolved


def axes_of(tensor: Tensor) -> Axes:
    """Return the names of the axes of a bundle's input."""
    return tuple(BATCH if axis is None else axis if isinstance(axis, str) else None for axis in tensor.shape)


def take(arrays: Sequence[np.ndarray], axes: Sequence[Axes], rows: Any) -> list[np.ndarray]:
    """Return some samples of each input, in the input's own layout."""
    return [
        np.ascontiguousarray(np.take(array, rows, axis=own.index(BATCH)))
        for array, own in zip(arrays, axes, strict=True)
    ]


def count(arrays: Sequence[np.ndarray], axes: Sequence[Axes]) -> int:
    """Return how many samples the inputs hold.

    Raises:
        UsageError: the inputs differ, or there is none.
    """
    counts = {array.shape[own.index(BATCH)] for array, own in zip(arrays, axes, strict=True)}
    if len(counts) > 1 or 0 in counts:
        raise UsageError(
            f"The inputs of the example hold {sorted(counts)} samples: give the same number of each, at least one."
        )
    return int(counts.pop())


def sizes_of(arrays: Sequence[np.ndarray], axes: Sequence[Axes]) -> dict[str, int]:
    """Return the size of every named axis but the batch.

    Raises:
        UsageError: axes of the same name differ.
    """
    sizes: dict[str, int] = {}
    for array, own in zip(arrays, axes, strict=True):
        for name, size in zip(own, array.shape, strict=True):
            if name not in (None, BATCH) and sizes.setdefault(name, size) != size:
                raise UsageError(f"The axis {name} is {sizes[name]} and {size} long in the example: use two names.")
    return sizes


def shorten(arrays: Sequence[np.ndarray], axes: Sequence[Axes]) -> list[np.ndarray]:
    """Return the samples with every named axis about two thirds as long, to see what follows its length.

    Raises:
        ModelError: an axis is too short for that.
    """
    shorter = []
    for array, own in zip(arrays, axes, strict=True):
        for i, name in enumerate(own):
            if name not in (None, BATCH):
                if array.shape[i] < 2:
                    raise ModelError(
                        f"The axis {name} is {array.shape[i]} long in the example: give a longer one, such as 16."
                    )
                array = np.take(array, range(max(1, array.shape[i] * 2 // 3)), axis=i)
        shorter.append(np.ascontiguousarray(array))
    return shorter
