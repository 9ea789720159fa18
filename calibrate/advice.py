"""The notes of a calibration in words: how exits and samples could be improved."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..bundle import OperatingPoint, Target
from ..bundle.across import Across
from ..bundle.calibration import Conditions
from ..bundle.manifest import can_drop_exits, reads_earlier_exits
from ..units import show_share, show_us, show_value
from .measure.tables import exits_taken
from .parts import Parts
from .search.contenders import Contender
from .search.objective import goal_values, meets_limits
from .search.picks import Pick, may_be_unprovable

__all__ = ["advise", "name_missing", "name_uncertain", "name_unpromised", "name_weak_end"]

MUCH_NOISE = 0.25
"""A latency is called noise if the standard error of its mean is at least this share of it."""

WORTH_NAMING = 0.97
"""A static network that cannot be promised is named if it takes at most this share of the cost."""

WEAK_SHARE = 0.5
"""An exit's head has learnt too little if it is right on less than this share of the samples that the last exit is right on."""

MUCH_BETTER = 0.05
"""An exit is much better than the last if it is right on so many more of the samples."""

CHECK_MEMBERS = "check what that network was said to take and to mean (--mean, --std, --bgr, --labels)"


SURELY_BETTER = 2.0
"""Standard errors by which a static network must be right more often than the whole network to be named."""

LEAST_BETTER = 0.01
"""The share of all samples by which it must be, too."""


def advise(picks: Mapping[str, Pick], points: Mapping[str, OperatingPoint], conditions: Conditions) -> list[str]:
    """Return notes on exits that are of no use, and on what slowed the board down.

    Args:
        picks, points: by the points' names.
        conditions: of the board.
    """
    chain = next(iter(picks.values())).chain
    table, passing_s = chain.reporting, chain.configuration.passing_s
    variant, rule = chain.configuration.variant.name, chain.configuration.variant.rule
    compared = (
        1 if reads_earlier_exits(rule) else 0
    )  # the first exit has none before it, so its score is the same for all
    notes = [
        f"Exit {k} of {variant} gives every input the score {table.score[0, k]:.4g}: it cannot tell easy from hard."
        for k in range(compared, table.exits - 1)
        if np.ptp(table.score[:, k]) == 0
    ]
    if table.right is not None and table.right.dtype == bool and table.known is None:
        notes += _name_weak(table.right.mean(0).tolist(), variant)
    early = [point for point in points.values() if point.exits_early]
    unused = [k for k in range(table.exits - 1) if early and all(point.exit_shares[k] == 0 for point in early)]
    is_any_of_use = len(unused) < table.exits - 1
    can_drop = can_drop_exits(rule) and not isinstance(chain.configuration.variant, Across)
    if unused and (not is_any_of_use or (can_drop and any(points[name].exits_early for name in picks))):
        notes.append(_name_unused(unused, table.exits, passing_s, variant))
    if conditions.throttled:
        notes.append(
            f"The board slowed down during the measurement ({', '.join(conditions.throttled)}): measure again when it is cool."
        )
    return notes


def name_missing(parts: Mapping[str, Parts], classes: int) -> list[str]:
    """Return a note on classes that have no samples, where a target is by class.

    Args:
        parts: the classes that samples have, by `class`.
        classes: how many the network has.
    """
    missing = classes - len(parts["class"].names) if "class" in parts else 0
    return [f"No sample is of {missing} of the {classes} classes: nothing is promised there."] if missing else []


def name_uncertain(contenders: Sequence[Contender]) -> list[str]:
    """Return a note on the networks whose measured latencies are little more than noise, such as one that was held up."""
    noisy = sorted(contenders, key=lambda each: -each.reporting.costs.noise)
    noisy = [each for each in noisy if each.reporting.costs.noise >= MUCH_NOISE]
    if not noisy:
        return []
    others = f"; of {len(noisy) - 1} more it is at least {MUCH_NOISE:.0%}" if len(noisy) > 1 else ""
    return [
        f"The latency of the {noisy[0]} is noise: parts of its measurement differ so much that the standard error of its mean is "
        f"{noisy[0].reporting.costs.noise:.0%} of it{others}. Measure again when nothing else runs, or for longer (--measure-s)."
    ]


