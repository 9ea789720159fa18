"""Points that are the same on all boards: the best ones of the slowest board, measured on every board, proven on each kind."""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ..bundle import OperatingPoint
from ..bundle.calibration import WHOLE_NETWORK_PROMISE
from ..bundle.findings import Spread
from ..calibrate.certify.points import make_shared_points
from ..calibrate.measure.session import Run
from ..calibrate.measure.tables import Costs
from ..calibrate.search.choice import stays_never
from ..calibrate.search.contenders import Contender
from ..calibrate.search.picks import Pick
from ..units import show_us
from .choosing import Alike, ask_all, limits_costs
from .measuring import MeasuredBoard, ask_runs
from .recording import Work

__all__ = ["FLEET_SUFFIX", "Shared", "certify_shared", "measure_shared"]

FLEET_SUFFIX = "-fleet"
"""Suffix of the points whose thresholds are the same on all boards: `balanced` and `balanced-fleet`."""


class Shared(Struct, frozen=True):
    """One network and its thresholds on all boards.

    Attributes:
        run: what runs, in the shares in which samples leave on the slowest board.
        thresholds: the best ones there; none of a static network.
        contenders: the network as it was recorded for each fingerprint.
        costs: of each fingerprint, by the names of its boards.
    """

    run: Run
    thresholds: tuple[float, ...]
    contenders: tuple[Contender, ...]
    costs: tuple[dict[str, Costs], ...] = ()


def measure_shared(work: Work, groups: Sequence[Alike]) -> tuple[dict[str, Shared], list[str]]:
    """Measure on every board what is best on the first group's, by the names of the targets; and say what is not on all."""
    found, notes = dict[str, Shared](), list[str]()
    for name, pick in groups[0].chosen.picks.items():
        best, thresholds, shares = _take_best(pick, prefers_static=pick.prefers_static(work.request.targets[name]))
        same = [_find_same(group, best) for group in groups]
        everywhere = tuple(each for each in same if each is not None)
        if len(everywhere) < len(groups):
            notes.append(f"There is no {name}{FLEET_SUFFIX}: {best} does not take part on every board.")
        else:
            joined_at = thresholds if stays_never(work.request.targets[name]) else ()
            run = Run(best.configuration.variant, best.placement, shares, best.static, joined_at)
            found[name] = Shared(run, thresholds, everywhere)
    names = sorted(found, key=lambda name: found[name].run.static is not None)  # chains are loaded first
    boards = [each for group in groups for each in group.boards if each.board.name not in work.lost]

    def measure(here: MeasuredBoard) -> dict[str, Costs]:
        seconds = work.request.measure_s / 2 * len(names)
        return dict(zip(names, ask_runs(work, here, [found[name].run for name in names], [], seconds)[1], strict=True))

    if names:
        asked = ask_all(work, boards, measure, "measuring the fleet")
        costs = {each.board.name: of for each, of in zip(boards, asked, strict=True) if of is not None}
        for name, shared in found.items():
            own = tuple(
                {b.board.name: costs[b.board.name][name] for b in g.boards if b.board.name in costs} for g in groups
            )
            found[name] = replace(shared, costs=own)
    return found, notes


def _take_best(pick: Pick, *, prefers_static: bool) -> tuple[Contender, tuple[float, ...], tuple[float, ...]]:
    """Return the network that a pick recommends, its thresholds, and the shares in which samples leave."""
    if prefers_static and pick.best_static is not None:
        return pick.best_static, (), ()
    return pick.chain, pick.thresholds or (), tuple(pick.exit_shares().tolist())


def _find_same(group: Alike, wanted: Contender) -> Contender | None:
    """Return the same network among those that take part on other boards; None if it does not."""
    same = (
        each
        for each in group.chosen.choice.allowed
        if each.static == wanted.static
        and each.placement == wanted.placement
        and each.configuration.variant is wanted.configuration.variant
    )
    return next(same, None)


def certify_shared(
    work: Work, groups: Sequence[Alike], found: Mapping[str, Shared], question: int
) -> list[dict[str, OperatingPoint]]:
    """Test the points of the fleet on the answers of each kind, and return them for each fingerprint, by name."""
    points: list[dict[str, OperatingPoint]] = [{} for _ in groups]
    for name, shared in found.items():
        contenders = [
            _with_costs(each, costs, group, is_slowest=limits_costs(work.request))
            for each, costs, group in zip(shared.contenders, shared.costs, groups, strict=True)
        ]
        made = make_shared_points(
            contenders,
            shared.thresholds,
            work.request.targets[name],
            promises=len(found),
            confidence=groups[0].session.request.confidence,
            every_s=work.request.pace.every_s,
            question=question,
        )
        spread = _find_spread(made, shared, groups)
        for point, own in zip(made, points, strict=True):
            is_promised = point.certificate is not None or point.promise == WHOLE_NETWORK_PROMISE
            own[name + FLEET_SUFFIX] = replace(point, spread=spread, verdict=_describe(spread, is_promised))
    return points


def _with_costs(contender: Contender, costs: Mapping[str, Costs], group: Alike, *, is_slowest: bool) -> Contender:
    """Return a contender at the costs of the board that stands for its fingerprint; limits of costs are proven by the slowest."""
    if not costs:
        return contender
    own = costs.get(group.here.board.name) or next(iter(costs.values()))
    slowest = max(costs.values(), key=lambda each: float(each.latency_s.mean()))
    return contender.with_costs(own, slowest if is_slowest else None)


def _find_spread(made: Sequence[OperatingPoint], shared: Shared, groups: Sequence[Alike]) -> Spread | None:
    """Return how long the point takes on the boards; None if it was measured on none."""
    latencies = sorted(
        (float(costs.latency_s @ point.exit_shares), name)
        for point, of in zip(made, shared.costs, strict=True)
        for name, costs in of.items()
    )
    if not latencies:
        return None
    kinds = len({group.here.board.kind for group in groups})
    (least_s, _), (median_s, _), (most_s, slowest) = latencies[0], latencies[(len(latencies) - 1) // 2], latencies[-1]
    return Spread(len(latencies), kinds, least_s, median_s, most_s, slowest)


def _describe(spread: Spread | None, is_promised: bool) -> str:
    if spread is None:
        return "It is the same on all boards; how long it takes there was not measured."
    kinds = f"of {spread.kinds} kinds" if spread.kinds > 1 else "of one kind"
    promise = ", each of which keeps its promise" if is_promised else ""
    return (
        f"It is the same on {spread.boards} boards {kinds}{promise}: {show_us(spread.least_s)} on the fastest board, "
        f"{show_us(spread.median_s)} in the median, {show_us(spread.most_s)} on the slowest, {spread.slowest}."
    )
