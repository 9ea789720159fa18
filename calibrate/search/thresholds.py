"""The best thresholds within some limits, found on grids of candidates.

up to 6 exits    the whole grid, then a box around the best that shrinks on a finer grid (zoom)
more             coordinate descent for many prices of the limits (Lagrange), then boxes over four exits at a time
"""

from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from ...bundle.manifest import NEVER
from .counting import bin_scores, count_means

__all__ = ["MARGIN", "Limit", "Problem", "solve", "threshold_grids"]

GRID_VALUES = 32
"""Candidates per exit of the whole grid, if memory allows."""

FINE_VALUES = 512
"""Candidates per exit that zoom chooses from."""

LEAST_VALUES = 12
"""A whole grid with fewer candidates per exit is no better a start than coordinate descent."""

MARGIN = 1.28
"""Standard errors that a search stays away from a limit, so that other samples meet it too."""

BOX_VECTORS = 30_000
"""Vectors in a box of zoom."""

BOX_EXITS = 4
"""Exits that share a box."""

PRICES = np.geomspace(1e-3, 1e3, 25)
"""Prices for one unit of a limit, in units of the goal's range over the limit's."""

VECTOR_BYTES = 8 * 14
"""Memory that counting takes for each vector."""

Best = tuple[tuple[float, float, float], tuple[int, ...]]
"""How far a vector breaks the limits, its goal and its second goal; and the vector, as indices into grids."""


class Limit(Struct, frozen=True):
    """A mean that must not be above `most`, nor come closer to it than `margin` standard errors.

    `values` are of leaving at each exit: float64 (exits,) if they are the same for all samples, else (N, exits): int8 of -1, 0
    and 1, or float64 from -1 to 1. All zeros mean that this exit is the reference itself.
    """

    values: np.ndarray
    most: float
    margin: float = 0.0


class Problem(Struct, frozen=True):
    """Find the thresholds with the least mean `goal`, and among equals the least mean `second`, within some limits.

    `score` is float32 (N, exits); `goal` and `second` are as `Limit.values`.
    """

    score: np.ndarray
    goal: np.ndarray
    second: np.ndarray
    limits: tuple[Limit, ...] = ()


