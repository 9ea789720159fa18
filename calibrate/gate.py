"""Which compressed variants take no part in the search: those that are slower here than what they were made of, or much worse."""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from ..points import Gate
from ..schema import Origin
from .choose import Contender
from .ways import Way

LOSES = {"quantize": 0.01, "prune": 0.05}
"""How much accuracy compression may cost at any exit. Quantised networks that lose more do so because sums overflow."""

SURE = 1.64
"""Standard errors by which it must be exceeded: few samples prove no loss."""


class _Ends(Struct, frozen=True):
    """Median latency to the last exit in seconds, and by exit who is right, bool (N,); the last one's alone of the yardstick."""

    latency_s: float
    right: dict[int, np.ndarray]


def find_gates(
    contenders: Sequence[Contender], ways: Sequence[Way], *, first: str, device: str, yardstick_s: float
) -> dict[int, Gate]:
    """Return by way what keeps a compressed variant out of the search, by the samples that choose.

    Variants are compared where they run alike; one whose parent was not measured there is compared with the yardstick if that is
    its parent. Variants with fewer exits are what they come from, and are not compared.

    Args:
        contenders: of all ways, with latencies that can be compared.
        ways: all of them.
        first, device, yardstick_s: the yardstick's variant, where it runs, and its median latency.
    """
    gates = {}
    for at, way in enumerate(ways):
        origin = way.variant.origin
        if origin is None or origin.how not in LOSES:
            continue
        ours = _ends(contenders, at, way)
        parents = [
            i for i, one in enumerate(ways) if (one.variant.name, one.placement) == (origin.parent, way.placement)
        ]
        if parents:
            theirs = _ends(contenders, parents[0], ways[parents[0]])
        elif origin.parent == first and way.placement[-1] == device:
            whole = next(one.known.whole for one in contenders if one.way == at)
            theirs = _Ends(yardstick_s, {} if whole is None else {len(way.placement) - 1: whole})
        else:
            continue
        gate = _compare(way, origin, ours, theirs)
        if gate is not None:
            gates[at] = gate
    return gates


def _ends(contenders: Sequence[Contender], at: int, way: Way) -> _Ends:
    statics = {one.static: one for one in contenders if one.way == at and one.static is not None}
    last = statics[len(way.placement) - 1]
    right = {k: one.known.right[:, 0] for k, one in statics.items() if one.known.right is not None}
    return _Ends(float(np.median(last.known.costs.times_s[0])), right)


def _compare(way: Way, origin: Origin, ours: _Ends, theirs: _Ends) -> Gate | None:
    where = f"{way.variant.name} on {', '.join(dict.fromkeys(way.placement))}"
    said = ""
    accuracy: tuple[float | None, float | None] = (None, None)
    for k in sorted(set(ours.right) & set(theirs.right)):
        lost = theirs.right[k].astype(np.int8) - ours.right[k]
        shares = float(ours.right[k].mean()), float(theirs.right[k].mean())
        accuracy = shares
        if lost.mean() - SURE * lost.std() / math.sqrt(len(lost)) > LOSES[origin.how]:
            said = f"is worse at exit {k} than {origin.parent}: {shares[0]:.2%} right against {shares[1]:.2%}"
            break
    if not said and ours.latency_s >= theirs.latency_s:
        said = (
            f"is not faster to the last exit than {origin.parent}: {ours.latency_s * 1e6:.0f} us against "
            f"{theirs.latency_s * 1e6:.0f} us"
        )
    if not said:
        return None
    return Gate(
        variant=way.variant.name,
        placement=way.placement,
        parent=origin.parent,
        latency_s=ours.latency_s,
        parent_latency_s=theirs.latency_s,
        accuracy=accuracy[0],
        parent_accuracy=accuracy[1],
        reason=f"{where} is never recommended: it {said}.",
    )
