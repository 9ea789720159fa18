"""Exact tests for promises about inputs that were not measured, along a path that was laid with other data.

    path        never leave early  ------------------------------------------>  leave ever earlier
    tests       pass   pass   pass   pass   FAIL                                stop: the last that passed is certified

The candidates are fixed before the certifying samples are looked at, and tested in order until the first failure. A false promise
then has at most the chance `delta` for any data (fixed-sequence testing: Maurer, Hothorn and Lehmacher, 1995). Several
limits are promised together where each of them passes at `delta` (intersection-union test: Berger, Technometrics 24, 1982).
"""

import math
from functools import lru_cache

import numpy as np

from ...errors import require
from ..intervals import noninferiority_z

NUISANCE_POINTS = 8000
"""Points at which the nuisance parameter is tried. With 400 the worst is missed: a test of size 0.1 had 0.1002."""

COARSE_NUISANCE_POINTS = NUISANCE_POINTS // 25
"""Points at which it is tried while the critical value is still bracketed."""

MOST_BET, BETS = 0.9, 256
"""The largest bet, as a share of the money that may be lost; and how often the bet is chosen anew."""

__all__ = ["certify_drop", "certify_mean", "certify_share", "critical_z", "share_bound", "size_of", "thin"]


@lru_cache(maxsize=1024)  # one for each class of a promise by class
def critical_z(n: int, eps: float, delta: float) -> float:
    """Return the critical value of the exact unconditional test: certify if the statistic is at most this.

    The share of samples won is a nuisance parameter, which is maximised out: for every such share, the chance of certifying at a
    true drop of `eps` is at most `delta` (Lloyd, Australian and New Zealand Journal of Statistics 50, 2008). A share at which a
    value certifies seldom enough is not tried with smaller values, which certify less. It takes a second for a thousand samples.

    Args:
        n: how many samples, 1 or more.
        eps: the accuracy drop, in (0, 1).
        delta: the chance of a false promise, in (0, 0.5).
    """
    few = _nuisances(COARSE_NUISANCE_POINTS, eps)
    low, high = -12.0, 0.0
    while high - low > 2e-4:
        middle = (low + high) / 2
        above = few[size_of(middle, n, eps, few) > delta]
        low, high, few = (low, middle, above) if len(above) else (middle, high, few)
    every = _nuisances(NUISANCE_POINTS, eps)
    while len(every := every[size_of(low, n, eps, every) > delta]):
        low -= 5e-4
    return low


def size_of(z: float, n: int, eps: float, shares_won: np.ndarray) -> np.ndarray:
    """Return the chance of a statistic of at most z at a true drop of `eps`, for each share of samples won.

    Lost and won samples are trinomial: P = sum over b of Bin(b; n, q) times BinCDF(a_max(b); n - b, (q + eps) / (1 - q)).
    """
    special = require("scipy.special", extra="calibrate")
    won = np.arange(n + 1)
    most = _most_lost(z, n, eps, won)
    log_ways = special.gammaln(n + 1) - special.gammaln(won + 1) - special.gammaln(n - won + 1)
    sizes = np.empty(len(shares_won))
    for i, q in enumerate(shares_won.tolist()):
        spread = 8 * math.sqrt(n * q * (1 - q)) + 12  # outside, less than 1e-14 is left
        part = slice(max(0, int(n * q - spread)), min(n, int(n * q + spread)) + 1)
        b, a = won[part], most[part]
        with np.errstate(divide="ignore", invalid="ignore"):
            log_q = np.where(b > 0, b * np.log(q), 0.0) if q else np.where(b > 0, -np.inf, 0.0)
        chance = np.exp(log_ways[part] + log_q + (n - b) * math.log1p(-q))
        below = np.where(a >= n - b, 1.0, special.bdtr(np.maximum(a, 0), n - b, min(1.0, (q + eps) / (1 - q))))
        sizes[i] = chance @ np.where(a < 0, 0.0, below)
    return sizes


