"""The goal and the limits of a target, as values of leaving at each exit.

All that a target can ask is a mean over the samples of a value that depends on the exit at which each leaves. So one table holds
a chain, or a static network, which is a chain of one exit; the search, the figures and the promises all read it.
"""

from typing import NamedTuple

import numpy as np

from ...bundle import Target
from ..measure.tables import ExitTable, mean_at
from .thresholds import Limit, Problem, solve

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
    if is_coarse:
        return solve(problem, values=COARSE_VALUES, fine_values=COARSE_FINE_VALUES)
    return solve(problem)


def meets_limits(table: ExitTable, target: Target, taken: np.ndarray) -> bool:
    """Return True if samples that leave at the exits `taken` meet all limits of a target."""
    return all(mean_at(values, taken) <= most for values, most in limit_values(table, target).values())
