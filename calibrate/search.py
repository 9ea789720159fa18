"""Find the best thresholds of a grid exactly, by counting every threshold vector at once.

Each exit's score is binned on its grid. For exit k, the joint histogram of the bins of exits 0 to k, summed up along every axis,
gives the samples that leave at k for every choice of the thresholds 0 to k: those below them at each earlier exit and not at k.
Adding the exits up gives accuracy drop and mean cost of every vector, as brute force would.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from ..errors import UsageError
from ..schema import NEVER, Target
from .statistics import paired_error

VALUES = 32
"""Grid values per exit for up to five exits."""

VECTORS = 2_000_000
"""With more exits the grid is made coarser, so that there are at most this many vectors: 18 values at 6 exits, 7 at 8."""

MARGIN = 1.28
"""How many standard errors the search stays away from a limit, so that other samples keep it too."""


class Grid(Struct, frozen=True):
    """What every threshold vector gives. Arrays have one axis per threshold, in the order of the exits.

    Attributes:
        thresholds: the grid of each exit, float32, rising from 0 to 2.0 (never).
        drop: accuracy drop against the last exit; `drop_error`: its standard error, see `statistics.paired_error`.
        cost: mean cost; `cost_error`: its standard error.
    """

    thresholds: tuple[np.ndarray, ...]
    drop: np.ndarray
    drop_error: np.ndarray
    cost: np.ndarray
    cost_error: np.ndarray


def threshold_grid(score: np.ndarray, *, values: int = VALUES) -> tuple[np.ndarray, ...]:
    """Choose each exit's candidate thresholds: 0, quantiles of the scores that were seen, and never.

    Args:
        score: float32 (N, exits); the last exit takes no threshold.
        values: how many at most per exit.

    Returns:
        A rising float32 array for each exit but the last.

    Raises:
        UsageError: there are so many exits that `VECTORS` leaves fewer than four values for each.
    """
    exits = score.shape[1]
    values = min(values, int(VECTORS ** (1 / (exits - 1))))
    if values < 4:
        raise UsageError(
            f"This version searches the thresholds of at most 11 exits; the network has {exits}. Export fewer."
        )
    share = np.linspace(0, 1, values - 1)[1:]
    return tuple(
        np.unique(np.concatenate([[0], np.quantile(score[:, k], share, method="higher"), [NEVER]]).astype(np.float32))
        for k in range(exits - 1)
    )


def evaluate_grid(
    score: np.ndarray, right: np.ndarray, costs: Sequence[float], thresholds: Sequence[np.ndarray]
) -> Grid:
    """Evaluate every threshold vector of a grid.

    Args:
        score: float32 (N, exits).
        right: bool (N, exits), whether each exit's label is right.
        costs: cost of leaving at each exit, (exits,).
        thresholds: each exit's candidates, rising, as `threshold_grid` gives them.
    """
    n, exits = score.shape
    bins = [np.searchsorted(grid, score[:, k], side="right") for k, grid in enumerate(thresholds)]
    sizes = [len(grid) for grid in thresholds]
    rank = len(sizes)
    lost, won, cost, square = (np.zeros(sizes) for _ in range(4))
    index = np.zeros(n, np.int64)
    last = right[:, -1]
    for k in range(exits - 1):
        index = index * (sizes[k] + 1) + bins[k]
        wide = (slice(None),) * (k + 1) + (None,) * (rank - k - 1)
        leaving = _count_leaving(index, sizes[: k + 1])[wide]
        lost += _count_leaving(index[last & ~right[:, k]], sizes[: k + 1])[wide]
        won += _count_leaving(index[~last & right[:, k]], sizes[: k + 1])[wide]
        cost += (costs[k] - costs[-1]) * leaving
        square += (costs[k] - costs[-1]) ** 2 * leaving
    # Costs are counted from the last exit's, which loses no precision to a large common part.
    saved = cost / n
    return Grid(
        thresholds=tuple(thresholds),
        drop=(lost - won) / n,
        drop_error=paired_error(lost, won, n),
        cost=costs[-1] + saved,
        cost_error=np.sqrt(np.maximum(square / n - saved**2, 0) / n),
    )


def choose(grid: Grid, target: Target) -> tuple[float, ...] | None:
    """Return the thresholds that are best for a target, keeping `MARGIN` standard errors from its limit.

    Equal vectors are told apart by the other of drop and cost. None when no vector keeps the limit.
    """
    if target.max_drop is not None:
        feasible = grid.drop + MARGIN * grid.drop_error <= target.max_drop
        feasible[(-1,) * feasible.ndim] = (
            True  # never leaving early is the last exit itself: no drop, and no error in it
        )
        first, second = grid.cost, grid.drop
    else:
        assert target.max_latency_s is not None
        feasible = grid.cost + MARGIN * grid.cost_error <= target.max_latency_s
        first, second = grid.drop, grid.cost
    if not feasible.any():
        return None
    best = feasible & (first <= first[feasible].min() + 1e-12)
    index = np.flatnonzero(best)[second[best].argmin()]
    where = np.unravel_index(index, grid.drop.shape)
    return tuple(float(values[i]) for values, i in zip(grid.thresholds, where, strict=True))


def exits_taken(score: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Return the exit at which each sample leaves: int64 (N,) from scores (N, exits)."""
    sure = score[:, :-1] >= np.asarray(thresholds, np.float32)
    return np.asarray(np.where(sure.any(axis=1), sure.argmax(axis=1), score.shape[1] - 1))


def _count_leaving(index: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Count, for every choice of thresholds, the samples below all but the last and at or above the last of them."""
    counts = np.bincount(index, minlength=int(np.prod([size + 1 for size in sizes])))
    counts = counts.reshape([size + 1 for size in sizes])
    for axis in range(len(sizes) - 1):
        counts = np.cumsum(counts, axis=axis).take(np.arange(sizes[axis]), axis=axis)
    return np.asarray(counts.sum(axis=-1, keepdims=True) - np.cumsum(counts, axis=-1))[..., : sizes[-1]]
