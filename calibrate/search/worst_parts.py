"""The classes or groups that lose most at some thresholds, where a target limits what each of them may lose."""

from collections.abc import Sequence

import numpy as np

from ...bundle import Target
from ...bundle.findings import WorstPart
from ...bundle.target import LOSS_LIMITS
from ..intervals import mean_interval
from ..measure.tables import ExitTable, values_at
from ..parts import group_means
from .objective import limit_values

MOST_SHOWN = 10
"""So many parts are shown, the worst first."""

__all__ = ["find_worst", "rank_parts"]


def find_worst(table: ExitTable, target: Target, taken: np.ndarray) -> tuple[WorstPart, ...]:
    """Return the parts that come closest to a target's limit of losses or break it by most, the worst first.

    The intervals of all parts hold together in 95 % of all cases (Bonferroni), since the worst of many looks worse than it is.

    Args:
        table: of the samples.
        target: its first limit of losses is shown. Without `by` there are no parts, and of the reference against itself none.
        taken: the exit that each sample takes.
    """
    name = next((name for name in target.limits if name in LOSS_LIMITS), None)
    if target.by is None or name is None or (table.is_reference and name in ("max_drop", "max_disagreement")):
        return ()
    seen = values_at(limit_values(table, target)[name].values, taken)
    parts = [(part.name, seen[part.rows], part.table.groups) for part in table.each_part(target.by)]
    return rank_parts(parts, name, independent=table.independent)


def rank_parts(
    parts: Sequence[tuple[str, np.ndarray, np.ndarray | None]], limit: str, *, independent: float = 1.0
) -> tuple[WorstPart, ...]:
    """Return the parts with the largest means, the worst first.

    Args:
        parts: the name of each, the values of its samples, and the numbers of their groups if there are any.
        limit: the limit's name in a `Target`.
        independent: the share of the samples, or groups, that counts as independent.
    """
    worst = []
    for name, values, groups in parts:
        each = values if groups is None else group_means(values, groups)
        low, high = mean_interval(values, groups, independent=independent, chance=0.05 / len(parts))
        low = low if limit == "max_drop" else max(0.0, low)
        worst.append(WorstPart(name, len(parts), len(values), limit, float(each.mean()), (low, high)))
    return tuple(sorted(worst, key=lambda part: -part.value)[:MOST_SHOWN])
