"""What a target asks of a way to run: its goal and its limits as values of leaving at each exit.

Everything that can be asked is a mean over the samples of something that depends on the exit at which each leaves. So one table
holds a chain, or a static network, which is a chain of one exit; the search, the figures and the promises all read it.
"""

import numpy as np

from ...bundle import Target
from ..measure.tables import Table, mean_of
from .thresholds import Limit, Problem, search


def limited(table: Table, target: Target) -> dict[str, tuple[np.ndarray, float]]:
    """Return by each limit's name what leaving at each exit gives, as `search.Limit.value`, and how large its mean may be."""
    found: dict[str, tuple[np.ndarray, float]] = {}
    for name, most in target.limits.items():
        match name:
            case "min_accuracy":
                found[name] = table.wrong, 1 - most
            case "max_drop":
                found[name] = table.lost, most
            case "max_disagreement":
                found[name] = table.differs, most
            case "max_latency_s":
                found[name] = table.costs.latency_s, most
            case "max_late":
                found[name] = table.costs.late(target.deadline_s or 0.0), most
            case _:
                assert table.costs.energy_j is not None
                found[name] = table.costs.energy_j, most
    return found


def goal_of(table: Table, target: Target) -> np.ndarray:
    """Return what the target wants the least of, as `search.Limit.value`."""
    if target.goal == "accuracy":
        return table.wrong
    if target.goal == "energy":
        assert table.costs.energy_j is not None
        return table.costs.energy_j
    return table.costs.latency_s


def find_thresholds(
    table: Table, target: Target, *, margin: float, few: bool = False, coarse: bool = False
) -> tuple[float, ...] | None:
    """Find the thresholds that are best for a target; None where none keep its limits.

    Args:
        table: of the samples that choose.
        target: the target.
        margin: how many standard errors to stay away from the limits, so that other samples keep them too.
        coarse: whether a coarse grid will do.
        few: of few samples the drop is too uncertain to choose by: what is lost at most stands for it.
    """
    lost = table.lost_at_most if few else table.lost
    limits = []
    for name, (value, most) in limited(table, target).items():
        limits.append(Limit(lost if name == "max_drop" else value, most, margin))
    second = table.costs.latency_s if target.goal == "accuracy" else lost
    how = {"values": 16, "fine": 64} if coarse else {}
    return search(Problem(table.score, goal_of(table, target), second, tuple(limits)), **how)


def keeps(table: Table, target: Target, taken: np.ndarray) -> bool:
    """Tell whether samples that leave at some exits keep a target's limits."""
    return all(mean_of(value, taken) <= most for value, most in limited(table, target).values())
