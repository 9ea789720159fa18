"""What can be had: ways to run that no other one beats in accuracy, latency and energy at once."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from ...bundle import OperatingPoint, Target
from ...bundle.calibration import Tradeoff
from ...bundle.target import Goal
from ...progress import Progress, no_progress
from .contenders import Contender
from .objective import find_thresholds
from .predictions import Named, predict

DROPS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Limits of the accuracy drop, or without labels of the disagreement, for which thresholds are found."""


def lay_frontier(
    contenders: Sequence[Contender],
    names: Sequence[Named],
    points: Mapping[str, OperatingPoint],
    *,
    progress: Progress = no_progress,
) -> tuple[Tradeoff, ...]:
    """Return the frontier over all chains and static networks, by rising latency.

    Thresholds are found by the samples that choose, and figures are of the others; nothing is promised of them.

    Args:
        contenders: every chain and static network.
        names: of each way.
        points: operating points, which take part.
        progress: is told after each chain or static network.
    """
    found = list(points.values())
    for i, one in enumerate(contenders):
        found += _try(one, names[one.way])
        progress("laying the frontier", i + 1, len(contenders))
    tradeoffs = {_describe(point): None for point in found}
    kept = [one for one in tradeoffs if not any(_beats(other, one) for other in tradeoffs)]
    return tuple(sorted(kept, key=lambda one: one.latency_s))


def _try(one: Contender, named: Named) -> Iterator[OperatingPoint]:
    goals: tuple[Goal, ...] = ("latency",) if one.known.costs.energy_j is None else ("latency", "energy")
    if one.static is not None:
        target = Target(max_disagreement=0.0)
        placed = Named(named.variant, named.placement[one.static : one.static + 1])
        yield replace(predict(one.table, (), target, placed), static=one.static)
        return
    limit = "max_disagreement" if one.known.right is None else "max_drop"
    for goal in goals:
        for most in DROPS:
            target = Target(goal=goal, **{limit: most})
            if (thresholds := find_thresholds(one.known, target, margin=0.0, coarse=True)) is not None:
                yield predict(one.table, thresholds, target, named)


def _describe(point: OperatingPoint) -> Tradeoff:
    return Tradeoff(
        variant=point.variant,
        placement=point.placement,
        static=point.static,
        thresholds=point.thresholds,
        accuracy=1 - point.disagreement if point.accuracy is None else point.accuracy,
        latency_s=point.latency_s,
        energy_j=point.energy_j,
    )


def _beats(one: Tradeoff, other: Tradeoff) -> bool:
    """Tell whether one is as good in everything and better in something."""
    ours, theirs = ((-t.accuracy, t.latency_s, t.energy_j or 0.0) for t in (one, other))
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))
