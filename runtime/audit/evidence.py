"""What counts prove at any time: e-values, for products that look whenever they like and for as long as they live.

An e-value is money that was won in a fair bet against a hypothesis. If the hypothesis is true, money that began as 1 ever grows
to 1 / chance with at most that chance (Ville, 1939), however often it is looked at. Each function here is a mixture of such bets.
It depends on counts alone, so counts of several devices are added.

`doubt` bets that disagreement is above what was promised: (p/p0)^k ((1-p)/(1-p0))^(n-k) for some p above p0. The mean of one
factor is at most 1 as long as a call disagrees with a chance of at most p0, whatever the calls before were. `trust` bets that it
is below a limit. Values between 0 and 1 may stand for k: a^x b^(1-x) is at most x a + (1-x) b.
"""

import math
from typing import Any

import numpy as np

__all__ = ["doubt", "renewed_limit", "share_bound_of", "shares_doubt", "trust"]

ODDS = np.array([1.1, 1.5, 2.5, 5.0])
ODDS_PARTS = np.log([0.05, 0.3, 0.3, 0.35])
"""`doubt` bets that the odds of a disagreement are so many times those promised, with so much of the money."""

BELOW = np.array([0.0, 0.2, 0.4, 0.6, 0.75, 0.87, 0.94, 0.975])
"""`trust` bets that disagreement is so many times the limit, with the same money on each."""

LEAST_SHARE, MOST_SHARE = 1e-6, 1 - 1e-6
"""A share nearer to 0 or 1 is taken for one of these."""

PRIOR = 0.5
"""Of the Dirichlet mixture: it loses least where nothing is known of the shares (Krichevsky and Trofimov, 1981)."""

_log_gamma = np.frompyfunc(math.lgamma, 1, 1)


def doubt(disagreeing: Any, audited: Any, promised: float) -> Any:
    """Return the logarithm of the e-value against "at most the promised share disagrees".

    Args:
        disagreeing: how many disagreed, a number or an array; or the sum of their disagreements.
        audited: of how many.
        promised: the share.
    """
    share = min(max(promised, LEAST_SHARE), MOST_SHARE)
    k, rest = np.asarray(disagreeing, float)[..., None], np.asarray(audited - disagreeing, float)[..., None]
    fewer = -np.log1p(share * (ODDS - 1))  # log((1 - p) / (1 - p0))
    return np.logaddexp.reduce(ODDS_PARTS + k * (np.log(ODDS) + fewer) + rest * fewer, axis=-1)


def trust(disagreeing: Any, audited: Any, limit: Any) -> Any:
    """Return the logarithm of the e-value against "at least `limit` disagrees". It rises with the limit."""
    k, rest = np.asarray(disagreeing, float)[..., None], np.asarray(audited - disagreeing, float)[..., None]
    limit = np.asarray(limit, float)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        rarer = np.where(k > 0, k * np.log(BELOW), 0.0)
    more = np.log1p(-limit * BELOW) - np.log1p(-limit)
    return np.logaddexp.reduce(rarer + rest * more, axis=-1) - math.log(len(BELOW))


def renewed_limit(disagreeing: float, audited: int, *, chance: float) -> float:
    """Return the least limit of disagreement that is proven; it is wrong, ever, with at most the chance. 1.0 if none is."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if trust(disagreeing, audited, middle) >= -math.log(chance) else (middle, high)
    return high if high < MOST_SHARE else 1.0


def shares_doubt(calibrated: Any, counts: Any) -> Any:
    """Return the logarithm of the e-value against "inputs leave at each exit as often as those of the calibration".

    Both samples have errors: the bet is that each has shares of its own, against the best common ones (universal inference:
    Wasserman, Ramdas and Balakrishnan, PNAS 117, 2020).

    Args:
        calibrated, counts: how many left at each exit, (..., exits).
    """
    first, second = np.asarray(calibrated, float), np.asarray(counts, float)
    both = first + second
    with np.errstate(divide="ignore", invalid="ignore"):
        common = np.where(both > 0, both * np.log(both / both.sum(axis=-1, keepdims=True)), 0.0).sum(axis=-1)
    return _log_mixture(first) + _log_mixture(second) - common


def _log_mixture(counts: np.ndarray) -> Any:
    """Return the logarithm of the chance of a sequence with these counts, in the mean over all shares."""
    bins = counts.shape[-1]
    each = _log_gamma(counts + PRIOR).astype(float).sum(axis=-1) - bins * math.lgamma(PRIOR)
    total = np.asarray(_log_gamma(counts.sum(axis=-1) + bins * PRIOR), float)
    return each - total + math.lgamma(bins * PRIOR)


def share_bound_of(count: int, n: int, *, chance: float) -> float:
    """Return the upper bound of a share if `count` of n samples were counted (Clopper and Pearson, Biometrika 26, 1934)."""
    if count >= n:
        return 1.0
    i = np.arange(1, count + 1)
    log_ways = np.concatenate([[0.0], np.cumsum(np.log((n - i + 1) / i))])
    i = np.arange(count + 1)
    low, high = count / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        below = np.logaddexp.reduce(log_ways + i * math.log(middle or 1e-300) + (n - i) * math.log1p(-middle))
        low, high = (middle, high) if below > math.log(chance) else (low, middle)
    return high
