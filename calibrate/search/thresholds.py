"""The best thresholds, found by counting what every vector of a grid gives at once.

Each exit's score is binned on its grid. For exit k, the joint histogram of the bins of exits 0 to k, summed up along every axis,
gives the samples that leave at k for every choice of the thresholds 0 to k: those below them at each earlier exit and not at k.
Added up over the exits, that is exactly what brute force would count.

    up to 6 exits    the whole grid, then a box around the best that shrinks on a finer grid (zoom)
    more             coordinate descent for many prices of the limits (Lagrange), then boxes over four exits at a time
"""

from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from ...bundle.manifest import NEVER
from ..intervals import paired_error

VALUES = 32
"""Values per exit of the whole grid, where memory allows."""

MARGIN = 1.28
"""How many standard errors a search stays away from a limit, so that other samples keep it too."""

FINE = 512
"""Values per exit that zoom chooses from."""

LEAST_VALUES = 12
"""A whole grid with fewer values per exit is no better a start than coordinate descent."""

Found = tuple[tuple[float, float, float], tuple[int, ...]]
"""How far a vector breaks the limits, its goal and its second; and the vector, as indices into grids."""

BOX = 30_000
"""Vectors in a box of zoom."""

GROUP = 4
"""So many exits share a box."""

PRICES = np.geomspace(1e-3, 1e3, 25)
"""What one unit of a limit may cost, in units of the goal's range over the limit's."""

VECTOR_BYTES = 8 * 14
"""Memory that counting takes for each vector."""


class Limit(Struct, frozen=True):
    """A mean that must not be above `most`, nor come closer to it than `margin` standard errors.

    `value` is what leaving at an exit gives: float64 (exits,) where it is the same for all samples, int8 (N, exits) of -1, 0 and
    1 where it differs. An exit whose value is 0 for all samples is the yardstick that others are held against.
    """

    value: np.ndarray
    most: float
    margin: float = 0.0


class Problem(Struct, frozen=True):
    """Find the thresholds whose mean `goal` is least, and among equals whose mean `second` is, within some limits.

    `score` is float32 (N, exits); `goal` and `second` are as `Limit.value`.
    """

    score: np.ndarray
    goal: np.ndarray
    second: np.ndarray
    limits: tuple[Limit, ...] = ()


class Mean(Struct, frozen=True):
    """Means and their standard errors, an axis per threshold."""

    mean: np.ndarray
    error: np.ndarray


