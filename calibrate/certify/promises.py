"""Promises that the reporting samples can prove."""

import math
from statistics import NormalDist

import numpy as np

from ...bundle import Target
from ...bundle.target import LOSS_LIMITS
from ...errors import require
from ...units import show_value
from ..measure.energy import LEAST_ENERGY_ROUNDS
from ..measure.tables import Costs, ExitTable, exits_taken, values_at
from ..search.objective import LimitValues, limit_values
from .exact_tests import certify_drop, certify_mean, certify_share, share_bound, thin

WORDS = {
    "min_accuracy": ("a share of wrong labels", True),
    "max_loss": ("a mean loss", True),
    "max_drop": ("an accuracy drop", True),
    "max_disagreement": ("a disagreement with the whole network", True),
    "max_latency_s": ("a mean latency", False),
    "max_late": ("a share of late inputs", True),
    "max_energy_j": ("a mean energy", False),
}
"""The quantity that each limit limits, in words, and True if it is a share."""

MACHINE_ERRORS = 2.0
"""A limited cost is taken to be so many standard errors of the machine's speed higher than measured."""

POWER_FREEDOM = LEAST_ENERGY_ROUNDS - 1
"""Degrees of freedom of a measured power."""

__all__ = ["MACHINE_ERRORS", "bound_cost", "certify_path", "count_needed", "delta_of_losses"]


def certify_path(table: ExitTable, target: Target, path: np.ndarray, *, delta: float) -> tuple[int | None, str]:
    """Find the last candidate of a path for which all limits of a target can be promised.

    Args:
        table: of samples that had no part in the path.
        target: the target.
        path: thresholds, float32 (steps, exits - 1), in the order in which they are tested.
        delta: the chance of a false promise.

    Returns:
        Its index and an empty text, or None and why nothing can be promised.
    """
    limits = limit_values(table, target)
    for name in ("max_drop", "max_disagreement"):
        if name in limits and limits[name].most <= 0 and not table.is_reference:
            return None, f"Nothing is promised: no number of samples shows that {_name_limited(name, target)} is 0."
    costly = [name for name in limits if name not in LOSS_LIMITS]
    delta = delta_of_losses(target, delta)
    for name in costly:  # if there are any, they have the other half of the chance of error
        bound = bound_cost(table.proof or table.costs, name, target, delta / len(costly))
        limits[name] = LimitValues(bound, limits[name].most)
    step, failed = None, ""
    for i, thresholds in enumerate(path):
        taken = exits_taken(table.score, thresholds.tolist())
        failed = next((name for name, limit in limits.items() if not _is_proven(table, name, limit, taken, delta)), "")
        if failed:
            break
        step = i
    if step is not None:
        return step, ""
    values, most = limits[failed]
    seen = values_at(values, exits_taken(table.score, path[0].tolist()))
    return None, _explain(seen, most, failed, target, delta, independent=table.independent)


def delta_of_losses(target: Target, delta: float) -> float:
    """Return the chance of error for which exit each sample takes: half of it, if the exits' costs are limited too."""
    return delta if set(target.limits) <= set(LOSS_LIMITS) else delta / 2


def bound_cost(costs: Costs, name: str, target: Target, delta: float) -> np.ndarray:
    """Return upper bounds of a cost by exit, float64 (exits,): they are all true together except with the chance `delta`.

    The bound of a late share is exact (Clopper and Pearson). The bound of a mean is Student's: it assumes that the mean of some
    hundred latencies is normal, and that of a power over rounds. Latencies are taken to be `MACHINE_ERRORS` standard errors of
    the machine's speed longer than measured, since timings that follow each other on a machine that drifts agree too well.

    Args:
        costs: of leaving at each exit.
        name: the limit's: `max_late`, `max_latency_s` or `max_energy_j`.
        target: holds the deadline.
        delta: the chance that any of the bounds is too low.
    """
    each, slower = delta / len(costs.times_s), 1 + MACHINE_ERRORS * costs.machine_noise
    if name == "max_late":
        late = [int((times * slower > (target.deadline_s or 0.0)).sum()) for times in costs.times_s]
        return np.array([share_bound(k, len(t), delta=each) for k, t in zip(late, costs.times_s, strict=True)])
    stdtrit = require("scipy.special", extra="calibrate").stdtrit
    each = each / 2 if name == "max_energy_j" else each  # the other half is for the power
    spread = [stdtrit(len(t) - 1, 1 - each) * t.std(ddof=1) / len(t) ** 0.5 for t in costs.times_s]
    upper_s: np.ndarray = slower * (costs.latency_s + np.array(spread))
    if name == "max_latency_s" or costs.power_w is None:
        return upper_s
    return np.asarray(costs.energy_at(upper_s) * (1 + stdtrit(POWER_FREEDOM, 1 - each) * costs.power_noise))


