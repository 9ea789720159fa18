"""The frontier: contenders that no other beats in accuracy, latency and energy at once."""

from collections.abc import Iterator, Mapping, Sequence

from ...bundle import OperatingPoint, Target
from ...bundle.calibration import Tradeoff
from ...bundle.target import Goal
from ...progress import Progress, no_progress
from .contenders import Contender
from .objective import find_thresholds
from .predictions import predict_point

__all__ = ["lay_frontier"]

FRONTIER_LOSSES = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Limits of the accuracy drop, or without labels of the disagreement, for which thresholds are found."""


def lay_frontier(
    contenders: Sequence[Contender],
    points: Mapping[str, OperatingPoint],
    *,
    progress: Progress = no_progress,
) -> tuple[Tradeoff, ...]:
    """Return the frontier over all chains and static networks, by rising latency.

    The selecting samples choose the thresholds, and the reporting samples give the figures; nothing is promised.

    Args:
        contenders: every chain and static network.
        points: operating points, which take part.
        progress: is told after each chain or static network.
    """
    candidates = list(points.values())
    for i, contender in enumerate(contenders):
        candidates += _try_losses(contender)
        progress("laying the frontier", i + 1, len(contenders))
    tradeoffs = {_describe(point): None for point in candidates}
    best = [tradeoff for tradeoff in tradeoffs if not any(_beats(other, tradeoff) for other in tradeoffs)]
    return tuple(sorted(best, key=lambda tradeoff: tradeoff.latency_s))


def _try_losses(contender: Contender) -> Iterator[OperatingPoint]:
    """Yield the point of a static network, or a chain's best points for each limit of its losses."""
    table = contender.selecting
    goals: tuple[Goal, ...] = ("latency",) if table.costs.energy_j is None else ("latency", "energy")
    if contender.static is not None:
        yield predict_point(contender, (), Target(max_disagreement=0.0))
        return
    limit = "max_disagreement" if table.right is None else "max_drop"
    for goal in goals:
        for most in FRONTIER_LOSSES:
            target = Target(goal=goal, counts="labels", by=None, **{limit: most})
            if (thresholds := find_thresholds(table, target, margin=0.0, is_coarse=True)) is not None:
                yield predict_point(contender, thresholds, target)


def _describe(point: OperatingPoint) -> Tradeoff:
    return Tradeoff(
        variant=point.variant,
        placement=point.placement,
        static=point.static,
        thresholds=point.thresholds,
        accuracy=_accuracy(point),
        latency_s=point.latency_s,
        energy_j=point.energy_j,
    )


def _accuracy(point: OperatingPoint) -> float:
    """Return the accuracy, or what takes its place: accuracies of which all labels are known differ by as much."""
    if point.accuracy is not None:
        return point.accuracy
    if point.full_accuracy_interval is None or point.drop is None:
        return 1 - point.disagreement
    # Sums of shares differ in their last digits where counts are equal.
    return round(min(1.0, max(0.0, point.full_accuracy_interval[1] - point.drop)), 12)


def _beats(tradeoff: Tradeoff, other: Tradeoff) -> bool:
    """Return True if a tradeoff is as good as another in everything and better in something."""
    ours, theirs = ((-t.accuracy, t.latency_s, t.energy_j or 0.0) for t in (tradeoff, other))
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))
