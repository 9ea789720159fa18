"""How much better one contender is than another at a target's goal, and whether that is sure."""

import math
from typing import Literal

import numpy as np
from msgspec import Struct

from ...bundle import Target
from ...errors import require
from ..measure.tables import ExitTable, exits_taken, values_at

__all__ = ["LEAST_GAIN", "Gain", "measure_gain"]

LEAST_GAIN = 0.05
"""The share of the mean cost that a recommendation must surely save, unless another is asked for."""

SURE_ERRORS = 1.96
"""Standard errors on either side that hold the true gain in 95 % of all measurements."""

NOISE_ERRORS = 2.365
"""The same for a standard error that `noise.PARTS` parts of a measurement show: Student's, with one degree of freedom less."""

LEAST_MEAN = 0.01
"""A mean cost that is nothing but noise is taken to be this share of it, so that intervals end."""

Thresholds = tuple[float, ...]


class Gain(Struct, frozen=True):
    """How much better one contender is than another.

    Attributes:
        of: what is gained: time, joules or accuracy.
        share: the part of the other's mean cost that is saved: 0.2 is 20 % less. Of accuracy, the difference.
        error: its standard error: of the samples, and of the machine's noise, which counts for more since few parts show it.
        least: the share that must surely be saved. It is 0 for accuracy: there any sure difference counts.
    """

    of: Literal["latency", "energy", "accuracy"]
    share: float
    error: float
    least: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share, of which no more than all can be saved."""
        return self.share - SURE_ERRORS * self.error, min(1.0, self.share + SURE_ERRORS * self.error)

    @property
    def is_sure(self) -> bool:
        """True if the whole interval lies above zero, and not below the least gain."""
        low, _ = self.interval
        return low > 0 and low >= self.least


def measure_gain(
    ours: tuple[ExitTable, Thresholds],
    theirs: tuple[ExitTable, Thresholds],
    target: Target,
    *,
    least: float,
    bias: float = 0.0,
) -> Gain:
    """Measure how much better one contender is than another on the same samples.

    With the goal `accuracy`, contenders whose accuracies do not surely differ are compared by latency.

    Args:
        ours, theirs: table and thresholds of each; the tables have the same samples in the same order.
        target: whose goal decides.
        least: the share of the mean cost that must surely be saved.
        bias: how much more accurate ours looks on these samples than it is, because they chose its thresholds.
    """
    if target.goal == "accuracy":
        gained = _wrong(*theirs) - _wrong(*ours)
        gain = Gain("accuracy", float(gained.mean()) - bias, _error(gained, ours[0]), 0.0)
        if gain.is_sure or gain.interval[1] < 0:
            return gain
    return _measure_saving("energy" if target.goal == "energy" else "latency", ours, theirs, least)


def _wrong(table: ExitTable, thresholds: Thresholds) -> np.ndarray:
    return table.per_draw(values_at(table.wrong, exits_taken(table.score, thresholds)).astype(float))


def _measure_saving(
    of: Literal["latency", "energy"],
    ours: tuple[ExitTable, Thresholds],
    theirs: tuple[ExitTable, Thresholds],
    least: float,
) -> Gain:
    """Return what is saved of a mean cost.

    The error of the ratio of two means is that of the mean of (cost - ratio * other cost) / other mean (the delta method). The
    noise of the other mean counts by how much smaller that may be, for a ratio grows without end where it nears 0 (Fieller,
    Journal of the Royal Statistical Society B 16, 1954).
    """
    cost, other = (_cost(of, *each) for each in (ours, theirs))
    mean = float(other.mean())
    if mean <= 0:
        return Gain(of, 0.0, 0.0, least)
    ratio = float(cost.mean()) / mean
    error = _error(cost - ratio * other, ours[0]) / mean
    least_mean = max(LEAST_MEAN, 1 - NOISE_ERRORS * theirs[0].costs.noise)
    noise = ratio * math.hypot(ours[0].costs.noise, theirs[0].costs.noise / least_mean)
    return Gain(of, 1 - ratio, math.hypot(error, noise * NOISE_ERRORS / SURE_ERRORS), least)


def _error(values: np.ndarray, table: ExitTable) -> float:
    """Return the standard error of a mean over a table's samples or groups; those that depend on each other count for fewer.

    Groups may be few: their error is as much larger as Student's interval is.
    """
    error = float(values.std()) / math.sqrt(len(values) * table.independent)
    if table.groups is None:
        return error
    if len(values) < 2:
        return math.inf
    few = float(require("scipy.special", extra="calibrate").stdtrit(len(values) - 1, 0.975)) / SURE_ERRORS
    return error * few * math.sqrt(len(values) / (len(values) - 1))


def _cost(of: Literal["latency", "energy"], table: ExitTable, thresholds: Thresholds) -> np.ndarray:
    values = table.costs.latency_s if of == "latency" else table.costs.energy_j
    assert values is not None  # a target of energy without a meter was refused
    return table.per_draw(np.asarray(values_at(values, exits_taken(table.score, thresholds)), float))
