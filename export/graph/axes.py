"""The axes of a network's inputs: which one is the batch, and which differ from call to call."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ...bundle import Tensor
from ...errors import ModelError, UsageError, causes, unknown_name

BATCH = "batch"
"""The name of the dynamic batch dimension in every graph that is written."""

SHORTER, LONGER = ((2, 3, 0), (1, 1, -1)), ((4, 1, 1), (2, 1, 1), (1, 1, 1))
"""Other lengths to try for one of n: times, divided by, and more: 2n/3 or else n - 1; 4n + 1 or else 2n + 1 or n + 1."""

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
                raise unknown_name("input", str(name), names)
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


def take_samples(arrays: Sequence[np.ndarray], axes: Sequence[Axes], rows: Any) -> list[np.ndarray]:
    """Return some samples of each input, in the input's own layout."""
    return [
        np.ascontiguousarray(np.take(array, rows, axis=own.index(BATCH)))
        for array, own in zip(arrays, axes, strict=True)
    ]


def count_samples(arrays: Sequence[np.ndarray], axes: Sequence[Axes]) -> int:
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


def other_lengths(
    arrays: Sequence[np.ndarray], axes: Sequence[Axes], run: Callable[[Sequence[np.ndarray]], object]
) -> list[list[np.ndarray]]:
    """Return the samples with their named axes shorter and much longer, as far as the network runs on such.

    What stays the same over all of these lengths does not depend on them: a stride hides small differences only.

    Args:
        arrays, axes: samples of the inputs.
        run: the network.

    Returns:
        Nothing where no axis is named, else one or two sets of samples.

    Raises:
        ModelError: the network runs at the example's lengths only.
    """
    sizes = sizes_of(arrays, axes)
    if not sizes:
        return []
    found = []
    reason = ""
    for choices in SHORTER, LONGER:
        # First every axis gets a length of its own, so that axes as long as each other are told apart.
        for (times, over, more), apart in product(choices, (1, 0)):
            lengths = {name: max(1, n * times // over + more + apart * i) for i, (name, n) in enumerate(sizes.items())}
            if lengths == sizes:
                continue
            changed = [_with_lengths(array, own, lengths) for array, own in zip(arrays, axes, strict=True)]
            try:
                run(changed)
            except Exception as error:  # whatever the network raises at a length that it does not take
                reason = first_line(error)
                continue
            found.append(changed)
            break
    if not found:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ModelError(f"The network does not run at other lengths than {shown}: {reason} Leave that axis fixed.")
    return found


def _with_lengths(array: np.ndarray, axes: Axes, lengths: Mapping[str, int]) -> np.ndarray:
    for i, name in enumerate(axes):
        if name is not None and name in lengths:
            array = np.take(array, np.arange(lengths[name]) % array.shape[i], axis=i)
    return np.ascontiguousarray(array)


def first_line(error: BaseException) -> str:
    """Return what the deepest cause says first, which is the one that names the user's code."""
    *_, error = causes(error)
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
