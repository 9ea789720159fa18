"""How much better a point looks on the reporting samples than it is, because they also chose its step along the path."""

from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from ...bundle import OperatingPoint, Target
from ..intervals import noninferiority_z
from ..measure.tables import ExitTable, exits_taken, values_at
from ..search.objective import limit_values
from .exact_tests import critical_z, share_bound

REDRAWS = 200
"""How often the reporting samples are drawn again."""

__all__ = ["ChoiceBias", "correct", "estimate_bias"]


class ChoiceBias(NamedTuple):
    """What is to be added to the drop and to the disagreement that the reporting samples show."""

    drop: float
    disagreement: float


def estimate_bias(table: ExitTable, target: Target, path: np.ndarray, step: int, *, delta: float) -> ChoiceBias:
    """Estimate the bias of a point's drop and disagreement by the bootstrap (Efron, JASA 78, 1983).

    The samples are drawn again from themselves, each draw chooses a step, and the bias is by how much less is lost there on the
    draw than on all samples, in the mean. A path's first candidate, of which nobody leaves early, was not chosen and has none.

    Args:
        table: of the reporting samples.
        target: the target.
        path: the candidates.
        step: the candidate that was certified.
        delta: the chance of a false promise that each candidate was tested at.
    """
    taken = np.stack([exits_taken(table.score, thresholds.tolist()) for thresholds in path])
    if (taken[step] == table.exits - 1).all():
        return ChoiceBias(0.0, 0.0)
    draws = max(1, int(len(table) * table.independent))
    often = np.random.default_rng(0).multinomial(draws, np.full(len(table), 1 / len(table)), REDRAWS)
    often = np.vstack([often, np.full(len(table), draws / len(table))]).astype(np.float32)  # the last one is no redraw
    lost, differs = (_losses_by_step(values, taken, often) for values in (table.lost, table.differs))
    chosen = _last_certified(table, target, taken, often, delta)
    if chosen[-1] > step:  # a limit of cost was the one that failed
        chosen = np.minimum(chosen, step)
    rows = np.flatnonzero(chosen[:-1] >= 0)
    if not len(rows):
        return ChoiceBias(0.0, 0.0)
    at = chosen[rows]
    biases = (float((losses[-1, at] - losses[rows, at]).mean()) / draws for losses in (lost, differs))
    return ChoiceBias(*biases)


def correct(point: OperatingPoint, bias: ChoiceBias) -> OperatingPoint:
    """Return a point whose drop, accuracy and disagreement are corrected."""
    disagreement = min(1.0, max(0.0, point.disagreement + bias.disagreement))
    if point.drop is None or point.accuracy is None or point.drop_interval is None:
        return replace(point, disagreement=disagreement, choice_bias=bias.disagreement)
    low, high = point.drop_interval
    return replace(
        point,
        accuracy=min(1.0, max(0.0, point.accuracy - bias.drop)),
        drop=point.drop + bias.drop,
        drop_interval=(low + bias.drop, high + bias.drop),
        disagreement=disagreement,
        choice_bias=bias.drop,
    )


def _losses_by_step(values: np.ndarray, taken: np.ndarray, often: np.ndarray) -> np.ndarray:
    """Return the sum of values at each step, float64 (draws, steps), where samples count as often as they were drawn."""
    at_steps = np.stack([values_at(values, step) for step in taken]).astype(np.float32)
    return np.asarray((often @ at_steps.T).astype(np.float64))


def _last_certified(table: ExitTable, target: Target, taken: np.ndarray, often: np.ndarray, delta: float) -> np.ndarray:
    """Return for each draw the last step before the first of which a limit of losses is not proven; -1 if that is the first."""
    n = round(float(often[0].sum()))
    is_proven = np.ones((len(often), len(taken)), bool)
    for name, (values, most) in limit_values(table, target).items():
        if name == "max_drop":
            lost, won = (_losses_by_step(part, taken, often) for part in (values > 0, values < 0))
            is_proven &= noninferiority_z(lost, won, n, most) <= critical_z(n, most, delta)
        elif values.ndim == 2:
            allowed = sum(share_bound(count, n, delta=delta) <= most for count in range(int(most * n) + 1)) - 1
            is_proven &= _losses_by_step(values, taken, often) <= allowed + 1e-3
    return np.asarray(np.where(is_proven.all(axis=1), len(taken), (~is_proven).argmax(axis=1)) - 1)
