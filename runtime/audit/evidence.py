"""What counts prove at any time: e-values, for products that look whenever they like and for as long as they live.

An e-value is money that was won in a fair bet against a hypothesis. If the hypothesis is true, money that began as 1 ever grows
to 1 / chance with at most that chance (Ville, 1939), however often it is looked at. Each function here is a mixture of such bets.
It depends on counts alone, so counts of several devices are added.

`doubt` bets that disagreement is above what was promised: (p/p0)^k ((1-p)/(1-p0))^(n-k) for some p above p0. The mean of one
factor is at most 1 as long as a call disagrees with a chance of at most p0, whatever the calls before were. `trust` bets that it
is below a limit. Values between 0 and 1 may stand for k: a^x b^(1-x) is at most x a + (1-x) b.
"""

import math
from collections.abc import Iterable, Sequence

__all__ = ["doubt", "renewed_limit", "share_bound_of", "shares_doubt", "trust"]

RISES = ((1.15, 0.02), (1.55, 0.34), (2.6, 0.26), (5.5, 0.38))
"""`doubt` bets that the odds of a disagreement are so many times those promised, with so much of the money."""

BELOW = (0.0, 0.2, 0.4, 0.6, 0.75, 0.87, 0.94, 0.975)
"""`trust` bets that disagreement is so many times the limit, with the same money on each."""

LEAST_SHARE, MOST_SHARE = 1e-6, 1 - 1e-6
"""A share nearer to 0 or 1 is taken for one of these."""

PRIOR = 0.5
"""Of the Dirichlet mixture: it loses least where nothing is known of the shares (Krichevsky and Trofimov, 1981)."""


def doubt(disagreeing: float, audited: int, promised: float) -> float:
    """Return the logarithm of the e-value against "at most the promised share disagrees".

    Args:
        disagreeing: how many disagreed, or the sum of their disagreements.
        audited: of how many.
        promised: the share.
    """
    share = min(max(promised, LEAST_SHARE), MOST_SHARE)
    return _mix(
        math.log(part) + disagreeing * math.log(odds) - audited * math.log1p(share * (odds - 1)) for odds, part in RISES
    )


def trust(disagreeing: float, audited: int, limit: float) -> float:
    """Return the logarithm of the e-value against "at least `limit` disagrees". It rises with the limit, which is below 1."""
    rest, even = audited - disagreeing, math.log1p(-limit)
    factors = [factor for factor in BELOW if factor or not disagreeing]
    bets = (
        (disagreeing * math.log(factor) if factor else 0.0) + rest * (math.log1p(-limit * factor) - even)
        for factor in factors
    )
    return _mix(bets) - math.log(len(BELOW))


def _mix(logs: Iterable[float]) -> float:
    """Return the logarithm of a sum of numbers whose logarithms are given."""
    values = list(logs)
    most = max(values)
    return most + math.log(math.fsum(math.exp(value - most) for value in values))


def renewed_limit(disagreeing: float, audited: int, *, chance: float) -> float:
    """Return the least limit of disagreement that is proven; it is wrong, ever, with at most the chance. 1.0 if none is."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if trust(disagreeing, audited, middle) >= -math.log(chance) else (middle, high)
    return high if high < MOST_SHARE else 1.0


def shares_doubt(calibrated: Sequence[int], counts: Sequence[int]) -> float:
    """Return the logarithm of the e-value against "inputs leave at each exit as often as those of the calibration".

    Both samples have errors: the bet is that each has shares of its own, against the best common ones (universal inference:
    Wasserman, Ramdas and Balakrishnan, PNAS 117, 2020).

    Args:
        calibrated, counts: how many left at each exit.
    """
    both = [a + b for a, b in zip(calibrated, counts, strict=True)]
    common = math.fsum(count * math.log(count / sum(both)) for count in both if count)
    return _log_mixture(calibrated) + _log_mixture(counts) - common


def _log_mixture(counts: Sequence[int]) -> float:
    """Return the logarithm of the chance of a sequence with these counts, in the mean over all shares."""
    prior = PRIOR * len(counts)
    each = math.fsum(math.lgamma(count + PRIOR) - math.lgamma(PRIOR) for count in counts)
    return each + math.lgamma(prior) - math.lgamma(prior + sum(counts))


def share_bound_of(count: int, n: int, *, chance: float) -> float:
    """Return the upper bound of a share if `count` of n samples were counted (Clopper and Pearson, Biometrika 26, 1934)."""
    if count >= n:
        return 1.0
    log_ways = [0.0]
    for i in range(1, count + 1):
        log_ways.append(log_ways[-1] + math.log((n - i + 1) / i))
    low, high = count / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        odds = math.log(middle or 1e-300) - math.log1p(-middle)
        below = n * math.log1p(-middle) + _mix(ways + i * odds for i, ways in enumerate(log_ways))
        low, high = (middle, high) if below > math.log(chance) else (low, middle)
    return high