def solve(
    problem: Problem, *, memory_mb: float = 128, values: int = GRID_VALUES, fine_values: int = FINE_VALUES
) -> tuple[float, ...] | None:
    """Find the best thresholds; None if no vector meets the limits.

    Args:
        problem: the goals and limits.
        memory_mb: memory that counting may take, about.
        values: candidates per exit of the whole grid, if memory allows.
        fine_values: candidates per exit that zoom chooses from; the same number as `values` leaves zoom out.
    """
    grids = threshold_grids(problem.score, values=fine_values)
    fine = _FineGrids(problem, grids)
    affordable = int((memory_mb * 1e6 / VECTOR_BYTES) ** (1 / max(1, len(grids))))
    values = min(values, affordable)
    if affordable >= LEAST_VALUES:
        best = fine.best_of(
            [np.unique(np.linspace(0, len(grid) - 1, values).round().astype(int)).tolist() for grid in grids]
        )
    else:
        best = min((fine.best_of([[i] for i in start]) for start in fine.descend()), key=lambda best: best[0])
    if grids and values < fine_values:
        best = fine.zoom(best, max(1, fine_values // (2 * values)))
    (violation, *_), vector = best
    return None if violation > 0 else tuple(float(grid[i]) for grid, i in zip(grids, vector, strict=True))


def threshold_grids(score: np.ndarray, *, values: int = GRID_VALUES) -> tuple[np.ndarray, ...]:
    """Choose each exit's candidate thresholds: 0, quantiles of the scores that were seen, and never.

    Args:
        score: float32 (N, exits); the last exit takes no threshold.
        values: the most candidates per exit.

    Returns:
        A rising float32 array for each exit but the last.
    """
    shares = np.linspace(0, 1, values - 1)[1:]
    return tuple(
        np.unique(np.concatenate([[0], np.quantile(column, shares, method="higher"), [NEVER]]).astype(np.float32))
        for column in score[:, :-1].T
    )


class _FineGrids:
    """A problem on fine grids; candidates are indices into them."""

    def __init__(self, problem: Problem, grids: Sequence[np.ndarray]) -> None:
        self.problem, self.grids = problem, grids
        self.bins = bin_scores(problem.score, grids)
        self.values = [problem.goal, problem.second, *(limit.values for limit in problem.limits)]

    def best_of(self, candidates: Sequence[Sequence[int]]) -> Best:
        """Return the best vector of a grid."""
        bins = []
        for candidate, fine_bin, grid in zip(candidates, self.bins, self.grids, strict=True):
            lookup = np.searchsorted(candidate, np.arange(len(grid) + 1) - 1, side="right")
            bins.append(lookup[fine_bin])
        sizes = [len(candidate) for candidate in candidates]
        goal, second, *limits = count_means(bins, sizes, len(self.problem.score), self.values)
        violation = np.zeros(goal.mean.shape)
        for limit, means in zip(self.problem.limits, limits, strict=True):
            excess = means.mean + limit.margin * means.error - limit.most
            violation += np.maximum(0.0, excess) / (np.ptp(limit.values) or 1.0)
        is_best = violation <= violation.min()
        is_best &= goal.mean <= goal.mean[is_best].min() + 1e-12 * np.abs(goal.mean).max()
        at = np.flatnonzero(is_best)[second.mean[is_best].argmin()]
        vector = np.unravel_index(at, violation.shape)
        merit = float(violation.flat[at]), float(goal.mean.flat[at]), float(second.mean.flat[at])
        return merit, tuple(int(candidate[i]) for candidate, i in zip(candidates, vector, strict=True))

    def descend(self) -> Iterator[tuple[int, ...]]:
        """Yield a vector for each price of the limits, found by improving one threshold at a time."""
        problem, never = self.problem, [len(grid) - 1 for grid in self.grids]
        goal = _scaled(problem.goal, len(problem.score))
        limits = sum((_scaled(limit.values, len(goal)) for limit in problem.limits), np.zeros(1))
        vector = list(never)
        is_sure = np.zeros((len(goal), len(vector)), bool)
        yield tuple(never)
        yield tuple(0 for _ in vector)
        for price in PRICES[::-1]:
            value = goal + price * limits
            before: list[int] | None = None
            while vector != before:
                before = list(vector)
                for k in range(len(vector)):
                    vector[k] = self._best_index(k, vector[k], is_sure, value)
                    is_sure[:, k] = self.bins[k] > vector[k]
            yield tuple(vector)

    def _best_index(self, k: int, current: int, is_sure: np.ndarray, value: np.ndarray) -> int:
        """Return the best index of exit k's threshold while the others stay as they are."""
        is_sure[:, k] = False
        taken = np.where(is_sure.any(axis=1), is_sure.argmax(axis=1), value.shape[1] - 1)
        reach = np.flatnonzero(taken > k)
        gain = value[reach, k] - value[reach, taken[reach]]
        sums = np.bincount(self.bins[k][reach], gain, minlength=len(self.grids[k]) + 1)
        total = np.cumsum(sums[::-1])[::-1][1:]  # with threshold i those samples leave whose bin is above i
        best = int(total.argmin())
        return best if total[best] < total[current] - 1e-12 else current

    def zoom(self, best: Best, step: int) -> Best:
        """Look around a vector in boxes, a few exits at a time; the boxes shrink when they hold nothing better."""
        rank = len(self.grids)
        rng = np.random.default_rng(0)
        while True:
            before = best
            for _ in range(1 if rank <= BOX_EXITS else 3):
                for group in np.array_split(rng.permutation(rank), -(-rank // BOX_EXITS)):
                    half = (int(BOX_VECTORS ** (1 / len(group))) - 1) // 2
                    candidates = [[i] for i in best[1]]
                    for k in group:
                        around = best[1][k] + step * np.arange(-half, half + 1)
                        candidates[k] = np.unique(around.clip(0, len(self.grids[k]) - 1)).tolist()
                    best = min(best, self.best_of(candidates), key=lambda each: each[0])
            if best[0] == before[0]:
                if step == 1:
                    return best
                step = max(1, step // 4)


def _scaled(values: np.ndarray, samples: int) -> np.ndarray:
    """Return a value for each sample and exit, float64 (N, exits), in units of its range."""
    return np.broadcast_to(values / (np.ptp(values) or 1.0), (samples, values.shape[-1]))
