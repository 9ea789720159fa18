"""How much better a point looks on the reporting samples than it is, because they also chose its step along the path."""

from statistics import NormalDist

import numpy as np
from msgspec.structs import replace

from ...bundle import OperatingPoint, Target
from ..intervals import drop_interval, noninferiority_z
from ..measure.tables import ExitTable, exits_taken, values_at
from ..search.objective import limit_values
from .exact_tests import critical_z, share_bound
from .promises import delta_of_losses

REDRAWS = 200
"""How often the reporting samples are drawn again."""

MOST_SAMPLES = 50_000
"""With more samples the bias is below 0.01 %, and drawing them again takes seconds and gigabytes."""

__all__ = ["correct"]


def correct(point: OperatingPoint, table: ExitTable, path: np.ndarray, *, delta: float) -> OperatingPoint:
    """Return a point whose accuracy, drop, interval and disagreements are corrected for the choice of its step.

    The bias is estimated by the bootstrap (Efron, JASA 78, 1983): the samples are drawn again from themselves, each draw chooses
    a step, and the bias is by how much less is lost there on the draw than on all samples, in the mean. A point that lets nobody
    leave early was not chosen, and has none.

    Args:
        point: a certified point, with the figures that the samples show.
        table: of the reporting samples.
        path: the candidates, of which the point's thresholds are one.
        delta: the chance of a false promise that `certify_path` was given.
    """
    if len(table) > MOST_SAMPLES:
        return point
    taken = np.stack([exits_taken(table.score, thresholds.tolist()).astype(np.int16) for thresholds in path])
    step = int((path == np.asarray(point.thresholds, np.float32)).all(axis=1).argmax())
    if (taken[step] == table.exits - 1).all():
        return point
    size = table.draws
    draws = max(1, int(size * table.independent))
    often = np.random.default_rng(0).multinomial(draws, np.full(size, 1 / size), REDRAWS)
    often = np.vstack([often, np.full(size, draws / size)]).astype(np.float32)  # the last one is no redraw
    chosen = _last_certified(table, point.target, taken, often, delta_of_losses(point.target, delta))
    if chosen[-1] > step:  # a limit of cost was the one that failed
        chosen = np.minimum(chosen, step)
    rows = np.flatnonzero(chosen[:-1] >= 0)
    if not len(rows):
        return point

    def corrected(values: np.ndarray) -> float:
        """Return a share of the samples at the point's step, and the bias added."""
        sums = _sum_by_step(_values_by_step(values, taken, table), often)
        bias = (sums[-1, chosen[rows]] - sums[rows, chosen[rows]]).mean()
        return min(1.0, max(0.0, float(sums[-1, step] + bias) / draws))

    disagreement = corrected(table.differs)
    if point.own_disagreement is not None:
        point = replace(point, own_disagreement=corrected(table.label != table.label[:, -1:]))
    if point.drop is None:
        return replace(point, disagreement=disagreement, choice_bias=disagreement - point.disagreement)
    if table.lost.dtype.kind == "f" or table.groups is not None:
        sums = _sum_by_step(_values_by_step(table.lost, taken, table), often)
        bias = float((sums[-1, chosen[rows]] - sums[rows, chosen[rows]]).mean()) / draws
        low, high = point.drop_interval or (point.drop, point.drop)
        return replace(
            point,
            accuracy=None
            if point.full_accuracy is None
            else min(1.0, max(0.0, point.full_accuracy - point.drop - bias)),
            drop=point.drop + bias,
            drop_interval=(max(-1.0, low + bias), min(1.0, high + bias)),
            disagreement=disagreement,
            choice_bias=bias,
        )
    lost, won = corrected(table.lost > 0), corrected(table.lost < 0)
    return replace(
        point,
        accuracy=None if point.full_accuracy is None else min(1.0, max(0.0, point.full_accuracy - lost + won)),
        drop=lost - won,
        drop_interval=drop_interval(lost, won, len(table) * table.independent),
        disagreement=disagreement,
        choice_bias=lost - won - point.drop,
    )


def _values_by_step(values: np.ndarray, taken: np.ndarray, table: ExitTable) -> np.ndarray:
    """Return the value of each sample, or the mean of each group, at each step: (steps, N) or (steps, groups)."""
    return np.stack([table.per_draw(values_at(values, step)) for step in taken])


def _sum_by_step(at_steps: np.ndarray, often: np.ndarray) -> np.ndarray:
    """Return the sum of values at each step, float64 (draws, steps), where samples count as often as they were drawn."""
    return np.asarray((often @ at_steps.astype(np.float32).T).astype(np.float64))


def _last_certified(table: ExitTable, target: Target, taken: np.ndarray, often: np.ndarray, delta: float) -> np.ndarray:
    """Return for each draw the last step before the first of which a limit of losses is not proven; -1 if that is the first."""
    is_proven = np.ones((len(often), len(taken)), bool)
    for part in table.each_part(target.by):
        columns = part.rows
        if table.groups is not None and part.table.groups is not None:
            columns = np.searchsorted(np.unique(table.groups), np.unique(part.table.groups))
        for name, (values, most) in limit_values(part.table, target).items():
            if values.ndim == 2:
                at_steps = _values_by_step(values, taken[:, part.rows], part.table)
                is_proven &= _prove_by_step(at_steps, often[:, columns], name, most, delta)
    return np.asarray(np.where(is_proven.all(axis=1), len(taken), (~is_proven).argmax(axis=1)) - 1)


def _prove_by_step(at_steps: np.ndarray, often: np.ndarray, name: str, most: float, delta: float) -> np.ndarray:
    """Return for each draw and step whether a limit of losses is proven, about, bool (draws, steps)."""
    n = max(1, round(float(often[-1].sum())))
    if at_steps.dtype.kind == "f":  # bets on each draw would take minutes
        mean, square = (_sum_by_step(part, often) / n for part in (at_steps, at_steps**2))
        error = np.sqrt(np.maximum(square - mean**2, 1 / n) / n)
        return np.asarray(mean + NormalDist().inv_cdf(1 - delta) * error <= most)
    if name == "max_drop":
        lost, won = (_sum_by_step(part, often) for part in (at_steps > 0, at_steps < 0))
        return np.asarray(noninferiority_z(lost, won, n, most) <= critical_z(n, most, delta))
    allowed = sum(share_bound(count, n, delta=delta) <= most for count in range(int(most * n) + 1)) - 1
    return np.asarray(_sum_by_step(at_steps, often) <= allowed + 1e-3)