def _is_proven(table: ExitTable, name: str, limit: LimitValues, taken: np.ndarray, delta: float) -> bool:
    """Return True if the samples prove a limit; the reference needs no proof that it loses nothing against itself.

    Samples that depend on each other count for fewer: counts are scaled, costs are thinned, and rounded against the promise.
    """
    values, most = limit
    seen, share = values_at(values, taken), table.independent
    n = max(1, int(len(seen) * share))
    if table.is_reference and name in ("max_drop", "max_disagreement"):
        return True
    if values.ndim == 2 and values.dtype.kind == "f":
        least = -1.0 if name == "max_drop" else 0.0
        return most > 0 and certify_mean(thin(seen, n), most, least=least, most=1.0, delta=delta)
    if name == "max_drop":
        lost, won = math.ceil(int((seen > 0).sum()) * share - 1e-9), int(int((seen < 0).sum()) * share + 1e-9)
        return certify_drop(lost, won, n, eps=most, delta=delta)
    if values.ndim == 2:
        return certify_share(math.ceil(int(seen.sum()) * share - 1e-9), n, most, delta=delta)
    return certify_mean(thin(seen, n), most, least=float(values.min()), most=float(values.max()), delta=delta)


def _name_limited(name: str, target: Target) -> str:
    """Name the quantity that a limit of a target limits."""
    of_losses = {"min_accuracy": "a mean loss", "max_drop": "a mean loss added"} if target.counts == "losses" else {}
    return of_losses.get(name, WORDS[name][0])


def _explain(seen: np.ndarray, most: float, name: str, target: Target, delta: float, *, independent: float) -> str:
    """Say why even the first candidate of a path cannot be promised, and how many samples might prove it."""
    what = _name_limited(name, target)
    needed = count_needed(seen, most, name, delta, independent=independent)
    if needed is None:
        has = "has" if name in LOSS_LIMITS else "may have, as far as its measurement is uncertain,"
        mean = show_value(name, float(seen.mean()))
        return f"Nothing is promised: even the most cautious candidate {has} {what} of {mean} on these samples."
    n = len(seen)
    counted = str(n) if independent == 1 else f"{max(1, int(n * independent))} independent"
    return (
        f"Nothing is promised: {counted} samples cannot show at {1 - delta:.1%} confidence that {what} is at most "
        f"{show_value(name, most)}. About {needed} could."
    )


def count_needed(seen: np.ndarray, most: float, name: str, delta: float, *, independent: float = 1.0) -> int | None:
    """Return about how many samples might prove that a mean is at most `most`; None if it is not that small on these.

    Args:
        seen: each sample's value, (N,); as many are not enough.
        most: the limit.
        name: the limit's, as in a `Target`.
        delta: the chance of a false promise.
        independent: the share of the samples that count as independent.
    """
    n, mean, z = len(seen), float(seen.mean()), NormalDist().inv_cdf(1 - delta)
    if mean >= most:
        return None
    share = WORDS[name][1]
    # A test passes at about z standard errors; with as many again it passes in most draws.
    spread = max(float(seen.var()), (1.0 if share else float(np.ptp(seen))) / n)
    needed = max(math.log(1 / delta) * (1 - most) / most if share else 0.0, spread * (2 * z / (most - mean)) ** 2)
    return max(int(n * independent) + 1, math.ceil(needed / 100) * 100)
