"""The chain that serves some targets best, its thresholds, and the best static network for each, by the selecting samples."""

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Target
from ...bundle.manifest import NEVER
from ...bundle.target import LOSS_LIMITS
from ..measure.tables import exits_taken, mean_at
from .contenders import Contender
from .gains import LEAST_GAIN, Gain, measure_gain
from .objective import find_thresholds, goal_values, limit_values
from .simplicity import take_simplest
from .thresholds import MARGIN

__all__ = ["Pick", "best_thresholds", "find_cautiously", "make_picks", "may_be_unprovable", "pick_static", "rivals"]

FEW_SAMPLES = 2000
"""Below 2000 samples the measured drop is too noisy to choose by. Disagreement with the last exit is an upper bound with less
noise; the certified thresholds that result are as fast or faster (`tests/benchmarks/certify.py`)."""

MOST_RIVALS = 3
"""Static networks beside the best one that are measured again with it."""

PROOF_ERRORS = 1.64
"""Standard errors by which samples must show that a chain can be promised at all: the best of many looks better than it is."""

Thresholds = tuple[float, ...] | None
"""Thresholds that meet a target; None if none do."""

_log = logging.getLogger(__name__)


class Pick(Struct, frozen=True, eq=False):
    """The best contenders for a target.

    Attributes:
        chain, thresholds: the chain, and its thresholds; None if none meet the target.
        best_static: the cheapest static network that meets the target. Those whose margin is wide enough to be proven come
            first. None if no static network meets the target.
        other_statics: the next best ones.
        least_gain: the share of the mean cost that a less simple network must surely save to be preferred.
    """

    chain: Contender
    thresholds: Thresholds
    best_static: Contender | None
    other_statics: tuple[Contender, ...] = ()
    least_gain: float = LEAST_GAIN

    def exit_shares(self) -> np.ndarray:
        """Return the share of the selecting samples that leaves at each exit; all at the last one without thresholds."""
        table = self.chain.selecting
        taken = exits_taken(table.score, self.thresholds or (NEVER,) * (table.exits - 1))
        return np.asarray(np.bincount(taken, minlength=table.exits) / len(taken))

    def prefers_static(self, target: Target) -> bool:
        """Return True unless the chain is surely better than the static network by the least gain."""
        if self.thresholds is None or self.best_static is None:
            return self.thresholds is None
        ours, theirs = (may_be_unprovable(contender, target) for contender in (self.chain, self.best_static))
        if ours != theirs:
            return ours
        gain = _gain(self.chain, self.thresholds, self.best_static, (), target, self.least_gain)
        return not gain.is_sure


def make_picks(
    contenders: Sequence[Contender], targets: Mapping[str, Target], *, least_gain: float = LEAST_GAIN
) -> dict[str, Pick]:
    """Pick the chain that serves all targets best together, and for each target the best static network.

    All points of a calibration run the same chain, so that a product can switch between them. The chain must meet the most
    targets. Among such chains those with the most provable promises come first, and among those the one with the least mean
    cost, relative to the best for each target. A simpler chain takes its place if the best is not surely better by the least
    gain for any target: one with fewer exits, or of a variant that the other's was made from. The same goes for a static network
    that is preferred to the chain.

    Args:
        contenders: chains and static networks, at least one chain.
        targets: by the names of their points.
        least_gain: the share of the mean cost that a less simple network must surely save.
    """
    thresholds = {
        name: dict(zip(contenders, best_thresholds(contenders, target), strict=True))
        for name, target in targets.items()
    }
    chain = _pick_chain([each for each in contenders if each.static is None], targets, thresholds, least_gain)
    picks = {}
    for name, target in targets.items():
        statics = [each for each in contenders if each.static is not None and thresholds[name][each] is not None]
        picks[name] = pick_static(Pick(chain, thresholds[name][chain], None, (), least_gain), statics, target)
        others = [*map(str, picks[name].other_statics)]
        _log.debug("%s: %s, then %s", name, picks[name].best_static or "no static network", others)
    return picks


def pick_static(pick: Pick, statics: Sequence[Contender], target: Target) -> Pick:
    """Return a pick with the best of the static networks that meet a target, and the others in their order."""
    ranked = sorted(statics, key=lambda each: (may_be_unprovable(each, target), goal_and_latency(each, (), target)))
    pick = replace(pick, best_static=ranked[0] if ranked else None, other_statics=tuple(ranked[1:]))
    return _with_simplest_static(pick, ranked, target) if ranked and pick.prefers_static(target) else pick


def rivals(pick: Pick, target: Target) -> list[Contender]:
    """Return up to `MOST_RIVALS` static networks that may cost less than the best one, as far as costs are noise.

    They are as likely to be provable. With the goal `accuracy` there are none: costs do not decide.
    """
    best = pick.best_static
    if best is None or target.goal == "accuracy":
        return []
    risk = may_be_unprovable(best, target)
    close = (
        other
        for other in pick.other_statics
        if may_be_unprovable(other, target) == risk and _gain(best, (), other, (), target, 0.0).interval[0] <= 0
    )
    return list(itertools.islice(close, MOST_RIVALS))