def search(
    problem: Problem, *, memory_mb: float = 128, values: int = VALUES, fine: int = FINE
) -> tuple[float, ...] | None:
    """Find the best thresholds; None where no vector keeps the limits.

    Args:
        problem: what to find.
        memory_mb: what counting may take, about.
        values: of the whole grid, for each exit, where memory allows.
        fine: of the grid that zoom chooses from; the same number as `values` leaves it out.
    """
    grids = threshold_grids(problem.score, values=fine)
    table = _Fine(problem, grids)
    able = int((memory_mb * 1e6 / VECTOR_BYTES) ** (1 / max(1, len(grids))))
    values = min(values, able)
    if able >= LEAST_VALUES:
        best = table.best_of(
            [np.unique(np.linspace(0, len(g) - 1, values).round().astype(int)).tolist() for g in grids]
        )
    else:
        best = min((table.best_of([[i] for i in start]) for start in table.descend()), key=lambda found: found[0])
    if grids and values < fine:
        best = table.zoom(best, max(1, fine // (2 * values)))
    (violation, *_), where = best
    return None if violation > 0 else tuple(float(grid[i]) for grid, i in zip(grids, where, strict=True))


def threshold_grids(score: np.ndarray, *, values: int = VALUES) -> tuple[np.ndarray, ...]:
    """Choose each exit's candidate thresholds: 0, quantiles of the scores that were seen, and never.

    Args:
        score: float32 (N, exits); the last exit takes no threshold.
        values: how many at most per exit.

    Returns:
        A rising float32 array for each exit but the last.
    """
    share = np.linspace(0, 1, values - 1)[1:]
    return tuple(
        np.unique(np.concatenate([[0], np.quantile(column, share, method="higher"), [NEVER]]).astype(np.float32))
        for column in score[:, :-1].T
    )


def evaluate(score: np.ndarray, values: Sequence[np.ndarray], thresholds: Sequence[np.ndarray]) -> list[Mean]:
    """Evaluate every threshold vector of a grid.

    Args:
        score: float32 (N, exits).
        values: what leaving at each exit gives, each as `Limit.value`.
        thresholds: each exit's candidates, rising.
    """
    bins = [np.searchsorted(grid, score[:, k], side="right") for k, grid in enumerate(thresholds)]
    return _count(bins, [len(grid) for grid in thresholds], len(score), values)


class _Fine:
    """A problem on fine grids; candidates are indices into them."""

    def __init__(self, problem: Problem, grids: Sequence[np.ndarray]) -> None:
        self.problem, self.grids = problem, grids
        self.bins = [np.searchsorted(grid, problem.score[:, k], side="right") for k, grid in enumerate(grids)]
        self.values = [problem.goal, problem.second, *(limit.value for limit in problem.limits)]

    def best_of(self, candidates: Sequence[Sequence[int]]) -> Found:
        """Return the best vector of a grid."""
        bins = []
        for candidate, known, grid in zip(candidates, self.bins, self.grids, strict=True):
            lookup = np.searchsorted(candidate, np.arange(len(grid) + 1) - 1, side="right")
            bins.append(lookup[known])
        goal, second, *limits = _count(bins, [len(c) for c in candidates], len(self.problem.score), self.values)
        broken = np.zeros(goal.mean.shape)
        for limit, found in zip(self.problem.limits, limits, strict=True):
            over = found.mean + limit.margin * found.error - limit.most
            broken += np.maximum(0.0, over) / (np.ptp(limit.value) or 1.0)
        least = broken <= broken.min()
        least &= goal.mean <= goal.mean[least].min() + 1e-12 * np.abs(goal.mean).max()
        at = np.flatnonzero(least)[second.mean[least].argmin()]
        where = np.unravel_index(at, broken.shape)
        merit = float(broken.flat[at]), float(goal.mean.flat[at]), float(second.mean.flat[at])
        return merit, tuple(int(c[i]) for c, i in zip(candidates, where, strict=True))

    def descend(self) -> Iterator[tuple[int, ...]]:
        """Give a vector for each price of the limits, found by improving one threshold at a time."""
        problem, never = self.problem, [len(grid) - 1 for grid in self.grids]
        goal = _scaled(problem.goal, len(problem.score))
        limited = sum((_scaled(limit.value, len(goal)) for limit in problem.limits), np.zeros(1))
        where = list(never)
        sure = np.zeros((len(goal), len(where)), bool)
        yield tuple(never)
        yield tuple(0 for _ in where)
        for price in PRICES[::-1]:
            value = goal + price * limited
            before: list[int] | None = None
            while where != before:
                before = list(where)
                for k in range(len(where)):
                    where[k] = self._best_alone(k, where[k], sure, value)
                    sure[:, k] = self.bins[k] > where[k]
            yield tuple(where)

    def _best_alone(self, k: int, known: int, sure: np.ndarray, value: np.ndarray) -> int:
        """Return the best index of one exit's threshold where the others stay."""
        sure[:, k] = False
        first = np.where(sure.any(axis=1), sure.argmax(axis=1), value.shape[1] - 1)
        reach = np.flatnonzero(first > k)
        gain = value[reach, k] - value[reach, first[reach]]
        sums = np.bincount(self.bins[k][reach], gain, minlength=len(self.grids[k]) + 1)
        total = np.cumsum(sums[::-1])[::-1][1:]  # with threshold i those leave whose bin is above i
        best = int(total.argmin())
        return best if total[best] < total[known] - 1e-12 else known

    def zoom(self, best: Found, step: int) -> Found:
        """Look around a vector in boxes, a few exits at a time, that shrink when nothing better is in them."""
        rank = len(self.grids)
        rng = np.random.default_rng(0)
        while True:
            before = best
            for _ in range(1 if rank <= GROUP else 3):
                for group in np.array_split(rng.permutation(rank), -(-rank // GROUP)):
                    half = (int(BOX ** (1 / len(group))) - 1) // 2
                    candidates = [[i] for i in best[1]]
                    for k in group:
                        around = best[1][k] + step * np.arange(-half, half + 1)
                        candidates[k] = np.unique(around.clip(0, len(self.grids[k]) - 1)).tolist()
                    best = min(best, self.best_of(candidates), key=lambda found: found[0])
            if best[0] == before[0]:
                if step == 1:
                    return best
                step = max(1, step // 4)


def _scaled(value: np.ndarray, n: int) -> np.ndarray:
    """Return a value for each sample and exit, float64 (N, exits), in units of its range."""
    return np.broadcast_to(value / (np.ptp(value) or 1.0), (n, value.shape[-1]))


def _count(bins: Sequence[np.ndarray], sizes: Sequence[int], n: int, values: Sequence[np.ndarray]) -> list[Mean]:
    """Return the means of some values, each as `Limit.value`, for every choice of thresholds."""
    rank = len(sizes)
    sums = {id(value): (np.zeros(sizes), np.zeros(sizes)) for value in values}
    kept = {id(value): value for value in values}
    for key, value in kept.items():
        if value.ndim == 2:  # everyone runs to the last exit, less whoever leaves before
            sums[key][0][...], sums[key][1][...] = (value[:, -1] > 0).sum(), (value[:, -1] < 0).sum()
    early = np.zeros(sizes)
    rows, index = np.arange(n), np.zeros(n, np.int64)
    for k in range(rank):
        bin_ = bins[k][rows]
        joint = index * (sizes[k] + 1) + bin_
        wide = (slice(None),) * (k + 1) + (None,) * (rank - k - 1)
        leaving = _count_leaving(joint, sizes[: k + 1])[wide]
        early += leaving
        for key, value in kept.items():
            first, second = sums[key]
            if value.ndim == 1:
                first += (value[k] - value[-1]) * leaving
                second += (value[k] - value[-1]) ** 2 * leaving
            else:
                here, last = value[rows, k], value[rows, -1]
                for sum_, sign in ((first, 1), (second, -1)):
                    for which, factor in ((here * sign > 0, 1), (last * sign > 0, -1)):
                        if which.any():
                            sum_ += factor * _count_leaving(joint[which], sizes[: k + 1])[wide]
        if sizes[k] == 1:  # whoever leaves at a threshold that is fixed is seen no more
            stay = bin_ == 0
            rows, index = rows[stay], index[stay]
        else:
            index = joint
    found = {}
    for key, value in kept.items():
        first, second = sums[key]
        if value.ndim == 1:  # counted from the last exit's, which loses no precision to a large common part
            saved = first / n
            found[key] = Mean(np.asarray(value[-1] + saved), np.sqrt(np.maximum(second / n - saved**2, 0) / n))
        else:  # where all leave at an exit that is the yardstick itself there is no difference, and no error in it
            sure = (early == 0) & (not value[:, -1].any())
            found[key] = Mean(np.asarray((first - second) / n), np.where(sure, 0.0, paired_error(first, second, n)))
    return [found[id(value)] for value in values]


def _count_leaving(index: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Count, for every choice of thresholds, the samples below all but the last and at or above the last of them.

    `index` holds the joint bins, without those of earlier exits that have one threshold only.
    """
    shape = [size + 1 if size > 1 else 1 for size in sizes[:-1]]
    counts = np.bincount(index, minlength=int(np.prod(shape)) * (sizes[-1] + 1)).reshape(*shape, sizes[-1] + 1)
    for axis, size in enumerate(sizes[:-1]):
        if size > 1:
            counts = np.cumsum(counts, axis=axis).take(np.arange(size), axis=axis)
    return np.asarray(counts.sum(axis=-1, keepdims=True) - np.cumsum(counts, axis=-1))[..., : sizes[-1]]
