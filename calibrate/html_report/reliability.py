"""How far an exit's score can be trusted: how often it is right among the samples to which it gives a score."""

import numpy as np
from msgspec import Struct

from ..intervals import share_interval

BINS = 15
"""Bins of equal width, as Guo et al. take them."""


class Bin(Struct, frozen=True):
    """Samples with scores in one bin: how many, their mean score, the share that is labelled right and its 95 % interval."""

    samples: int
    score: float
    accuracy: float
    interval: tuple[float, float]


class Reliability(Struct, frozen=True, kw_only=True):
    """What the score of one exit is worth, over all samples, whether they would leave there or not.

    Attributes:
        exit: which one.
        accuracy: share of all samples that it labels right.
        score: mean over all samples.
        ece: expected calibration error, the mean distance of score and accuracy over the bins, each weighted by its samples.
        bins: from score 0 to 1, `BINS` of equal width; None where there is no sample.
    """

    exit: int
    accuracy: float
    score: float
    ece: float
    bins: tuple[Bin | None, ...]


def find_reliability(exit_: int, score: np.ndarray, right: np.ndarray) -> Reliability:
    """Return the reliability of one exit.

    The error is that of Naeini, Cooper and Hauskrecht (AAAI 2015), as Guo et al. (arXiv 1706.04599) compute it.

    Args:
        exit_: which one.
        score: float (N,), 0 to 1.
        right: bool (N,), whether the exit's label is right.
    """
    at = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    bins = tuple(_describe(score[at == i], right[at == i]) for i in range(BINS))
    return Reliability(
        exit=exit_,
        accuracy=float(right.mean()),
        score=float(score.mean(dtype=np.float64)),
        ece=sum(one.samples * abs(one.score - one.accuracy) for one in bins if one is not None) / len(score),
        bins=bins,
    )


def _describe(score: np.ndarray, right: np.ndarray) -> Bin | None:
    if not len(score):
        return None
    interval = share_interval(int(right.sum()), len(right))
    return Bin(len(score), float(score.mean(dtype=np.float64)), float(right.mean()), interval)
