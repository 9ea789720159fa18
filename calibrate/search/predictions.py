"""What a network costs and loses at its thresholds, predicted from tables."""

import numpy as np
from msgspec import Struct

from ...bundle import OperatingPoint, Target
from ..intervals import paired_drop
from ..measure.tables import Table, exits_taken, mean_of
from .objective import keeps, limited


class Named(Struct, frozen=True):
    """What a contender is called in an operating point: its variant, and the devices of its stages."""

    variant: str
    placement: tuple[str, ...]


def predict(table: Table, thresholds: tuple[float, ...], target: Target, named: Named) -> OperatingPoint:
    """Predict what thresholds give, by the samples of a table."""
    taken = exits_taken(table.score, thresholds)
    exits = table.score.shape[1]
    shares = np.bincount(taken, minlength=exits) / len(taken)
    right = None if table.right is None else table.right[np.arange(len(taken)), taken]
    drop, interval = (None, None) if right is None or table.whole is None else paired_drop(right, table.whole)
    costs, late = table.costs, limited(table, target).get("max_late")
    return OperatingPoint(
        variant=named.variant,
        placement=named.placement,
        target=target,
        thresholds=thresholds,
        accuracy=None if right is None else float(right.mean()),
        full_accuracy=None if table.whole is None else float(table.whole.mean()),
        drop=drop,
        drop_interval=interval,
        disagreement=mean_of(table.differs, taken),
        latency_s=float(shares @ costs.latency_s),
        late=None if late is None else mean_of(late[0], taken),
        energy_j=None if costs.energy_j is None else float(shares @ costs.energy_j),
        exit_shares=tuple(shares.tolist()),
        exit_latency_s=tuple(costs.latency_s.tolist()),
        met=keeps(table, target, taken),
    )
