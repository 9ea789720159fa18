"""What a contender costs and loses at its thresholds, predicted from its table."""

import numpy as np

from ...bundle import OperatingPoint, Target
from ...bundle.manifest import NO_LABEL
from ..intervals import mean_drop, paired_drop
from ..measure.tables import ExitTable, exits_taken, mean_at, values_at
from .contenders import Contender
from .objective import limit_values, meets_limits

__all__ = ["predict_point"]


def predict_point(contender: Contender, thresholds: tuple[float, ...], target: Target) -> OperatingPoint:
    """Predict what thresholds give, by the reporting samples; a static network has no thresholds."""
    table = contender.reporting
    taken = exits_taken(table.score, thresholds)
    shares = np.bincount(taken, minlength=table.exits) / len(taken)
    right = None if table.right is None else values_at(table.right, taken)
    drop, interval = None, None
    if right is not None and table.reference_right is not None:
        compare = paired_drop if right.dtype == bool else mean_drop
        drop, interval = compare(right, table.reference_right, independent=table.independent)
    costs, late = table.costs, limit_values(table, target).get("max_late")
    return OperatingPoint(
        variant=contender.configuration.variant.name,
        placement=contender.placement,
        target=target,
        static=contender.static,
        thresholds=thresholds,
        accuracy=None if right is None else float(right.mean()),
        full_accuracy=None if table.reference_right is None else float(table.reference_right.mean()),
        drop=drop,
        drop_interval=interval,
        disagreement=mean_at(table.differs, taken),
        own_disagreement=_find_own_disagreement(table, taken) if contender.static is None else None,
        latency_s=float(shares @ costs.latency_s),
        late=None if late is None else mean_at(late.values, taken),
        energy_j=None if costs.energy_j is None else float(shares @ costs.energy_j),
        exit_shares=tuple(shares.tolist()),
        exit_latency_s=tuple(costs.latency_s.tolist()),
        met=meets_limits(table, target, taken),
    )


def _find_own_disagreement(table: ExitTable, taken: np.ndarray) -> float | None:
    """Return the share of samples with another label than the last exit's; None if the network does not classify."""
    if (table.label == NO_LABEL).all():
        return None
    return mean_at(table.label != table.label[:, -1:], taken)
