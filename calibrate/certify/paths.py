"""Candidate thresholds in the order in which they are tested: a path from the safe end through the best thresholds."""

import math
from collections.abc import Sequence

import numpy as np

from ...bundle import Target
from ...bundle.manifest import NEVER
from ...bundle.target import LOSS_LIMITS
from ..measure.tables import ExitTable, exits_taken, mean_at
from ..search.objective import find_thresholds
from ..search.thresholds import MARGIN

PATH_STEPS = 240
"""Candidates along a path."""

REACH = 1e-3, 30.0
"""The first and the last factor on the odds of leaving early; the vector that the path leads through has the factor 1. Where odds
are above 1 the least factor is as much smaller, so that every path has an end at which almost nothing leaves early."""

__all__ = ["lay_candidates", "lay_path"]


def lay_path(score: np.ndarray, thresholds: Sequence[float], *, reach: tuple[float, float] = REACH) -> np.ndarray:
    """Lay a nested path through a vector: as the factor rises, each exit's threshold falls or stays.

    If a share u of the samples reaches an exit's threshold in the vector, then at a step with factor f the odds u / (1 - u) are
    f times as large: with u = 0.5 and f = 3 three quarters reach it. An exit that the vector never takes stays unused.

    Args:
        score: float32 (N, exits) of samples that do not certify.
        thresholds: the vector, one for each exit but the last.
        reach: the first and the last factor.

    Returns:
        Thresholds, float32 (PATH_STEPS, exits - 1), each column falling where the factors rise.
    """
    n = len(score)
    reached = (score[:, :-1] >= np.asarray(thresholds, np.float32)).mean(axis=0).clip(max=1 - 1 / n)
    odds = reached / (1 - reached)
    first, last = (factor / float(odds.max(initial=1.0)) if factor < 1 else factor for factor in reach)
    factors = np.geomspace(first, last, PATH_STEPS)
    path = np.full((PATH_STEPS, len(thresholds)), NEVER, np.float32)
    for k in np.flatnonzero(odds):
        column = np.sort(score[:, k])
        share = factors * odds[k] / (1 + factors * odds[k])
        at = n - np.round(share * n).astype(int)
        path[:, k] = np.where(at < n, column[np.minimum(at, n - 1)], NEVER)
    return path


def lay_candidates(table: ExitTable, thresholds: Sequence[float], target: Target, *, tested: int) -> np.ndarray:
    """Lay the candidates for a target through a vector, in the order in which they are tested.

    Under limits of accuracy alone they begin where nothing leaves early; under limits of cost alone where all samples leave at
    the first exit; under both where the limits are met by the widest margin. From there they go towards the goal.

    Args:
        table: of the selecting samples.
        thresholds: the vector.
        target: the target.
        tested: how many samples test the candidates.

    Returns:
        Thresholds, float32 (steps, exits - 1).
    """
    score, is_careful = table.score, [name in LOSS_LIMITS for name in target.limits]
    if target.goal != "accuracy" and all(is_careful):
        return np.vstack([np.full((1, len(thresholds)), NEVER, np.float32), lay_path(score, thresholds)])
    if target.goal == "accuracy" and not any(is_careful):
        first: Sequence[float] = (0.0,) * len(thresholds)
        path = lay_path(score, thresholds, reach=REACH[::-1])
    else:
        margin = MARGIN * math.sqrt(len(table) / tested)
        first = _most_cautious_thresholds(table, thresholds, target, margin)
        path = lay_path(score, first, reach=(1.0, REACH[0] if target.goal == "accuracy" else REACH[1]))
    path = np.vstack([np.asarray(first, np.float32), path])
    if target.goal != "accuracy":
        return path
    wrong = [mean_at(table.wrong, exits_taken(score, step.tolist())) for step in path]
    return path[: int(np.argmin(wrong)) + 1]


def _most_cautious_thresholds(
    table: ExitTable, thresholds: Sequence[float], target: Target, margin: float
) -> Sequence[float]:
    """Return thresholds that meet all limits by as many standard errors as possible, up to twice the margin of a search."""
    for factor in (2.0, 1.75, 1.5, 1.25):
        if (cautious := find_thresholds(table, target, margin=factor * margin)) is not None:
            return cautious
    return thresholds
