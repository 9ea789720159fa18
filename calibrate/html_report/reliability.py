"""How far an exit's score can be trusted: how often the exit is right among samples of about the same score."""

import numpy as np
from msgspec import Struct

from ..correctness import measure_mean

SCORE_BINS = 15
"""Bins of equal width between score 0 and 1, as many as Guo et al. take."""


class Bin(Struct, frozen=True):
    """Samples with scores in one bin: their number, mean score, share of right labels (or 1 less the mean loss), its interval."""

    samples: int
    score: float
    accuracy: float
    interval: tuple[float, float]


class Reliability(Struct, frozen=True, kw_only=True):
    """Scores of one exit beside its right answers, over all samples, also those that would not leave there.

    Attributes:
        exit: number of the exit.
        accuracy: share of all samples that the exit labels right; of other answers 1 less the mean loss.
        score: mean over all samples.
        ece: expected calibration error: the mean distance between score and accuracy over the bins, weighted by their samples.
        bins: `SCORE_BINS` bins from score 0 to 1; None for a bin without samples.
    """

    exit: int
    accuracy: float
    score: float
    ece: float
    bins: tuple[Bin | None, ...]


def find_reliability(exit_: int, score: np.ndarray, right: np.ndarray) -> Reliability:
    """Return the reliability of one exit.

    The expected calibration error is the one of Naeini, Cooper and Hauskrecht (AAAI 2015), as Guo et al. (arXiv 1706.04599)
    compute it.

    Args:
        exit_: number of the exit.
        score: float (N,), 0 to 1.
        right: bool (N,), whether the exit's label is right; or 1 less the loss of its answer, float (N,).
    """
    index = np.minimum((score * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    bins = tuple(_fill_bin(score[index == i], right[index == i]) for i in range(SCORE_BINS))
    return Reliability(
        exit=exit_,
        accuracy=float(right.mean()),
        score=float(score.mean(dtype=np.float64)),
        ece=sum(bin_.samples * abs(bin_.score - bin_.accuracy) for bin_ in bins if bin_ is not None) / len(score),
        bins=bins,
    )


def _fill_bin(score: np.ndarray, right: np.ndarray) -> Bin | None:
    if not len(score):
        return None
    mean = measure_mean(right)
    interval = max(0.0, mean.low), min(1.0, mean.high)
    return Bin(len(score), float(score.mean(dtype=np.float64)), mean.value, interval)
