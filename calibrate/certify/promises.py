"""What the samples that report can promise of limits."""

import math
from statistics import NormalDist

import numpy as np

from ...bundle import Target
from ...bundle.target import LOSS_LIMITS
from ...errors import require
from ...units import show_value
from ..measure.tables import Costs, Table, at_exits, exits_taken
from ..search.objective import limited
from .exact_tests import certify_drop, certify_mean, certify_share, share_bound

WORDS = {
    "min_accuracy": ("a share of wrong labels", True),
    "max_drop": ("an accuracy drop", True),
    "max_disagreement": ("a disagreement with the whole network", True),
    "max_latency_s": ("a mean latency", False),
    "max_late": ("a share of late inputs", True),
    "max_energy_j": ("a mean energy", False),
}
"""What each limit limits, in words, and whether that is a share."""


def certify(table: Table, target: Target, path: np.ndarray, *, delta: float) -> tuple[int | None, str]:
    """Find the last candidate of a path of which all of a target's limits can be promised.

    Args:
        table: of samples that had no part in the path.
        target: the target.
        path: thresholds, float32 (steps, exits - 1), in the order in which they are tested.
        delta: the chance of a false promise.

    Returns:
        Its index, or None and why nothing can be promised.
    """
    found = limited(table, target)
    for name in ("max_drop", "max_disagreement"):
        if found.get(name, (0, 1.0))[1] <= 0 and not table.is_whole:
            return None, f"Nothing is promised: no number of samples shows that {WORDS[name][0]} is 0."
    if costly := [name for name in found if name not in LOSS_LIMITS]:
        # One half of what may go wrong is for the exits' costs, the other for how often each is taken.
        delta /= 2
        for name in costly:
            found[name] = bound_cost(table.proof or table.costs, name, target, delta / len(costly)), found[name][1]
    step, failed = None, ""
    for i, thresholds in enumerate(path):
        taken = exits_taken(table.score, thresholds.tolist())
        failed = next((name for name, one in found.items() if not _holds(table, name, *one, taken, delta)), "")
        if failed:
            break
        step = i
    if step is not None:
        return step, ""
    value, most = found[failed]
    return None, _explain(at_exits(value, exits_taken(table.score, path[0].tolist())), most, failed, delta)


def bound_cost(costs: Costs, name: str, target: Target, delta: float) -> np.ndarray:
    """Return upper bounds of what a limit limits, float64 (exits,), all true together but for a chance of `delta`.

    The bound of a late share is exact (Clopper and Pearson). The bound of a mean is Student's: it takes the mean of some hundred
    latencies to be normal. Power is taken as it was measured.

    Args:
        costs: of leaving at each exit.
        name: of the limit: `max_late`, `max_latency_s` or `max_energy_j`.
        target: says the deadline.
        delta: the chance that any of the bounds is too low.
    """
    each = delta / len(costs.times_s)
    if name == "max_late":
        late = [int((times > (target.deadline_s or 0.0)).sum()) for times in costs.times_s]
        return np.array([share_bound(k, len(t), delta=each) for k, t in zip(late, costs.times_s, strict=True)])
    stdtrit = require("scipy.special", extra="calibrate").stdtrit
    spread = [stdtrit(len(t) - 1, 1 - each) * t.std(ddof=1) / len(t) ** 0.5 for t in costs.times_s]
    upper_s: np.ndarray = costs.latency_s + np.array(spread)
    return upper_s if costs.power_w is None or name == "max_latency_s" else np.asarray(costs.power_w * upper_s)


def _holds(table: Table, name: str, value: np.ndarray, most: float, taken: np.ndarray, delta: float) -> bool:
    seen = at_exits(value, taken)
    if name == "max_drop":
        if table.is_whole:
            return True
        return certify_drop(int((seen > 0).sum()), int((seen < 0).sum()), len(seen), eps=most, delta=delta)
    if name == "max_disagreement" and table.is_whole:
        return True
    if value.ndim == 2:
        return certify_share(int(seen.sum()), len(seen), most, delta=delta)
    return certify_mean(seen, most, least=float(value.min()), most=float(value.max()), delta=delta)


def _explain(seen: np.ndarray, most: float, name: str, delta: float) -> str:
    """Say why even the first candidate of a path cannot be promised, and how many samples could."""
    n, mean, z = len(seen), float(seen.mean()), NormalDist().inv_cdf(1 - delta)
    what, share = WORDS[name]
    if mean >= most:
        return f"Nothing is promised: even the most cautious candidate has {what} of {show_value(name, mean)} on these samples."
    # A test passes at about z standard errors; with as many again it passes in most draws.
    spread = max(float(seen.var()), (1.0 if share else float(np.ptp(seen))) / n)
    needed = max(math.log(1 / delta) * (1 - most) / most if share else 0.0, spread * (2 * z / (most - mean)) ** 2)
    return (
        f"Nothing is promised: {n} samples cannot show at {1 - delta:.1%} confidence that {what} is at most "
        f"{show_value(name, most)}. About {max(n + 1, math.ceil(needed / 100) * 100)} could."
    )