def _with_simplest_static(pick: Pick, statics: Sequence[Contender], target: Target) -> Pick:
    """Return a pick with the simplest of the static networks that the best one is not surely better than."""
    best, *others = statics
    risk = may_be_unprovable(best, target)
    simplest = take_simplest(
        best,
        [other for other in others if may_be_unprovable(other, target) == risk],
        lambda other: [_gain(best, (), other, (), target, pick.least_gain)],
    )
    rest = tuple(each for each in statics if each is not simplest)
    return replace(pick, best_static=simplest, other_statics=rest)


def _gain(
    ours: Contender, thresholds: Thresholds, theirs: Contender, others: Thresholds, target: Target, least: float
) -> Gain:
    """Return how much better one contender is than another on the selecting samples."""
    return measure_gain((ours.selecting, thresholds or ()), (theirs.selecting, others or ()), target, least=least)


def _pick_chain(
    chains: Sequence[Contender],
    targets: Mapping[str, Target],
    thresholds: Mapping[str, Mapping[Contender, Thresholds]],
    least_gain: float,
) -> Contender:
    missed, risks, losses = (np.zeros(len(chains)) for _ in range(3))
    for name, target in targets.items():
        goals = np.array([goal_and_latency(chain, thresholds[name][chain], target)[0] for chain in chains])
        is_met = np.isfinite(goals)
        missed += ~is_met
        risks += [may_be_unprovable(chain, target) for chain in chains]
        if is_met.any():
            best = goals[is_met].min()
            losses[is_met] += (goals[is_met] - best) / (1.0 if target.goal == "accuracy" else best)
    order = np.lexsort((losses, risks, missed))
    for i in order:
        _log.debug(
            "%s: misses %d targets, %d may be unprovable, %.4f above the best cost",
            chains[i],
            missed[i],
            risks[i],
            losses[i],
        )
    first = chains[order[0]]
    others = [chains[i] for i in order[1:] if (missed[i], risks[i]) == (missed[order[0]], risks[order[0]])]

    def gains_over(other: Contender) -> Iterator[Gain]:
        for name, found in thresholds.items():
            if found[first] is not None and found[other] is not None:
                yield _gain(first, found[first], other, found[other], targets[name], least_gain)

    return take_simplest(first, others, gains_over)


def best_thresholds(contenders: Sequence[Contender], target: Target) -> list[Thresholds]:
    """Find each contender's best thresholds for a target.

    They stay away from the limits. If that leaves no contender, they only have to meet the limits on the selecting samples.
    """
    for margin in (MARGIN, 0.0):
        thresholds = [find_cautiously(contender, target, margin) for contender in contenders]
        if any(each is not None for each in thresholds):
            break
        if margin:
            _log.debug("nothing meets %s by a margin", target)
    return thresholds


def find_cautiously(contender: Contender, target: Target, margin: float, *, is_coarse: bool = False) -> Thresholds:
    """Find thresholds of one contender; few samples choose by an upper bound of the drop, if that leaves any.

    Args:
        contender, target: what the thresholds are for.
        margin: standard errors to stay away from the limits.
        is_coarse: search a coarse grid, in a tenth of the time.
    """
    table = contender.selecting
    wide = margin * math.sqrt(len(table) / len(contender.reporting))
    if contender.static is None and len(table) < FEW_SAMPLES:
        thresholds = find_thresholds(table, target, margin=wide, is_cautious=True, is_coarse=is_coarse)
        if thresholds is not None:
            return thresholds
    return find_thresholds(table, target, margin=wide, is_coarse=is_coarse)


def may_be_unprovable(contender: Contender, target: Target) -> bool:
    """Return True if the reporting samples might not prove the accuracy limits even with early exit switched off.

    The last exit itself is then too close to a limit, so that a chain has no cautious candidate to fall back on.
    """
    if contender.selecting.is_reference and not {"min_accuracy", "max_loss"} & set(target.limits):
        return False
    more = contender.reporting.draws / contender.selecting.draws
    for part in contender.selecting.each_part(target.by):
        for name, (values, most) in limit_values(part.table, target).items():
            if name not in LOSS_LIMITS:
                continue
            last = part.table.per_draw(values[:, -1])
            selecting = float(last.var()) / len(last)
            reporting = selecting / more
            if last.mean() + MARGIN * math.sqrt(reporting) + PROOF_ERRORS * math.sqrt(selecting + reporting) > most:
                return True
    return False


def goal_and_latency(contender: Contender, thresholds: Thresholds, target: Target) -> tuple[float, float]:
    """Return the mean that the target wants the least of, and the mean latency; infinite without thresholds."""
    if thresholds is None:
        return math.inf, math.inf
    table = contender.selecting
    taken = exits_taken(table.score, thresholds)
    return mean_at(goal_values(table, target), taken), mean_at(table.costs.latency_s, taken)