def certify_drop(lost: int, won: int, n: int, *, eps: float, delta: float) -> bool:
    """Return True if the true accuracy drop is at most `eps`; the chance that this is false is at most `delta`.

    Args:
        lost, won, n, eps: as for `intervals.noninferiority_z`.
        delta: as for `critical_z`.
    """
    if eps <= 0:
        return lost == won == 0  # only a network that never leaves early promises that
    if lost >= won and (1 - eps) ** n > delta:
        return (
            False  # so few samples do not prove it though none is lost: a limit that is just broken shows none so often
        )
    return bool(noninferiority_z(np.asarray(lost), np.asarray(won), n, eps) <= critical_z(n, eps, delta))


def share_bound(count: int, n: int, *, delta: float) -> float:
    """Return the upper bound of a share if `count` of n samples were counted (Clopper and Pearson, Biometrika 26, 1934)."""
    special = require("scipy.special", extra="calibrate")
    return 1.0 if count >= n else float(special.betaincinv(count + 1, n - count, 1 - delta))


def certify_share(count: int, n: int, limit: float, *, delta: float) -> bool:
    """Return True if the true share is at most a limit; the chance that this is false is at most `delta`."""
    return share_bound(count, n, delta=delta) <= limit


def certify_mean(values: np.ndarray, limit: float, *, least: float, most: float, delta: float) -> bool:
    """Return True if the true mean is below a limit; the chance that this is false is at most `delta`.

    The test bets against the mean (Waudby-Smith and Ramdas, Journal of the Royal Statistical Society B 86, 2024). Each bet is the
    one that would just win what is still needed by the samples that are left (STaR-Bets, arXiv 2505.22422).

    Args:
        values: float64 (N,) in an order that does not depend on them.
        limit: the limit.
        least, most: bounds of all values, measured or not.
        delta: the chance of a false promise.
    """
    if limit >= most:
        return True
    if limit <= least:
        return False
    x, m = (np.asarray(values, np.float64) - least) / (most - least), (limit - least) / (most - least)
    n, needed, money = len(x), math.log(1 / delta), 0.0
    step = -(-n // BETS)
    past, squares = np.cumsum(x), np.cumsum(x**2)
    for first in range(0, n, step):
        variance = 0.25
        if first:  # of the samples so far, and one of the largest variance with the mean of the limit
            mean = (m + past[first - 1]) / (first + 1)
            spread = squares[first - 1] - 2 * mean * past[first - 1] + first * mean**2
            variance = max((0.25 + spread) / (first + 1), 1e-12)
        bet = min(math.sqrt(2 * (needed - money) / ((n - first) * variance)), MOST_BET / (1 - m))
        won = money + np.cumsum(np.log1p(bet * (m - x[first : first + step])))
        if won.max() >= needed:
            return True
        money = float(won[-1])
    return False


def thin(values: np.ndarray, n: int) -> np.ndarray:
    """Return n values that are spread as all are, in the order in which they stand: as many as dependent samples count for.

    All of them are sorted and parted evenly, and the highest of each part is taken: the mean is no lower than that of all. A part
    of the samples drawn at random would be as dependent among itself, and have a mean of its own.

    Args:
        values: float64 (N,).
        n: from 1 to N.
    """
    falling = np.argsort(-values, kind="stable")
    return np.asarray(values[np.sort(falling[np.arange(n) * len(values) // n])])


def _most_lost(z: float, n: int, eps: float, won: np.ndarray) -> np.ndarray:
    """Return for each count of samples won how many may be lost for a statistic of at most z; -1 if even 0 is too many."""
    low, high = np.full(len(won), -1), n - won + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        good = noninferiority_z(middle, won, n, eps) <= z
        low, high = np.where(good & (middle > low), middle, low), np.where(good, high, middle)
    return low


def _nuisances(count: int, eps: float) -> np.ndarray:
    """Return shares of samples won, denser towards 0, because networks win few."""
    share: np.ndarray = np.linspace(0, 1, count) ** 2 * (1 - eps) / 2
    return share
