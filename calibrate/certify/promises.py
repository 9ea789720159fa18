"""Promises that the reporting samples can prove."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from ...bundle import Target
from ...bundle.target import LOSS_LIMITS
from ...errors import require
from ...units import show_confidence, show_value
from ..measure.energy import LEAST_ENERGY_ROUNDS
from ..measure.tables import Costs, ExitTable, exits_taken, values_at
from ..search.objective import LimitValues, limit_values
from .exact_tests import MOST_BET, certify_drop, certify_mean, certify_share, share_bound, thin

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

MOST_LISTED = 5
"""So many classes or groups are named that have too few samples."""

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
    if lacking := table.lacking(target.by):
        more = f" and {len(lacking) - MOST_LISTED} more" if len(lacking) > MOST_LISTED else ""
        return None, (
            f"Nothing is promised: of {target.by} {', '.join(lacking[:MOST_LISTED])}{more} no sample is there to test. Give more "
            "samples of each, or others that choose (--outside)."
        )
    delta = delta_of_losses(target, delta)
    claims = []
    for name in costly:  # if there are any, they have the other half of the chance of error
        bound = bound_cost(table.proof or table.costs, name, target, delta / len(costly))
        claims.append(_Claim(name, "", table, LimitValues(bound, limits[name].most)))
    for part in table.each_part(target.by):
        for name in limits:
            if name in LOSS_LIMITS:
                values, most = limits[name]
                claims.append(_Claim(name, part.name, part.table, LimitValues(values[part.rows], most)))
    step = None
    for i, thresholds in enumerate(path):
        if not all(claim.is_proven(thresholds, delta) for claim in claims):
            break
        step = i
    if step is not None:
        return step, ""
    failed = [claim for claim in claims if not claim.is_proven(path[0], delta)]
    return None, _explain(failed, path[0], target, delta, parts=len({claim.part for claim in claims if claim.part}))


class _Claim(NamedTuple):
    """One limit that shall be proven: over all samples, or in one of the parts that a target names.

    All claims of a target are promised together where each is proven at `delta`: that some are false and all are proven has at
    most the chance that one false claim is proven (an intersection-union test). So the number of parts costs nothing but samples.
    """

    name: str
    part: str
    table: ExitTable
    limit: LimitValues

    def seen(self, thresholds: np.ndarray) -> np.ndarray:
        """Return what is seen at some thresholds: a value for each sample, or the mean of each group."""
        taken = exits_taken(self.table.score, thresholds.tolist())
        return self.table.per_draw(values_at(self.limit.values, taken))

    @property
    def drawn(self) -> int:
        """For how many independent samples, or groups, those of the table count."""
        return max(1, int(self.table.draws * self.table.independent))

    def count_needed(self, thresholds: np.ndarray, delta: float) -> int | None:
        """Return about how many samples or groups might prove the limit; see `count_needed`."""
        return count_needed(
            self.seen(thresholds),
            self.limit.most,
            self.name,
            delta,
            independent=self.table.independent,
            are_groups=self.table.groups is not None,
        )

    def is_proven(self, thresholds: np.ndarray, delta: float) -> bool:
        """Return True if the samples prove the limit at some thresholds."""
        return _is_proven(self.table, self.name, self.limit, self.seen(thresholds), delta)


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


def _is_proven(table: ExitTable, name: str, limit: LimitValues, seen: np.ndarray, delta: float) -> bool:
    """Return True if the samples prove a limit; the reference needs no proof that it loses nothing against itself.

    Groups are drawn independently, and the mean of each is one bounded value that is bet on. Samples, or groups, that depend on
    each other count for fewer: counts are scaled, means are thinned, and rounded against the promise.
    """
    values, most = limit
    share = table.independent
    n = max(1, int(len(seen) * share))
    if table.is_reference and name in ("max_drop", "max_disagreement"):
        return True
    if name in LOSS_LIMITS and seen.dtype.kind == "f":
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


def _explain(failed: Sequence[_Claim], first: np.ndarray, target: Target, delta: float, *, parts: int) -> str:
    """Say why even the first candidate of a path cannot be promised, and how many samples or groups might prove it.

    Args:
        failed: the claims that are not proven at the first candidate.
        first: its thresholds.
        target: the target.
        delta: the chance of a false promise.
        parts: in how many parts the target's limits must hold; 0 if they hold over all samples.
    """
    needs = [claim.count_needed(first, delta) for claim in failed]
    claim, needed = next(((c, n) for c, n in zip(failed, needs, strict=True) if n is None), (failed[0], needs[0]))
    seen, name, most = claim.seen(first), claim.name, show_value(claim.name, claim.limit.most)
    what = _name_limited(name, target)
    unit, sure = "samples" if claim.table.groups is None else "groups", show_confidence(delta)
    where = f" in {target.by} {claim.part}" if claim.part else ""
    if needed is None:
        has = "has" if name in LOSS_LIMITS else "may have, as far as its measurement is uncertain,"
        mean = show_value(name, float(seen.mean()))
        return f"Nothing is promised: even the most cautious candidate {has} {what} of {mean} on these samples{where}."
    if claim.part:
        counts = [(c.part, c.drawn, n) for c, n in zip(failed, needs, strict=True) if n is not None]
        listed = [f"{part} ({count}; about {n} could)" for part, count, n in counts[:MOST_LISTED]]
        more = f" and {len(counts) - MOST_LISTED} more" if len(counts) > MOST_LISTED else ""
        return (
            f"Nothing is promised: for {len({part for part, _, _ in counts})} of the {parts} "
            f"{'classes' if target.by == 'class' else 'groups'} too few {unit} are there to show at {sure} confidence that "
            f"{what} is at most {most} in each: {', '.join(listed)}{more}."
        )
    counted = str(len(seen)) if claim.table.independent == 1 else f"{claim.drawn} independent"
    shown = f"{sure} confidence that {what} is at most {most}. About {needed} could."
    if claim.table.groups is not None:
        return f"Nothing is promised: {counted} groups cannot show at {shown}"
    return f"Nothing is promised: {counted} samples cannot show at {shown}"


def count_needed(
    seen: np.ndarray, most: float, name: str, delta: float, *, independent: float = 1.0, are_groups: bool = False
) -> int | None:
    """Return about how many samples, or groups, might prove that a mean is at most `most`; None if it is not that small on these.

    Args:
        seen: each sample's value, or each group's mean, (N,); as many are not enough.
        most: the limit.
        name: the limit's, as in a `Target`.
        delta: the chance of a false promise.
        independent: the share of the samples that count as independent.
        are_groups: True if groups are counted.
    """
    n, mean, z = len(seen), float(seen.mean()), NormalDist().inv_cdf(1 - delta)
    if mean >= most:
        return None
    share = WORDS[name][1]
    # A test passes at about z standard errors; with as many again it passes in most draws. One more sample may be lost than was
    # seen; of a group a part of it, as far as groups were seen to lose. Bets take a little more than counts.
    unseen = (1.0 if share else float(np.ptp(seen))) if not are_groups else float(np.abs(seen).max()) ** 2
    least = math.log(1 / delta) * (1 - most) / most / (MOST_BET if are_groups else 1.0) if share else 0.0
    needed = max(least, max(float(seen.var()), unseen / n) * (2 * z / (most - mean)) ** 2)
    return math.ceil(max(n * independent + 1, needed) / 100) * 100
