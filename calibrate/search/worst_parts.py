"""The classes or groups that lose most at some thresholds, where a target limits what each of them may lose."""

import numpy as np

from ...bundle import Target
from ...bundle.target import LOSS_LIMITS
from ...bundle.worst_part import WorstPart
from ..intervals import mean_interval
from ..measure.tables import ExitTable, values_at
from .objective import limit_values

MOST_SHOWN = 10
"""So many parts are shown, the worst first."""

__all__ = ["find_worst"]


def find_worst(table: ExitTable, target: Target, taken: np.ndarray) -> tuple[WorstPart, ...]:
    """Return the parts that come closest to a target's limit of losses or break it by most, the worst first.

    The intervals of all parts hold together in 95 % of all cases (Bonferroni), since the worst of many looks worse than it is.

    Args:
        table: of the samples.
        target: its first limit of losses is shown; without `by` there are no parts.
        taken: the exit that each sample takes.
    """
    name = next((name for name in target.limits if name in LOSS_LIMITS), None)
    if target.by is None or name is None:
        return ()
    seen, parts = values_at(limit_values(table, target)[name].values, taken), table.each_part(target.by)
    worst = []
    for part in parts:
        here = part.table.per_draw(seen[part.rows])
        low, high = mean_interval(
            here, independent=table.independent, are_groups=table.groups is not None, chance=0.05 / len(parts)
        )
        low = low if name == "max_drop" else max(0.0, low)
        worst.append(WorstPart(part.name, len(parts), len(part.rows), name, float(here.mean()), (low, high)))
    return tuple(sorted(worst, key=lambda part: -part.value)[:MOST_SHOWN])
