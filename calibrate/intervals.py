"""Confidence intervals for shares and accuracy drops measured on finitely many samples."""

import math

import numpy as np

Z95 = 1.959964
"""Standard errors on each side of a 95 % interval."""

__all__ = [
    "Z95",
    "drop_interval",
    "mean_drop",
    "mean_error",
    "noninferiority_z",
    "paired_drop",
    "paired_error",
    "ratio_error",
    "share_interval",
]


def share_interval(count: int, n: int) -> tuple[float, float]:
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


def paired_drop(
    right: np.ndarray, right_full: np.ndarray, *, independent: float = 1.0
) -> tuple[float, tuple[float, float]]:
    """Return the accuracy drop and its 95 % interval (`drop_interval`).

    Args:
        right: bool (N,), with early exit.
        right_full: bool (N,), of the same samples at the last exit.
        independent: the share of the samples that count as independent.
    """
    n = len(right)
    lost, won = (right_full & ~right).sum() / n, (right & ~right_full).sum() / n
    return float(lost - won), drop_interval(float(lost), float(won), n * independent)


def mean_drop(
    right: np.ndarray, right_full: np.ndarray, *, independent: float = 1.0
) -> tuple[float, tuple[float, float]]:
    """Return the mean loss that is added, and its 95 % interval: the mean is taken to be normal.

    Args:
        right: 1 less the loss with early exit, float64 (N,).
        right_full: the same at the last exit.
        independent: the share of the samples that count as independent.
    """
    lost = right_full - right
    drop, half = float(lost.mean()), Z95 * float(lost.std()) / math.sqrt(len(lost) * independent)
    return drop, (max(-1.0, drop - half), min(1.0, drop + half))


def drop_interval(lost: float, won: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy drop: all drops whose score statistic is within 1.96 (see `noninferiority_z`).

    Args:
        lost: the share of samples that are wrong early and right at the last exit.
        won: the share that is right early and wrong at the last exit.
        n: how many independent samples there are.
    """
    return -_largest_drop(won * n, lost * n, n), _largest_drop(lost * n, won * n, n)


def _largest_drop(lost: float, won: float, n: float) -> float:
    """Return the largest drop whose score statistic is at least -1.96."""
    low, high = (lost - won) / n, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if _score(lost, won, n, middle) >= -Z95 else (low, middle)
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
