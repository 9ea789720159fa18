"""Candidates for thresholds, laid in a line from the safe end."""

import math
from collections.abc import Sequence

import numpy as np

from ...bundle import Target
from ...bundle.manifest import NEVER
from ...bundle.target import LOSS_LIMITS
from ..measure.tables import Table, exits_taken, mean_of
from ..search.objective import find_thresholds
from ..search.thresholds import MARGIN

STEPS = 240
"""Candidates along a path."""


REACH = 1e-3, 30.0
"""The first and the last factor on the odds of leaving early, where the vector that the path leads through has 1."""


def lay_path(score: np.ndarray, thresholds: Sequence[float], *, reach: tuple[float, float] = REACH) -> np.ndarray:
    """Lay a nested path through a vector: at every step, at each exit, the same or more of the samples are sure enough.

    Of the samples, the share u is sure enough at an exit with the given threshold; at a step with factor f the odds of that are f
    times as large. An exit that the vector never takes stays unused.

    Args:
        score: float32 (N, exits) of samples that do not certify.
        thresholds: the vector, one for each exit but the last.
        reach: the first and the last factor.

    Returns:
        Thresholds, float32 (STEPS, exits - 1), each column falling where the factors rise.
    """
    n = len(score)
    factors = np.geomspace(*reach, STEPS)
    path = np.full((STEPS, len(thresholds)), NEVER, np.float32)
    for k, threshold in enumerate(thresholds):
        column = np.sort(score[:, k])
        sure = min((column >= np.float32(threshold)).mean(), 1 - 1 / n)
        if sure > 0:
            share = factors * sure / (1 - sure + factors * sure)
            at = n - np.round(share * n).astype(int)
            path[:, k] = np.where(at < n, column[np.minimum(at, n - 1)], NEVER)
    return path


def lay_candidates(known: Table, thresholds: Sequence[float], target: Target, *, tested: int) -> np.ndarray:
    """Lay the candidates for a target through a vector, in the order in which they are tested.

    Under limits of accuracy alone they begin where almost nothing leaves early; under limits of cost alone where all leave at the
    first exit. Under both they begin where both are kept by as much as possible. They go on towards the goal.

    Args:
        known: of the samples that chose.
        thresholds: the vector.
        target: the target.
        tested: how many samples test the candidates.

    Returns:
        Thresholds, float32 (steps, exits - 1).
    """
    score, careful = known.score, [name in LOSS_LIMITS for name in target.limits]
    if target.goal != "accuracy" and all(careful):
        return lay_path(score, thresholds)
    if target.goal == "accuracy" and not any(careful):
        first: Sequence[float] = (0.0,) * len(thresholds)
        path = lay_path(score, thresholds, reach=REACH[::-1])
    else:
        first = _middle(known, thresholds, target, MARGIN * math.sqrt(len(known) / tested))
        path = lay_path(score, first, reach=(1.0, REACH[0] if target.goal == "accuracy" else REACH[1]))
    path = np.vstack([np.asarray(first, np.float32), path])
    if target.goal != "accuracy":
        return path
    wrong = [mean_of(known.wrong, exits_taken(score, step.tolist())) for step in path]
    return path[: int(np.argmin(wrong)) + 1]


def _middle(known: Table, thresholds: Sequence[float], target: Target, margin: float) -> Sequence[float]:
    """Return thresholds that keep all limits by as many standard errors as can be, up to twice the margin of a search."""
    for factor in (2.0, 1.75, 1.5, 1.25):
        if (found := find_thresholds(known, target, margin=factor * margin)) is not None:
            return found
    return thresholds
