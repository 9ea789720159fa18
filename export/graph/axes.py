"""The axes of a network's inputs: the batch axis, and the axes whose lengths differ from call to call."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ...bundle import Tensor
from ...errors import ModelError, UsageError, causes, unknown_name

log = logging.getLogger(__name__)

BATCH = "batch"
"""The name of the dynamic batch dimension in every graph that is written."""

EXPORT_DYNAMIC = (
    "Export it with a dynamic batch axis: torch.onnx.export(..., dynamic_shapes=({0: torch.export.Dim('batch')},)), an entry for "
    "each input."
)
"""What to do about an ONNX file whose batch is fixed."""

SHORTER_LENGTHS, LONGER_LENGTHS = ((2, 3, 0), (1, 1, -1)), ((4, 1, 1), (2, 1, 1), (1, 1, 1))
"""(multiply, divide, add): test lengths for an axis of length n; the first at which the network runs is used.

Shorter: 2n/3, then n-1. Longer: 4n+1, 2n+1, n+1.
"""

Axes = tuple["str | None", ...]
"""The names of one input's axes, such as `("batch", "time", None)`: None is an axis of fixed size."""


def resolve_axes(axes: Any, names: Sequence[str], arrays: Sequence[np.ndarray]) -> list[Axes]:
    """Return the axes of every input from the argument `axes` of `export`.

    Args:
        axes: None for the batch first and all other sizes fixed; the names of the axes for a network with one input; or a
            mapping from an input's name to the names of its axes. An input that it leaves out has the batch first.
        names: the names of the inputs.
        arrays: an example of each input.

    Raises:
        UsageError: the axes do not fit the example, or an input has not exactly one axis named `batch`.
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
        axis_names = given.get(name, (BATCH,) + (None,) * (array.ndim - 1))
        axis_names = tuple(axis_names) if isinstance(axis_names, (list, tuple)) else (axis_names,)
        if (
            len(axis_names) != array.ndim
            or axis_names.count(BATCH) != 1
            or not all(a is None or (a and isinstance(a, str)) for a in axis_names)
        ):
            raise UsageError(
                f"The axes of input {name} are {axis_names}, its example has the shape {array.shape}: give one entry per axis, "
                f"'{BATCH}' once, a name for an axis whose size differs from call to call, None for a fixed one."
            )
        resolved.append(axis_names)
    return resolved


def axes_of(tensor: Tensor) -> Axes:
    """Return the names of the axes of a bundle's input."""
    return tuple(BATCH if axis is None else axis if isinstance(axis, str) else None for axis in tensor.shape)


def take_samples(arrays: Sequence[np.ndarray], axes: Sequence[Axes], rows: Any) -> list[np.ndarray]:
    """Return the samples with the numbers `rows` of each input, in the input's own layout."""
    return [
        np.ascontiguousarray(np.take(array, rows, axis=axis_names.index(BATCH)))
        for array, axis_names in zip(arrays, axes, strict=True)
    ]


def count_samples(arrays: Sequence[np.ndarray], axes: Sequence[Axes]) -> int:
    """Return how many samples the inputs hold.

    Raises:
        UsageError: the inputs differ in their number of samples, or have none.
    """
    counts = {array.shape[axis_names.index(BATCH)] for array, axis_names in zip(arrays, axes, strict=True)}
    if len(counts) > 1 or 0 in counts:
        raise UsageError(
            f"The inputs of the example hold {sorted(counts)} samples: give the same number of each, at least one."
        )
    return int(counts.pop())


def sizes_of(arrays: Sequence[np.ndarray], axes: Sequence[Axes]) -> dict[str, int]:
    """Return the size of every named axis but the batch: `{"time": 20}`.

    Raises:
        UsageError: axes of the same name have different sizes.
    """
    sizes: dict[str, int] = {}
    for array, axis_names in zip(arrays, axes, strict=True):
        for name, size in zip(axis_names, array.shape, strict=True):
            if name not in (None, BATCH) and sizes.setdefault(name, size) != size:
                raise UsageError(f"The axis {name} is {sizes[name]} and {size} long in the example: use two names.")
    return sizes


def other_lengths(
    arrays: Sequence[np.ndarray], axes: Sequence[Axes], run: Callable[[Sequence[np.ndarray]], object]
) -> list[list[np.ndarray]]:
    """Return the samples with their named axes shorter, and with them much longer, as far as the network runs on such.

    A value that is the same at all these lengths does not depend on them. Small changes would not show that: a stride hides them.

    Args:
        arrays, axes: samples of the inputs, and the names of their axes.
        run: runs the network.

    Returns:
        One or two sets of samples; none if no axis is named.

    Raises:
        ModelError: the network runs at the example's lengths only.
    """
    sizes = sizes_of(arrays, axes)
    if not sizes:
        return []
    changed_samples = []
    reason = ""
    for choices in SHORTER_LENGTHS, LONGER_LENGTHS:
        # First every axis gets a length of its own (`apart`), so that two axes of the same length are told apart.
        for (times, over, more), apart in product(choices, (1, 0)):
            lengths = {name: max(1, n * times // over + more + apart * i) for i, (name, n) in enumerate(sizes.items())}
            if lengths == sizes:
                continue
            changed = [
                _change_lengths(array, axis_names, lengths) for array, axis_names in zip(arrays, axes, strict=True)
            ]
            try:
                run(changed)
            except Exception as error:  # a network may raise anything at a length that it does not take
                reason = first_line(error)
                continue
            log.debug("the network runs with %s", lengths)
            changed_samples.append(changed)
            break
    if not changed_samples:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ModelError(f"The network does not run at other lengths than {shown}: {reason} Leave that axis fixed.")
    return changed_samples


def _change_lengths(array: np.ndarray, axes: Axes, lengths: Mapping[str, int]) -> np.ndarray:
    for i, name in enumerate(axes):
        if name is not None and name in lengths:
            array = np.take(array, np.arange(lengths[name]) % array.shape[i], axis=i)
    return np.ascontiguousarray(array)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's deepest cause, which names the user's code."""
    *_, error = causes(error)
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, KeyError):  # its text is the key alone
        return f"KeyError: {lines[0]}"
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
