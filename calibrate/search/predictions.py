"""What a contender costs and loses at its thresholds, predicted from its table."""

import numpy as np

from ...bundle import OperatingPoint, Target
from ...bundle.manifest import NEVER, NO_LABEL
from ..intervals import mean_interval
from ..measure.tables import ExitTable, exits_taken, values_at
from .contenders import Contender
from .objective import limit_values, meets_limits
from .worst_parts import find_worst

__all__ = ["predict_point"]

SCORE_BINS = 6
"""Scores are counted in so many bins."""


def predict_point(contender: Contender, thresholds: tuple[float, ...], target: Target) -> OperatingPoint:
    """Predict what thresholds give, by the reporting samples; a static network has no thresholds."""
    table = contender.reporting
    taken = exits_taken(table.score, thresholds)
    shares = table.exit_shares(taken)
    accuracy, full_accuracy, drop, interval = None, None, None, None
    if table.right is not None and table.reference_right is not None:
        if table.known is None:
            accuracy = table.mean_at(table.right, taken)
            full_accuracy = float(table.per_draw(table.reference_right).mean())
        lost = values_at(table.lost, taken)
        drop = float(table.per_draw(lost).mean())
        interval = (
            (0.0, 0.0) if table.is_reference else mean_interval(lost, table.groups, independent=table.independent)
        )
    costs, late = table.costs, limit_values(table, target).get("max_late")
    edges, score_shares = _count_scores(contender, thresholds)
    return OperatingPoint(
        variant=contender.configuration.variant.name,
        placement=contender.placement,
        target=target,
        static=contender.static,
        thresholds=thresholds,
        accuracy=accuracy,
        full_accuracy=full_accuracy,
        full_accuracy_interval=_bound_accuracy(table),
        drop=drop,
        drop_interval=interval,
        disagreement=table.mean_at(table.differs, taken),
        own_disagreement=_find_own_disagreement(table, taken) if contender.static is None else None,
        score_edges=edges,
        score_shares=score_shares,
        latency_s=float(shares @ costs.latency_s),
        late=None if late is None else table.mean_at(late.values, taken),
        energy_j=None if costs.energy_j is None else float(shares @ costs.energy_j),
        exit_shares=tuple(shares.tolist()),
        exit_latency_s=tuple(costs.latency_s.tolist()),
        joined=costs.joined,
        met=meets_limits(table, target, taken),
        worst=find_worst(table, target, taken),
    )


def _count_scores(contender: Contender, thresholds: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return edges between bins of the scores of the first exit that is taken, and the share of the reporting samples in each.

    The edges are quantiles of the selecting samples: chosen by others than are counted, so that the counts are chance alone.
    """
    first = next((k for k, threshold in enumerate(thresholds) if threshold < NEVER), None)
    if first is None:
        return (), ()
    chosen = np.quantile(contender.selecting.score[:, first], np.arange(1, SCORE_BINS) / SCORE_BINS, method="lower")
    edges = np.unique(chosen)
    bins = np.searchsorted(edges, contender.reporting.score[:, first], side="right")
    each = [contender.reporting.per_draw((bins == k).astype(float)).mean() for k in range(len(edges) + 1)]
    return tuple(edges.tolist()), tuple(map(float, each))


def _bound_accuracy(table: ExitTable) -> tuple[float, float] | None:
    """Return between what the reference's accuracy on these samples lies if some labels are unknown; else None."""
    if table.known is None or table.reference_right is None:
        return None
    certain, possible = (table.per_draw(each) for each in (table.reference_right & table.known, table.reference_right))
    return float(certain.mean()), float(possible.mean())


def _find_own_disagreement(table: ExitTable, taken: np.ndarray) -> float | None:
    """Return the share of samples with another label than the last exit's; None if the network does not classify."""
    if (table.label == NO_LABEL).all():
        return None
    return table.mean_at(table.label != table.label[:, -1:], taken)
