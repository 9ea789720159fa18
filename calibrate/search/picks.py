"""Which way to run is best for some targets, and with which thresholds, by the samples that choose."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from ...bundle import Target
from ...bundle.manifest import NEVER
from ...bundle.target import LOSS_LIMITS
from ..measure.tables import exits_taken, mean_of
from .contenders import Contender
from .objective import find_thresholds, goal_of, limited
from .thresholds import MARGIN

FEW = 2000
"""With fewer samples that choose, thresholds are chosen by the disagreement with the last exit: certified they cost as little as
those chosen by the drop, and less on a trained network (`tests/benchmarks/certify.py`)."""

SURE = 1.64
"""Standard errors by which samples must show that a chain can be promised at all: the best of many looks better than it is."""


class Pick(Struct, frozen=True):
    """What is best for a target.

    Attributes:
        chain, thresholds: the chain, and its thresholds; None where none keep the target.
        rival: the best static network that keeps it and can be promised to; else the best that keeps it; None where none does.
        others: the next best ones.
    """

    chain: Contender
    thresholds: tuple[float, ...] | None
    rival: Contender | None
    others: tuple[Contender, ...] = ()

    def shares(self) -> np.ndarray:
        """Return how often the samples that choose leave at each exit of the chain; all at the last without thresholds."""
        exits = self.chain.known.score.shape[1]
        taken = exits_taken(self.chain.known.score, self.thresholds or (NEVER,) * (exits - 1))
        return np.asarray(np.bincount(taken, minlength=exits) / len(taken))

    def prefers_static(self, target: Target) -> bool:
        """Tell whether the static network is better than the chain."""
        if self.thresholds is None or self.rival is None:
            return self.thresholds is None
        ours, theirs = (may_fail(one, target) for one in (self.chain, self.rival))
        if ours != theirs:
            return ours
        return _merits(self.rival, (), target) < _merits(self.chain, self.thresholds, target)


def pick(contenders: Sequence[Contender], targets: Mapping[str, Target]) -> dict[str, Pick]:
    """Pick the chain that serves all targets best together, and for each the best static network.

    The points of a calibration run on the same engines, so that a product can switch between them. The chain is the one that
    keeps the most targets, among those one of which the most promises can be expected to hold, and among those the one with the
    least mean cost, relative to the best for each target.

    Args:
        contenders: chains and static networks, a chain at least.
        targets: by the names of their points.
    """
    chains = [i for i, one in enumerate(contenders) if one.static is None]
    found = {name: find(contenders, target) for name, target in targets.items()}
    missed, risks, losses = (np.zeros(len(chains)) for _ in range(3))
    for name, target in targets.items():
        goals = np.array([_merits(contenders[i], found[name][i], target)[0] for i in chains])
        able = np.isfinite(goals)
        missed += ~able
        risks += [may_fail(contenders[i], target) for i in chains]
        if able.any():
            best = goals[able].min()
            losses[able] += (goals[able] - best) / (1.0 if target.goal == "accuracy" else best)
    at = chains[int(np.lexsort((losses, risks, missed))[0])]
    picks = {}
    for name, target in targets.items():
        able = [i for i, one in enumerate(contenders) if one.static is not None and found[name][i] is not None]
        able.sort(key=lambda i: (may_fail(contenders[i], target), _merits(contenders[i], (), target)))
        rivals = tuple(contenders[i] for i in able)
        picks[name] = Pick(contenders[at], found[name][at], rivals[0] if rivals else None, rivals[1:])
    return picks


def find(contenders: Sequence[Contender], target: Target) -> list[tuple[float, ...] | None]:
    """Find each contender's best thresholds for a target; None where none keep it.

    They stay away from the limits, unless no contender can: then they only keep them on these samples.
    """
    for margin in (MARGIN, 0.0):
        found = []
        for one in contenders:
            wide = margin * math.sqrt(len(one.known) / len(one.table))
            few = one.static is None and len(one.known) < FEW
            thresholds = find_thresholds(one.known, target, margin=wide, few=few)
            found.append(find_thresholds(one.known, target, margin=wide) if few and thresholds is None else thresholds)
        if any(thresholds is not None for thresholds in found):
            break
    return found


def may_fail(one: Contender, target: Target) -> bool:
    """Tell whether even never leaving early may keep limits of accuracy too narrowly for the other samples to show it.

    A chain whose last exit is not clearly good enough has no cautious candidate to fall back on, whatever its thresholds.
    """
    if one.known.is_whole and "min_accuracy" not in target.limits:
        return False
    for name, (value, most) in limited(one.known, target).items():
        if name in LOSS_LIMITS:
            last = value[:, -1]
            known, tested = (float(last.var()) / len(table) for table in (one.known, one.table))
            if last.mean() + MARGIN * math.sqrt(tested) + SURE * math.sqrt(known + tested) > most:
                return True
    return False


def _merits(contender: Contender, thresholds: tuple[float, ...] | None, target: Target) -> tuple[float, float]:
    """Return what the target wants the least of, on the samples that choose, and the latency; infinite without thresholds."""
    if thresholds is None:
        return math.inf, math.inf
    taken = exits_taken(contender.known.score, thresholds)
    return mean_of(goal_of(contender.known, target), taken), mean_of(contender.known.costs.latency_s, taken)
