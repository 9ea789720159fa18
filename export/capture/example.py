"""The user's example as golden inputs: a few samples, all different, in the layout that the network takes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import DataError
from ...runtime.chain.samples import list_parts, to_array
from ..graph.axes import BATCH, Axes, count_samples, first_line, take_samples

__all__ = ["GOLDEN_SAMPLES", "make_golden", "read_example"]

GOLDEN_SAMPLES = 3
"""Samples that verify the chain and are stored in the bundle."""


def read_example(example: Any) -> tuple[list[str], list[np.ndarray]]:
    """Return an example's input names, empty if it is not a mapping, and an array for each input.

    Raises:
        DataError: it is empty, or a part is not an array of finite numbers with a batch axis.
    """
    names = [str(name) for name in example] if isinstance(example, Mapping) else []
    parts = list(example.values()) if isinstance(example, Mapping) else list_parts(example)
    if not parts:
        raise DataError("The example is empty: give samples with their batch axis, for several inputs a tuple of them.")
    return names, [_read_array(part) for part in parts]


def make_golden(arrays: Sequence[np.ndarray], axes: Sequence[Axes]) -> list[np.ndarray]:
    """Return `GOLDEN_SAMPLES` samples of an example. If it has fewer, samples are repeated and changed, so that all differ."""
    n = count_samples(arrays, axes)
    golden = []
    for array, axis_names in zip(take_samples(arrays, axes, np.arange(GOLDEN_SAMPLES) % n), axes, strict=True):
        rows = np.moveaxis(array, axis_names.index(BATCH), 0)
        for i in range(n, GOLDEN_SAMPLES):
            if array.dtype.kind == "f":
                rows[i] = rows[i] * (1 - (i - n + 1) / 8)
                continue
            # Whole numbers may be indices into a table or a mask: they change places, and the largest replaces some.
            rows[i] = np.roll(rows[i], i)
            rows[i].flat[: rows[i].size * (i - n + 1) // 4] = rows[i].max()
        golden.append(array)
    return golden


def _read_array(part: Any) -> np.ndarray:
    try:
        array = to_array(part)
    except TypeError as error:
        dtype = getattr(part, "dtype", type(part).__name__)
        raise DataError(f"The example is {dtype}, which NumPy does not have. Use float32 or float16.") from error
    except (ValueError, RuntimeError) as error:  # rows of different lengths; tensors on torch's device meta
        raise DataError(f"The example is not an array: {first_line(error)}") from error
    if array.ndim < 1 or 0 in array.shape or array.dtype.kind not in "fiub":
        raise DataError(f"The example is {array.dtype} {array.shape}: it must be numbers with a batch axis, (N, ...).")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("The example holds NaN or infinity.")
    return array
