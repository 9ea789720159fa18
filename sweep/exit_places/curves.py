"""Accuracy over mean latency of a network with exits, and the area under it.

accuracy |              _o----  until_s
         |         o--''         o  thresholds that no others beat, nor two others used in turn
         |      o'               Between two of them a product uses one for some inputs and the other for the rest.
  chance o---'
         0         mean latency
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from ...calibrate.measure.tables import ExitTable, exits_taken
from ...calibrate.search.counting import bin_scores, count_means
from ...calibrate.search.thresholds import threshold_grids

__all__ = ["Curve", "find_best_thresholds", "follow"]

VECTORS, MOST_VALUES = 40_000, 64
"""Threshold vectors that are looked at for a set of exits, and candidates for each exit, at most."""

DRAWS = 500
"""Draws of the bootstrap."""

Thresholds = tuple[float, ...]


class Curve(Struct, frozen=True):
    """What each of some threshold vectors gives on some samples.

    Attributes:
        right: True if a sample gets the right label, bool (vectors, N).
        latency_s: its latency, float64 (vectors, N).
        chance: the accuracy of an answer that takes no time.
        until_s: the area ends at this mean latency, that of the whole network.
    """

    right: np.ndarray
    latency_s: np.ndarray
    chance: float
    until_s: float

    @property
    def area(self) -> float:
        """The area under the curve over `until_s`: the mean of its accuracies, from no time at all to `until_s`."""
        return float(self._area(self.right.mean(1), self.latency_s.mean(1)))

    def draw_areas(self, seed: int = 0) -> np.ndarray:
        """Return the areas of samples drawn anew, float64 (DRAWS,): curves on the same samples get the same draws."""
        count, rng, areas = self.right.shape[1], np.random.default_rng(seed), []
        right, latency_s = self.right.astype(np.float64), self.latency_s
        for _ in range(DRAWS):
            weights = np.bincount(rng.integers(count, size=count), minlength=count) / count
            areas.append(self._area(right @ weights, latency_s @ weights))
        return np.array(areas)

    def _area(self, right: np.ndarray, latency_s: np.ndarray) -> float:
        order = np.argsort(latency_s, kind="stable")
        x, y = np.append(0.0, latency_s[order]), np.append(self.chance, right[order])
        inside = x < self.until_s
        y = np.append(y[inside], np.interp(self.until_s, x, y))
        x = np.append(x[inside], self.until_s)
        return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / self.until_s)


def find_best_thresholds(table: ExitTable, chance: float) -> list[Thresholds]:
    """Return the threshold vectors that make up the curve, by rising latency: the best of a grid of all vectors."""
    early = table.exits - 1
    values = min(MOST_VALUES, max(2, int(VECTORS ** (1 / max(early, 1)))))
    grids = threshold_grids(table.score, values=values)
    sizes = [len(grid) for grid in grids]
    means = count_means(bin_scores(table.score, grids), sizes, len(table), [table.costs.latency_s, table.wrong])
    latency_s, accuracy = means[0].mean.ravel(), 1 - means[1].mean.ravel()
    vectors = [np.unravel_index(i, sizes) for i in _find_hull(latency_s, accuracy, chance)]
    return [tuple(float(grid[i]) for grid, i in zip(grids, vector, strict=True)) for vector in vectors]


def follow(table: ExitTable, vectors: Sequence[Thresholds], *, chance: float, until_s: float) -> Curve:
    """Return the curve of some threshold vectors on the samples of a table."""
    assert table.right is not None
    rows, latency_s = np.arange(len(table)), table.costs.latency_s
    taken = [exits_taken(table.score, vector) for vector in vectors]
    right = np.array([table.right[rows, each] for each in taken])
    return Curve(right, np.array([latency_s[each] for each in taken]), chance, until_s)


def _find_hull(latency_s: np.ndarray, accuracy: np.ndarray, chance: float) -> list[int]:
    """Return the points that no mixture of others, and of an answer by chance that takes no time, beats in both."""
    order = np.lexsort((-accuracy, latency_s))
    best = np.maximum.accumulate(np.append(chance, accuracy[order]))
    hull: list[tuple[float, float, int]] = [(0.0, chance, -1)]
    for i in order[accuracy[order] > best[:-1]].tolist():
        point = (float(latency_s[i]), float(accuracy[i]), i)
        while len(hull) > 1 and _is_below(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return [i for _, _, i in hull[1:]] or [int(order[0])]


def _is_below(left: Sequence[float], middle: Sequence[float], right: Sequence[float]) -> bool:
    """Return True if the middle point lies on or below the line from the left to the right one."""
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])