def name_unpromised(
    picks: Mapping[str, Pick],
    targets: Mapping[str, Target],
    points: Mapping[str, OperatingPoint],
    statics: Sequence[Contender],
) -> list[str]:
    """Return notes on static networks that cost less than the picks and meet the target, but by too little to be proven.

    Args:
        picks, targets, points: by the points' names.
        statics: all static networks that take part.
    """
    notes = []
    for name, pick in picks.items():
        target, point = targets[name], points[name]
        if target.goal == "accuracy":
            continue
        is_energy = target.goal == "energy"
        costs = [point.energy_j if is_energy else point.latency_s]
        if pick.best_static is not None:
            costs.append(_static_cost(pick.best_static, target))
        most = max(cost or 0.0 for cost in costs)
        unproven = [(_static_cost(static, target), static) for static in _unproven_statics(pick, target, statics)]
        cost, static = min(unproven, key=lambda pair: pair[0], default=(math.inf, None))
        if static is not None and cost < WORTH_NAMING * most:
            shown = show_value("max_energy_j" if is_energy else "max_latency_s", cost)
            unit = "samples" if static.reporting.groups is None else "groups"
            notes.append(
                f"{name}: the static network to exit {static.static} of {static.configuration.variant.name} takes {shown} and "
                f"meets the target on these samples too{_show_right(static)}, but so few {unit} do not choose or prove it. "
                f"Give more {unit}, or other samples that choose (--outside)."
            )
    return notes


def name_weak_end(statics: Sequence[Contender]) -> list[str]:
    """Return a note on a static network that is right more often than the whole network, from which every drop is counted.

    Args:
        statics: all static networks that take part.
    """
    best, most = None, LEAST_BETTER
    for static in statics:
        table = static.reporting
        if table.right is None or table.right.dtype != bool or table.known is not None:
            continue
        won = -table.per_draw(table.lost[:, -1])
        if won.mean() >= most and won.mean() >= SURELY_BETTER * won.std() / math.sqrt(len(won)):
            best, most = static, float(won.mean())
    if best is None:
        return []
    return [
        f"The static network to exit {best.static} of {best.configuration.variant.name} is right on {most:.2%} more of the "
        "samples than the whole network, from which a drop is counted: the network's end has learnt too little. Train it for "
        "longer, or say how accurate the product must be (--min-accuracy)."
    ]


def _unproven_statics(pick: Pick, target: Target, statics: Sequence[Contender]) -> Iterator[Contender]:
    """Yield the static networks that meet a target on the reporting samples, but by too little to be proven or to be chosen."""
    chosen = {each.key for each in (pick.best_static, *pick.other_statics) if each is not None}
    for static in statics:
        table = static.reporting
        is_passed_over = static.key not in chosen or may_be_unprovable(static, target)
        if is_passed_over and meets_limits(table, target, exits_taken(table.score, ())):
            yield static


def _show_right(static: Contender) -> str:
    """Return how many of the reporting samples a static network is right on, in words; nothing where that is not known."""
    table = static.reporting
    if table.right is None or table.right.dtype != bool or table.known is not None:
        return ""
    return f" ({show_share(float(table.per_draw(table.right[:, -1]).mean()))} right)"


def _static_cost(static: Contender, target: Target) -> float:
    """Return what the target wants the least of, for a static network on the reporting samples."""
    return static.reporting.mean_at(goal_values(static.reporting, target), exits_taken(static.reporting.score, ()))


def _name_unused(unused: Sequence[int], exits: int, passing_s: Sequence[float], variant: str) -> str:
    """Name the exits where no sample leaves, and the command that makes a variant without them."""
    if len(unused) == exits - 1:
        return f"No sample leaves early at any exit of {variant}."
    saved = f"about {show_us(sum(max(0.0, passing_s[k]) for k in unused))} " if passing_s else ""
    rest = [str(k) for k in range(exits) if k not in unused]
    them = "it" if len(unused) == 1 else "them"
    return (
        f"No sample leaves at {_exits(unused)} of {variant}: without {them}, later exits take {saved}less. Try: "
        f"offramp keep BUNDLE --exits {','.join(rest)} --variant {variant}"
    )


def _name_weak(right: Sequence[float], variant: str) -> list[str]:
    """Name the exits that have learnt too little, by the share of samples they are right on; or the last, if it is worse."""
    best = int(np.argmax(right))
    if right[best] - right[-1] > MUCH_BETTER:
        return [
            f"The last exit of {variant} is right on {right[-1]:.1%} of the samples, exit {best} on {right[best]:.1%}: it "
            f"answers what is hard, and is worse. In a cascade {CHECK_MEMBERS}, or name another network last; else train the "
            "last exit on."
        ]
    weak = [k for k, share in enumerate(right) if share < WEAK_SHARE * right[-1]]
    if not weak:
        return []
    shares = ", ".join(f"{right[k]:.1%}" for k in weak)
    return [
        f"{_exits(weak).capitalize()} of {variant} {'is' if len(weak) == 1 else 'are'} right on {shares} of the samples, the "
        f"last on {right[-1]:.1%}: too little to let anything leave. Train the heads for longer, together with the network, or "
        f"take other heads (attach has head=). In a cascade {CHECK_MEMBERS}."
    ]


def _exits(numbers: Sequence[int]) -> str:
    return f"exit{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
