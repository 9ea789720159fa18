"""The goal and the limits of a target, as values of leaving at each exit.

All that a target can ask is a mean over the samples of a value that depends on the exit at which each leaves. So one table holds
a chain, or a static network, which is a chain of one exit; the search, the figures and the promises all read it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from ...bundle import Target
from ...bundle.target import LOSS_LIMITS
from ..measure.tables import ExitTable, exits_taken, values_at
from .thresholds import Limit, Problem, solve

MOST_PART_LIMITS = 4
"""So many parts at most are searched with a limit of their own: those that miss it by most. The tests hold all to it."""

__all__ = ["LimitValues", "find_thresholds", "goal_values", "limit_values", "meets_limits"]

COARSE_VALUES, COARSE_FINE_VALUES = 16, 64
"""Candidates per exit of a coarse search: of the whole grid, and of the grid that zoom chooses from."""


class LimitValues(NamedTuple):
    """What a limit limits: values of leaving at each exit, as `Limit.values`, and how large their mean may be."""

    values: np.ndarray
    most: float


def limit_values(table: ExitTable, target: Target) -> dict[str, LimitValues]:
    """Return the values that each limit of a target limits, by the limit's name."""
    values: dict[str, LimitValues] = {}
    for name, most in target.limits.items():
        match name:
            case "min_accuracy":
                values[name] = LimitValues(table.wrong, 1 - most)
            case "max_loss":
                values[name] = LimitValues(table.wrong, most)
            case "max_drop":
                values[name] = LimitValues(table.lost, most)
            case "max_disagreement":
                values[name] = LimitValues(table.differs, most)
            case "max_latency_s":
                values[name] = LimitValues(table.costs.latency_s, most)
            case "max_late":
                values[name] = LimitValues(table.costs.late_shares(target.deadline_s or 0.0), most)
            case _:
                assert table.costs.energy_j is not None
                values[name] = LimitValues(table.costs.energy_j, most)
    return values


def goal_values(table: ExitTable, target: Target) -> np.ndarray:
    """Return the values whose mean the target wants the least of, as `Limit.values`: errors, joules or seconds."""
    if target.goal == "accuracy":
        return table.wrong
    if target.goal == "energy":
        assert table.costs.energy_j is not None
        return table.costs.energy_j
    return table.costs.latency_s


def find_thresholds(
    table: ExitTable, target: Target, *, margin: float, is_cautious: bool = False, is_coarse: bool = False
) -> tuple[float, ...] | None:
    """Find the best thresholds for a target; None if none meet its limits.

    Args:
        table: of the selecting samples.
        target: the target.
        margin: standard errors to stay away from the limits, so that other samples meet them too.
        is_cautious: choose by `lost_at_most` instead of the drop, which few samples measure too roughly.
        is_coarse: search a coarse grid, in a tenth of the time.
    """
    lost = table.lost_at_most if is_cautious else table.lost
    limits = tuple(
        Limit(lost if name == "max_drop" else values, most, margin)
        for name, (values, most) in limit_values(table, target).items()
    )
    second = table.costs.latency_s if target.goal == "accuracy" else lost
    problem = Problem(table.score, goal_values(table, target), second, limits)
    sizes = {"values": COARSE_VALUES, "fine_values": COARSE_FINE_VALUES} if is_coarse else {}
    found = solve(problem, **sizes)
    for _ in range(MOST_PART_LIMITS if target.by else 0):
        if found is None or (missed := _find_missed(table, target, found)) is None:
            break
        problem = replace(problem, limits=(*problem.limits, missed))
        found = solve(problem, **sizes)
    return found


def _find_missed(table: ExitTable, target: Target, thresholds: Sequence[float]) -> Limit | None:
    """Return the limit in the part that surely misses it by most at some thresholds; None if none does.

    Few samples of a part tell little, so that one standard error beyond the limit is allowed. The mean is one over all
    samples, of values that are 0 in other parts.
    """
    taken, worst, missed = exits_taken(table.score, thresholds), 0.0, None
    for name, (values, most) in limit_values(table, target).items():
        if name not in LOSS_LIMITS:
            continue
        seen = values_at(values, taken)
        for part in table.each_part(target.by):
            n, here = len(part.rows), seen[part.rows].astype(float)
            # as `paired_error`, so that few samples that agree do not look sure
            error = math.sqrt(((here**2).sum() + 2 - here.sum() ** 2 / (n + 2)) / (n + 2) ** 2)
            if (excess := float(here.mean()) - error - most) > worst:
                inside = np.zeros_like(values)
                inside[part.rows] = values[part.rows]
                worst, missed = excess, Limit(inside, most * n / len(table), -1.0)
    return missed


def meets_limits(table: ExitTable, target: Target, taken: np.ndarray) -> bool:
    """Return True if samples that leave at the exits `taken` meet all limits of a target, in every part that it names."""
    limits = limit_values(table, target)
    if any(table.mean_at(values, taken) > most for values, most in limits.values()):
        return False
    seen = [(values_at(limits[name].values, taken), limits[name].most) for name in limits if name in LOSS_LIMITS]
    return all(
        part.table.per_draw(values[part.rows]).mean() <= most
        for part in (table.each_part(target.by) if target.by else ())
        for values, most in seen
    )
