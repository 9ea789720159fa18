"""Confidence intervals for shares and accuracy drops measured on finitely many samples."""

import math
from statistics import NormalDist

import numpy as np

from ..errors import require
from .parts import group_means

Z95 = 1.959964
"""Standard errors on each side of a 95 % interval."""

__all__ = [
    "Z95",
    "drop_interval",
    "mean_error",
    "mean_interval",
    "noninferiority_z",
    "paired_error",
    "ratio_error",
    "share_interval",
]


def share_interval(count: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a share if `count` of `n` samples were counted (Wilson, JASA 22, 1927)."""
    share, z2 = count / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_error(lost: np.ndarray, won: np.ndarray, n: int) -> np.ndarray:
    """Return the standard error of a paired accuracy drop.

    The adjusted estimate of Bonett and Price (Journal of Educational and Behavioral Statistics 37, 2012): one sample is added to
    each kind of disagreement, so that the error is not 0 if none was seen.

    Args:
        lost: how many samples are wrong early and right at the last exit; any shape.
        won: how many are right early and wrong at the last exit.
        n: how many samples there are.
    """
    return np.asarray(np.sqrt(((lost + won + 2) - (lost - won) ** 2 / (n + 2)) / (n + 2) ** 2))


def noninferiority_z(lost: np.ndarray, won: np.ndarray, n: float, eps: float) -> np.ndarray:
    """Return Tango's score statistic of paired non-inferiority (Statistics in Medicine 17, 1998); low values speak for it.

    Args:
        lost: how many samples are wrong early and right at the last exit; any shape.
        won: how many are right early and wrong at the last exit.
        n: how many samples there are.
        eps: the limit of the true accuracy drop, above 0.
    """
    a, b = np.asarray(lost, np.float64), np.asarray(won, np.float64)
    middle = -a - b + (2 * n - a + b) * eps
    last = -b * eps * (1 - eps)
    q = (np.sqrt(np.maximum(middle**2 - 8 * n * last, 0.0)) - middle) / (4 * n)
    return np.asarray((a - b - n * eps) / np.sqrt(n * (2 * q + eps * (1 - eps))))


def mean_interval(
    values: np.ndarray, groups: np.ndarray | None = None, *, independent: float = 1.0, chance: float = 0.05
) -> tuple[float, float]:
    """Return the interval of a mean of differences or shares.

    Of whole numbers it is `drop_interval`; the mean of others is taken as normal. Of groups, which may be few, it is Student's,
    and whole numbers count for as many independent samples as give the error that groups show (Korn and Graubard, Survey
    Methodology 24, 1998), so that it has a width where no group shows anything.

    Args:
        values: of each sample, (N,): whole numbers of -1, 0 and 1, or float64 from -1 to 1.
        groups: the number of each sample's group, int64 (N,): the mean is one over groups. None if each is one of its own.
        independent: the share of the samples, or groups, that counts as independent.
        chance: that the interval misses the mean.
    """
    n, z, error = len(values) * independent, Z95 if chance == 0.05 else NormalDist().inv_cdf(1 - chance / 2), 0.0
    lost, won, each = (
        part if groups is None else group_means(part, groups) for part in (values > 0, values < 0, values)
    )
    mean = float(each.mean())
    if groups is None:
        error = float(each.std()) / math.sqrt(n)
    elif (drawn := len(each) * independent) < 2:
        return -1.0, 1.0
    else:
        error = float(each.std(ddof=1)) / math.sqrt(drawn)
        z = float(require("scipy.special", extra="calibrate").stdtrit(drawn - 1, 1 - chance / 2))
    if values.dtype.kind == "f":
        return max(-1.0, mean - z * error), min(1.0, mean + z * error)
    lost_share, won_share = float(lost.mean()), float(won.mean())
    if groups is not None and error:
        n = min(n, (lost_share + won_share - mean**2) / error**2)
    return drop_interval(lost_share, won_share, n, z=z)


def drop_interval(lost: float, won: float, n: float, *, z: float = Z95) -> tuple[float, float]:
    """Return the interval of an accuracy drop: all drops whose score statistic is within z (see `noninferiority_z`).

    Args:
        lost: the share of samples that are wrong early and right at the last exit.
        won: the share that is right early and wrong at the last exit.
        n: how many independent samples there are.
        z: standard errors on each side, of a 95 % interval by default.
    """
    return -_largest_drop(won * n, lost * n, n, z), _largest_drop(lost * n, won * n, n, z)


def _largest_drop(lost: float, won: float, n: float, z: float) -> float:
    """Return the largest drop whose score statistic is at least -z."""
    low, high = (lost - won) / n, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if _score(lost, won, n, middle) >= -z else (low, middle)
    return low


def _score(lost: float, won: float, n: float, drop: float) -> float:
    """Return the score statistic of any drop: that of a drop below 0 is the one of the opposite gain."""
    if drop < 0:
        return -_score(won, lost, n, -drop)
    if drop == 0:
        return (lost - won) / math.sqrt(lost + won) if lost + won else 0.0
    return float(noninferiority_z(np.asarray(lost), np.asarray(won), n, drop))


def mean_error(values: np.ndarray, block: int) -> float:
    """Return the standard error of a mean of values that are alike within blocks, such as latencies measured in one turn.

    Args:
        values: float64 (N,), in the order of measurement.
        block: how many values follow each other in a block.
    """
    means = _block_means(values, block)
    return float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else 0.0


def ratio_error(values: np.ndarray, others: np.ndarray, block: int) -> float:
    """Return the standard error of the ratio of two means whose blocks were measured side by side (the delta method).

    Args:
        values, others: float64 (N,), in the order of measurement.
        block: how many values follow each other in a block.
    """
    ours, theirs = _block_means(values, block), _block_means(others, block)
    return mean_error(ours - ours.mean() / theirs.mean() * theirs, 1) / float(theirs.mean())


def _block_means(values: np.ndarray, block: int) -> np.ndarray:
    return np.array([values[i : i + block].mean() for i in range(0, len(values), block)])
