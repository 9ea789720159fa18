"""Which compressed variants take no part in the search: those that are slower here than what they were made of, or much worse."""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from ...bundle import Variant
from ...bundle.calibration import Exclusion
from ..measure.configurations import Way
from .contenders import Contender

LOSES = {"quantize": 0.01, "prune": 0.05}
"""How much accuracy compression may cost at any exit. Quantised networks that lose more do so because sums overflow."""

SURE = 1.64
"""Standard errors by which it must be exceeded: few samples prove no loss."""

_Shares = tuple[float | None, float | None]


class _Ends(Struct, frozen=True):
    """Median latency to the last exit in seconds, that exit's name, and by exit who is right, bool (N,); empty without labels."""

    latency_s: float
    last: str
    right: dict[str, np.ndarray]


def find_gates(
    contenders: Sequence[Contender],
    ways: Sequence[Way],
    variants: Sequence[Variant],
    *,
    device: str,
    yardstick_s: float,
) -> dict[int, Exclusion]:
    """Return by way what keeps a variant out of the search, by the samples that choose.

    A compressed variant is compared with what it was made of, where that was measured on the same devices and takes part itself;
    else with what that was made of, and so on to the first variant, the yardstick. One with fewer exits shares the fate of what
    it comes from.

    Args:
        contenders: of all ways, with latencies that can be compared.
        ways: all of them.
        variants: of the bundle, parents before what is made of them.
        device, yardstick_s: where the yardstick runs, and its median latency.
    """
    gates: dict[int, Exclusion] = {}
    by_name = {variant.name: variant for variant in variants}
    for at in sorted(range(len(ways)), key=lambda i: list(by_name).index(ways[i].variant.name)):
        way, loses, one = ways[at], 0.0, ways[at].variant
        while one.origin is not None:
            loses = max(loses, LOSES.get(one.origin.how, 0.0))
            one = by_name[one.origin.parent]
            above = next(
                (i for i, other in enumerate(ways) if other.variant.name == one.name and _runs_alike(other, way)), None
            )
            if not loses and above in gates:
                why = f"it is made of {one.name}, which is not either"
                ours, theirs = _ends(contenders, at, way), _ends(contenders, above, ways[above])
                gates[at] = _gate(way, ours, theirs, one.name, why, _accuracies(ours, theirs, ours.last))
            elif loses and (above is not None or (one is variants[0] and set(way.placement) == {device})):
                ours = _ends(contenders, at, way)
                theirs = (
                    _whole(contenders, at, one, yardstick_s) if above is None else _ends(contenders, above, ways[above])
                )
                why, shares = _compare(ours, theirs, one.name, loses)
                if why:
                    gates[at] = _gate(way, ours, theirs, one.name, why, shares)
            if at in gates or (above is not None and above not in gates):
                break
    return gates


def _runs_alike(one: Way, other: Way) -> bool:
    """Tell whether two ways are on the same devices; one of them may have fewer stages, all on one device."""
    return one.placement == other.placement or set(one.placement) == set(other.placement) == {one.placement[0]}


def _ends(contenders: Sequence[Contender], at: int, way: Way) -> _Ends:
    """Return what a way's exits give; on several devices the chain is timed, since no static network stands for it."""
    chain = next(one for one in contenders if one.way == at and one.static is None)
    statics = {one.static: one for one in contenders if one.way == at and one.static is not None}
    names = [end.name for end in way.variant.exits]
    last = statics[len(names) - 1] if len(set(way.placement)) == 1 else chain
    right = {names[k]: one.known.right[:, 0] for k, one in statics.items() if one.known.right is not None}
    return _Ends(float(np.median(last.known.costs.times_s[-1])), names[-1], right)


def _whole(contenders: Sequence[Contender], at: int, first: Variant, yardstick_s: float) -> _Ends:
    """Return what the yardstick gives, of which the last exit is known alone."""
    whole, last = next(one.known.whole for one in contenders if one.way == at), first.exits[-1].name
    return _Ends(yardstick_s, last, {} if whole is None else {last: whole})


def _compare(ours: _Ends, theirs: _Ends, parent: str, most: float) -> tuple[str, _Shares]:
    """Say in what a variant is worse than another, by more than may be lost at an exit; nothing where it is not."""
    worst, at = most, ""
    for name in set(ours.right) & set(theirs.right):
        lost = theirs.right[name].astype(np.int8) - ours.right[name]
        at_least = lost.mean() - SURE * lost.std() / math.sqrt(len(lost))
        if at_least > worst:
            worst, at = at_least, name
    shares = _accuracies(ours, theirs, at or ours.last)
    if at:
        return f"it is worse at exit {at} than {parent}: {shares[0]:.2%} right against {shares[1]:.2%}", shares
    if ours.last == theirs.last and ours.latency_s >= theirs.latency_s:
        times = f"{ours.latency_s * 1e6:.0f} us against {theirs.latency_s * 1e6:.0f} us"
        return f"it is not faster to the last exit than {parent}: {times}", shares
    return "", shares


def _accuracies(ours: _Ends, theirs: _Ends, exit_name: str) -> _Shares:
    first, second = (float(e.right[exit_name].mean()) if exit_name in e.right else None for e in (ours, theirs))
    return first, second


def _gate(way: Way, ours: _Ends, theirs: _Ends, parent: str, why: str, shares: _Shares) -> Exclusion:
    where = f"{way.variant.name} on {', '.join(dict.fromkeys(way.placement))}"
    return Exclusion(
        variant=way.variant.name,
        placement=way.placement,
        parent=parent,
        latency_s=ours.latency_s,
        parent_latency_s=theirs.latency_s,
        accuracy=shares[0],
        parent_accuracy=shares[1],
        reason=f"{where} is never recommended: {why}.",
    )
