"""Thresholds of a chain that meet the target, where too few samples could only prove more careful ones."""

import math
from collections.abc import Mapping

from msgspec.structs import replace

from ...bundle import OperatingPoint, Target
from ...bundle.calibration import EARLY_SUFFIX
from ...bundle.target import LOSS_LIMITS
from ...units import show_share, show_us
from ..measure.tables import exits_taken, values_at
from ..search.contenders import Contender
from ..search.gains import measure_gain
from ..search.objective import find_thresholds, limit_values
from ..search.picks import Pick
from ..search.predictions import predict_point
from ..verdict import Unproven
from .promises import count_needed
from .questions import part_of_chance

MOST_MORE = 30
"""Thresholds that only so many times the samples could prove are no better than none."""

__all__ = ["find_unproven", "name_careful"]


def find_unproven(
    pick: Pick, target: Target, static: Contender | None, *, promised: tuple[float, ...] | None, delta: float
) -> Unproven | None:
    """Return the cheapest thresholds that meet the target on the reporting samples, if those prove only more careful ones.

    These are the best ones that were found, or, since few samples choose cautiously, those that lose half of what is allowed on
    the selecting samples: more samples could prove them.

    Args:
        pick: the chain and its best thresholds.
        target: the target.
        static: the best static network.
        promised: the thresholds that can be promised; None if none can.
        delta: the chance of a false promise.
    """
    halves = {
        name: most / 2 for name in ("max_drop", "max_loss", "max_disagreement") if (most := target.limits.get(name))
    }
    candidates = [pick.thresholds, find_thresholds(pick.chain.selecting, replace(target, **halves), margin=0.0)]
    points = [
        predict_point(pick.chain, thresholds, target)
        for thresholds in candidates
        if thresholds is not None and thresholds != promised
    ]
    point = min((point for point in points if point.met), key=lambda point: point.latency_s, default=None)
    if point is None:
        return None
    table = pick.chain.reporting
    if table.lacking(target.by):
        return None
    counts: list[float] = []
    for part in table.each_part(target.by):
        taken = exits_taken(part.table.score, point.thresholds)
        for name, (values, most) in limit_values(part.table, target).items():
            if name in LOSS_LIMITS:
                seen = part.table.per_draw(values_at(values, taken))
                are_groups = table.groups is not None
                count = count_needed(seen, most, name, delta, independent=table.independent, are_groups=are_groups)
                # of a part so many times its own samples: about as many times all samples
                counts.append(math.inf if count is None else count / len(seen))
    if not counts or max(counts) > MOST_MORE:
        return None
    needed = math.ceil(table.draws * max(counts) - 1e-6)
    gain = None
    if static is not None:
        gain = measure_gain((table, point.thresholds), (static.reporting, ()), target, least=pick.least_gain)
    counted = max(1, int(table.draws * table.independent))
    unit = "samples" if table.groups is None else "groups"
    return Unproven(point, gain, counted, needed, table.independent < 1, unit)


def name_careful(
    picks: Mapping[str, Pick], targets: Mapping[str, Target], points: Mapping[str, OperatingPoint]
) -> list[str]:
    """Return notes on chains that could only be promised where they lose less than their target allows.

    Args:
        picks, targets, points: by the points' names.
    """
    notes = []
    for name, pick in picks.items():
        point = points[name] if points[name].exits_early else points.get(name + EARLY_SUFFIX)
        if point is None or point.certificate is None:
            continue
        certificate = point.certificate
        delta = (1 - certificate.confidence) * part_of_chance(certificate.question) / certificate.promises
        unproven = find_unproven(pick, targets[name], None, promised=point.thresholds, delta=delta)
        if unproven is None or unproven.point.latency_s >= (1 - pick.least_gain) * point.latency_s:
            continue
        notes.append(
            f"{name}: it loses less than its target allows ({_loss(point)}), since only that can be promised by these samples. "
            f"The best thresholds found take {show_us(unproven.point.latency_s)} instead of {show_us(point.latency_s)} "
            f"({_loss(unproven.point)}), but {unproven.lack}"
        )
    return notes


def _loss(point: OperatingPoint) -> str:
    """Say what a point loses of what its target limits: `a drop of 0.30%`."""
    limits = point.target.limits
    if "max_drop" in limits and point.drop is not None:
        return f"a drop of {show_share(point.drop)}"
    if "max_loss" in limits and point.accuracy is not None:
        return f"a loss of {show_share(1 - point.accuracy)}"
    if "min_accuracy" in limits and point.accuracy is not None:
        return f"an accuracy of {show_share(point.accuracy)}"
    return f"a disagreement of {show_share(point.disagreement)}"
