"""What a calibration says in words: whether early exit pays, what nothing can meet, and what is worth knowing besides."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from ..bundle import OperatingPoint, Target
from ..bundle.calibration import Conditions
from ..bundle.target import describe_limit
from ..units import show_value
from .measure.tables import Costs, exits_taken, mean_of
from .search.contenders import Contender
from .search.objective import goal_of, keeps, limited
from .search.picks import Pick, find, may_fail

WORTH = 0.97
"""A chain with fewer exits is proposed where it is predicted to take at most this share of the time."""

WEAK = 0.5
"""An exit that is right on less than this share of what the last exit is right on has a head that learnt too little."""

MOST_EXITS = 5
"""Of chains with more exits only single ones are left out."""


def judge(early: OperatingPoint | None, static: OperatingPoint | None) -> tuple[bool, str]:
    """Say whether early exit keeps its target and beats the best static network that keeps it too, with the numbers."""
    if early is None:
        assert static is not None
        return False, f"Do not use early exit here: no thresholds keep the target, {_show(static)} does."
    if not early.met:
        said = f"The target is missed on the samples that did not choose: {_show(early)}"
        if early.drop is None or early.accuracy is None:
            return False, f"{said}."
        return False, f"{said}, {early.drop:.2%} below the whole network's {early.accuracy + early.drop:.2%}."
    if static is not None and early.certificate is None and static.is_promised:
        return False, f"Do not use early exit here: {early.promise} {_show(early)}, {_show(static)}."
    if static is None or not static.met:
        where = "" if static is None else " on the samples that did not choose"
        return True, f"Use early exit: no static network keeps the target{where}, {_show(early)}."
    match early.target.goal:
        case "accuracy":
            ours, theirs = (
                one.accuracy if one.accuracy is not None else 1 - one.disagreement for one in (early, static)
            )
            pays, gain = ours > theirs, f"{ours - theirs:+.2%} accuracy"
        case "energy":
            ours, theirs = early.energy_j or 0.0, static.energy_j or 0.0
            pays, gain = ours < theirs, f"{theirs / ours:.2f} times as many inferences per joule" if ours else ""
        case _:
            pays, gain = early.latency_s < static.latency_s, f"{static.latency_s / early.latency_s:.2f} times the speed"
    if pays:
        return True, f"Use early exit: {_show(early)}, {_show(static)} ({gain})."
    return False, f"Do not use early exit here: {_show(early)}, {_show(static)} ({gain})."


def _show(point: OperatingPoint) -> str:
    name = "early exit" if point.static is None else f"the static network to exit {point.static}"
    parts = [f"{point.latency_s * 1e6:.0f} us"]
    if point.energy_j is not None:
        parts.append(f"{point.energy_j * 1e3:.4g} mJ")
    right = f"at {point.accuracy:.2%}" if point.accuracy is not None else f"with {point.disagreement:.2%} disagreement"
    return f"{name} of {point.variant} {' and '.join(parts)} {right}"


def explain_failure(name: str, target: Target, contenders: Sequence[Contender]) -> str:
    """Say why nothing keeps a target: what is the best that can be had of each limit alone."""
    said = []
    for limit, most in target.limits.items():
        least, where = min(
            ((mean, i) for i, one in enumerate(contenders) for mean in _ends(one, target, limit)),
            key=lambda pair: pair[0],
        )
        if least > limited(contenders[where].known, target)[limit][1]:
            best = 1 - least if limit == "min_accuracy" else least
            words = describe_limit(limit, best, target)
            said.append(f"{words.replace('at least', 'more than').replace('at most', 'less than')} is not to be had")
    if not said:
        said.append(f"each limit alone can be kept, but not {target.describe_limits()} together")
    point = "" if name == "default" else f" for {name}"
    return (
        f"Nothing on this device gives {target}{point}: {'; '.join(said)}. Widen the limit, add variants (pruned, int8), or "
        "export a network with an earlier exit."
    )


def _ends(contender: Contender, target: Target, limit: str) -> Iterator[float]:
    """Give the mean of a limit's value where all samples leave at one exit, by the samples that choose."""
    value, _ = limited(contender.known, target)[limit]
    for k in range(contender.known.score.shape[1]):
        yield mean_of(value, np.full(len(contender.known), k))


def advise(
    picks: Mapping[str, Pick],
    targets: Mapping[str, Target],
    points: Mapping[str, OperatingPoint],
    passing_s: Sequence[float],
    conditions: Conditions,
    variant: str,
) -> list[str]:
    """Say what is worth knowing besides: exits that are of no use, and what slowed the board down.

    Args:
        picks, targets: by the points' names.
        points: what came of them.
        passing_s: what each exit of the chain costs those that pass it; empty where that is not known.
        conditions: of the board.
        variant: of the chain.
    """
    notes = []
    chain = next(iter(picks.values())).chain
    score = chain.table.score
    for k in range(score.shape[1] - 1):
        if np.ptp(score[:, k]) == 0:
            notes.append(
                f"Exit {k} of {variant} gives every input the score {score[0, k]:.4g}: it cannot tell easy from hard."
            )
    if chain.table.right is not None:
        notes += _name_weak(chain.table.right.mean(0).tolist(), variant)
    early = [point for point in points.values() if point.static is None]
    unused = [k for k in range(score.shape[1] - 1) if early and all(point.exit_shares[k] == 0 for point in early)]
    if unused and len(unused) == score.shape[1] - 1:
        notes.append(f"No sample leaves early at any exit of {variant}.")
    elif unused:
        saved = f"about {sum(max(0.0, passing_s[k]) for k in unused) * 1e6:.0f} us " if passing_s else ""
        rest = [str(k) for k in range(score.shape[1]) if k not in unused]
        notes.append(
            f"No sample leaves at {_exits(unused)} of {variant}: without, later exits take {saved}less. Try: "
            f"offramp keep BUNDLE --exits {','.join(rest)} --variant {variant}"
        )
    else:
        notes += _propose_fewer(next(iter(picks.values())), next(iter(targets.values())), passing_s, variant)
    if conditions.throttled:
        notes.append(
            f"The board slowed down meanwhile ({', '.join(conditions.throttled)}): measure again when it is cool."
        )
    return notes


