"""How wrong the answers of each exit are."""

import numpy as np
from msgspec import Struct

from ..correctness import measure_mean

__all__ = ["PERCENTS", "ExitLosses", "describe_losses"]

PERCENTS = np.linspace(0, 100, 101)
"""The percentiles that describe a distribution of losses."""


class ExitLosses(Struct, frozen=True, kw_only=True):
    """Losses of one exit over all samples, also those that would not leave there.

    Attributes:
        exit: number of the exit.
        mean, interval: their mean, and its 95 % interval.
        percentiles: 101 of them, from the least loss to the largest.
        taken: how many samples leave there at the point's thresholds; None if no point exits early.
        taken_mean: the mean loss of those that do; None if none does.
    """

    exit: int
    mean: float
    interval: tuple[float, float]
    percentiles: tuple[float, ...]
    taken: int | None
    taken_mean: float | None


def describe_losses(losses: np.ndarray, taken: np.ndarray | None) -> tuple[ExitLosses, ...]:
    """Describe losses (N, exits) of samples that leave at the exits `taken`, int64 (N,), or None."""
    described = []
    for k, loss in enumerate(losses.T):
        mean, there = measure_mean(loss), loss[:0] if taken is None else loss[taken == k]
        described.append(
            ExitLosses(
                exit=k,
                mean=mean.value,
                interval=(max(0.0, mean.low), min(1.0, mean.high)),
                percentiles=tuple(np.percentile(loss, PERCENTS).tolist()),
                taken=None if taken is None else len(there),
                taken_mean=float(there.mean()) if len(there) else None,
            )
        )
    return tuple(described)
