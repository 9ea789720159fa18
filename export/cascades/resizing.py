"""Images resized in a graph as Pillow does it: two products with constant matrices, one for rows and one for columns.

    rows (h, H) x image (N, C, H, W) -> (N, C, h, W);  (N, C, h, W) x columns (W, w) -> (N, C, h, w)

An engine's own Resize would do less work, but OpenVINO leaves out the antialiasing without a word, so that the same
file would answer differently on each.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ...bundle import Preprocess
from ...errors import UsageError

__all__ = ["make_resizing"]


def make_resizing(given: Sequence[int], size: Sequence[int], how: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices float32 (h, H) and (W, w) that resize images of height and width `given` (H, W) to `size` (h, w).

    Raises:
        UsageError: they would be padded.
    """
    if how.resize == "pad":
        raise UsageError(
            "A member's images are stretched or cropped in the graph, not padded: resize='stretch' or 'crop'."
        )
    (tall, wide), (height, width) = given, size
    high, broad = height, width
    if how.resize == "crop":  # as pictures are when samples are read: one side fits exactly, the other is rounded down
        high, broad = round(height / how.crop), round(width / how.crop)
        if broad * tall >= high * wide:
            high = max(height, broad * tall // wide)
        else:
            broad = max(width, high * wide // tall)
    rows, columns = (
        _weigh(has, full, how.interpolation)[(start := round((full - wanted) / 2)) : start + wanted]
        for has, full, wanted in ((tall, high, height), (wide, broad, width))
    )
    return rows, np.ascontiguousarray(columns.T)


def _weigh(given: int, size: int, interpolation: str) -> np.ndarray:
    """Return how much each of `given` pixels counts for each of `size` new ones, float32 (size, given); rows add up to 1.

    As `precompute_coeffs` in Pillow's src/libImaging/Resample.c: filters are as wide as the pixels that they merge.
    """
    scale = given / size
    centers = (np.arange(size) + 0.5) * scale
    if interpolation == "nearest":
        return np.asarray(np.eye(given)[np.minimum(centers.astype(int), given - 1)], np.float32)
    kernel, support = FILTERS[interpolation]
    width = max(scale, 1.0)
    weights = np.zeros((size, given))
    for row, center in zip(weights, centers, strict=True):
        first, last = max(0, int(center - support * width + 0.5)), min(given, int(center + support * width + 0.5))
        row[first:last] = [kernel((j - center + 0.5) / width) for j in range(first, last)]
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _triangle(x: float) -> float:
    return max(0.0, 1 - abs(x))


def _cubic(x: float) -> float:
    """Keys' filter with a = -0.5 (IEEE Transactions on Acoustics, Speech, and Signal Processing 29, 1981)."""
    x, a = abs(x), -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


FILTERS: dict[str, tuple[Callable[[float], float], float]] = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}
"""Filters by name, and how far each reaches."""