def name_unpromised(
    picks: Mapping[str, Pick],
    targets: Mapping[str, Target],
    points: Mapping[str, OperatingPoint],
    variants: Sequence[str],
) -> list[str]:
    """Name the static network that would have been the rival, had the samples shown that it keeps the target.

    Args:
        picks, targets: by the points' names.
        points: what came of them.
        variants: of each way.
    """
    notes = []
    for name, pick in picks.items():
        target, point = targets[name], points[name]
        by_energy = target.goal == "energy"
        known = [point.energy_j if by_energy else point.latency_s]
        if pick.rival is not None:
            known.append(mean_of(goal_of(pick.rival.table, target), exits_taken(pick.rival.table.score, ())))
        most = max(cost or 0.0 for cost in known)
        statics = [one for one in (pick.rival, *pick.others) if one is not None and may_fail(one, target)]
        ends = [(one, exits_taken(one.table.score, ())) for one in statics]
        costs = [(mean_of(goal_of(one.table, target), end), one) for one, end in ends if keeps(one.table, target, end)]
        cost, best = min(costs, key=lambda pair: pair[0], default=(math.inf, None))
        if target.goal != "accuracy" and best is not None and cost < WORTH * most:
            shown = show_value("max_energy_j" if by_energy else "max_latency_s", cost)
            notes.append(
                f"{name}: the static network to exit {best.static} of {variants[best.way]} takes {shown} and keeps the target on "
                "these samples too, but by too little for so few of them to promise it. Give more samples, or others that choose "
                "(outside)."
            )
    return notes


def _name_weak(right: Sequence[float], variant: str) -> list[str]:
    """Name the exits whose heads have learnt too little, by the share of samples that each exit is right on."""
    weak = [k for k, share in enumerate(right) if share < WEAK * right[-1]]
    if not weak:
        return []
    shares = ", ".join(f"{right[k]:.1%}" for k in weak)
    return [
        f"{_exits(weak).capitalize()} of {variant} {'is' if len(weak) == 1 else 'are'} right on {shares} of the samples, the "
        f"last on {right[-1]:.1%}: too little to let anything leave. Train the heads for longer, together with the network, or "
        "take other heads (attach has head=)."
    ]


def _propose_fewer(pick: Pick, target: Target, passing_s: Sequence[float], variant: str) -> list[str]:
    """Propose the set of exits that the costs favour, where it is predicted to be faster than all of them."""
    exits = pick.chain.known.score.shape[1]
    if pick.thresholds is None or target.goal != "latency" or exits < 3 or not passing_s:
        return []
    full = _mean_latency_s(pick.chain, pick.thresholds)
    sizes = range(2, exits) if exits <= MOST_EXITS else (exits - 1,)
    best, best_s = None, full
    for size in sizes:
        for kept in itertools.combinations(range(exits - 1), size - 1):
            one = with_exits(pick.chain, (*kept, exits - 1), passing_s)
            (thresholds,) = find([one], target)
            if thresholds is not None and _mean_latency_s(one, thresholds) < best_s:
                best, best_s = (*kept, exits - 1), _mean_latency_s(one, thresholds)
    if best is None or best_s > WORTH * full:
        return []
    return [
        f"With {_exits(best)} alone early exit is predicted to take {1 - best_s / full:.0%} less time in the mean. Try: "
        f"offramp keep BUNDLE --exits {','.join(map(str, best))} --variant {variant}"
    ]


def with_exits(chain: Contender, kept: Sequence[int], passing_s: Sequence[float]) -> Contender:
    """Return a chain as it is predicted to be with some of its exits only."""
    columns, times, costs = list(kept), [], chain.known.costs
    for k in columns:
        saved = sum(max(0.0, passing_s[j]) for j in range(k) if j not in columns)
        times.append(costs.times_s[k] - saved)
    costs = Costs(tuple(times), None if costs.power_w is None else costs.power_w[columns])
    return replace(chain, known=chain.known.columns(columns, costs), table=chain.table.columns(columns, costs))


def _mean_latency_s(one: Contender, thresholds: tuple[float, ...]) -> float:
    return mean_of(one.known.costs.latency_s, exits_taken(one.known.score, thresholds))


def _exits(which: Sequence[int]) -> str:
    return f"exit{'s' if len(which) > 1 else ''} {', '.join(map(str, which))}"
