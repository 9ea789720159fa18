"""From readings of a rail to joules between two times, with how uncertain they are.

    reading  |      ____            ____          a sensor shows a value until its next update:
             | ____|    |____  ____|    |____     where readings change, an update has come
    polled   | . . . . . . . x . . . . . . . .    x: a failed read, a gap from the read before to the read after
    edges    |    [----------------------]        the trapezoids end at interpolated edges

A power is integrated by trapezoids between updates. A counter is subtracted from itself and misses nothing. Two kinds of error
are added up. The bias is what the sensor cannot tell, such as the energy between its last update and the end. The noise of a
sampled power is estimated from the differences between neighbouring blocks of the window (von Neumann, Annals of Mathematical
Statistics 12, 1941), so that a slow drift is not taken for noise.
"""

import math

import numpy as np
from msgspec import Struct

from .rail import Rail
from .wrong_readings import find_contradictions, find_spikes

__all__ = [
    "LEAST_PERIODS",
    "LEAST_UPDATES",
    "LEAST_WINDOW_S",
    "RailEnergy",
    "estimate_half_interval",
    "integrate",
    "power_over_time",
    "student95",
]

BLOCKS = 20
"""A window is divided into this many blocks to estimate its error."""

LEAST_UPDATES = 20
LEAST_PERIODS = 50
LEAST_WINDOW_S = {"power": 2.0, "energy": 0.1}
"""The least updates, sensor periods and seconds of a window. A sampled power needs two seconds even of a fast sensor."""

DRAWN_S = 0.05
"""The power by a counter is drawn as means over at least so long, or the jitter of its reads would look like a load's."""

SILENT_POLLS = 5
"""Nothing read for so many polls in a row is a gap."""


class RailEnergy(Struct, frozen=True, kw_only=True):
    """The energy of one rail between two times.

    Attributes:
        energy_j: the sum.
        blocks_j: float64 (blocks,), the energy of equal parts of the time; empty if nothing was read.
        noise_j: `blocks_j` of a sampled power, whose differences show the sensor's noise; empty for a counter.
        bias_j: how far the sum may be off in one direction: edges between two updates, gaps, coarse steps.
        min_w, max_w: the least and the most power seen.
        period_s: the time between two updates of the sensor, as found from its readings.
        updates: how many updates there were.
        needs_s: the shortest window for this sensor.
        gaps, gap_s: how often and how long nothing was read, or only impossible values.
    """

    energy_j: float
    blocks_j: np.ndarray
    noise_j: np.ndarray
    bias_j: float
    min_w: float
    max_w: float
    period_s: float
    updates: int
    needs_s: float
    gaps: int
    gap_s: float


class _Curve(Struct, frozen=True):
    """Energy as it rises with time, through points between which it is interpolated.

    Attributes:
        at_s, total_j: float64 (points,), times and the joules until then.
        lost: bool (readings - 1,), true where the energy between two readings is unknown.
        updates_w: the readings of a power at its updates; empty for a counter.
    """

    at_s: np.ndarray
    total_j: np.ndarray
    lost: np.ndarray
    updates_w: np.ndarray


def integrate(
    times: np.ndarray, values: np.ndarray, rail: Rail, start_s: float, end_s: float, *, poll_s: float
) -> RailEnergy:
    """Integrate a rail between two times.

    Args:
        times: the middle of each read in seconds, float64 (N,), on a clock that does not go back.
        values: W or J as the rail counts, float64 (N,); NaN for a failed read.
        rail: the rail.
        start_s, end_s: from when to when.
        poll_s: how often the sensor was to be read.
    """
    t, v, failed, spikes_w = _drop_wrong(np.asarray(times, np.float64), np.asarray(values, np.float64), rail)
    length_s = end_s - start_s
    if not len(t):
        return _nothing(length_s)
    step_s = float(np.median(np.diff(t))) if len(t) > 1 else poll_s
    period_s, updates = _find_period(t, v, rail, start_s, end_s, step_s)
    limit_s = SILENT_POLLS * max(poll_s, step_s)
    silent = failed | (np.diff(t) > limit_s)
    if rail.counts == "power":
        curve = _add_up_power(t, v, silent, period_s, start_s, end_s)
        seen_w = v[(t >= start_s) & (t <= end_s)]
    else:
        curve = _add_up_counter(t, v, rail, failed, period_s, step_s)
        seen_w = v[:0]
    gaps, gap_s, lost_s = _measure_gaps(t, silent, curve.lost, start_s, end_s, limit_s)
    blocks = _cut_blocks(curve, start_s, end_s, period_s)
    if rail.counts == "energy" and lost_s > 0:  # what a counter did not show is taken for the mean of the rest
        blocks += blocks.sum() / max(length_s - lost_s, poll_s) * lost_s / len(blocks)
    powers = seen_w if len(seen_w) else blocks * len(blocks) / length_s
    low_w, high_w = float(powers.min()), float(powers.max())
    bias = [lost_s * (high_w - low_w) / 2]
    if rail.counts == "power":
        bias += [0.71 * (period_s + rail.lag_s) * (high_w - low_w), _rounding(curve.updates_w) * length_s]
        bias.append(float(spikes_w.sum()) * step_s)  # as if they had been true
    else:
        bias.append(0.8 * min(period_s, step_s) * high_w)
        bias.append(0.25 * period_s * high_w if _moves_seldom(period_s, step_s) else 0.0)
    return RailEnergy(
        energy_j=float(blocks.sum()),
        blocks_j=blocks,
        noise_j=blocks if rail.counts == "power" else blocks[:0],
        bias_j=math.hypot(*bias),
        min_w=low_w,
        max_w=high_w,
        period_s=period_s,
        updates=updates,
        needs_s=max(LEAST_WINDOW_S[rail.counts], LEAST_PERIODS * period_s, 1.1 * LEAST_UPDATES * step_s),
        gaps=gaps,
        gap_s=gap_s,
    )


def power_over_time(
    times: np.ndarray, values: np.ndarray, rail: Rail, *, poll_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return when a rail drew which power, to be drawn: times in seconds and W, float64 (M,), NaN in a gap.

    Args:
        times, values, rail, poll_s: as for `integrate`. Of a counter each value is the mean of a part of the time.
    """
    t, v, failed, _ = _drop_wrong(np.asarray(times, np.float64), np.asarray(values, np.float64), rail)
    if len(t) < 2:
        return t[:0], v[:0]
    step_s = float(np.median(np.diff(t)))
    if rail.counts == "power":
        gaps = np.flatnonzero(failed | (np.diff(t) > SILENT_POLLS * max(poll_s, step_s))) + 1
        return np.insert(t, gaps, t[gaps - 1]), np.insert(v, gaps, math.nan)
    period_s, _ = _find_period(t, v, rail, t[0], t[-1], step_s)
    curve = _add_up_counter(t, v, rail, failed, period_s, step_s)
    parts = max(1, int((t[-1] - t[0]) / max(DRAWN_S, 2 * period_s)))
    edges = np.linspace(t[0], t[-1], parts + 1)
    return (edges[1:] + edges[:-1]) / 2, np.diff(np.interp(edges, curve.at_s, curve.total_j)) * parts / (t[-1] - t[0])


def estimate_half_interval(blocks_j: np.ndarray, bias_j: float, *, extra_j: float = 0.0) -> float:
    """Return half the 95 % interval of the energy of a window in joules.

    Args:
        blocks_j: energy of each block, float64 (blocks,).
        bias_j: how far the sum may be off besides.
        extra_j: half of another independent interval, such as the interval of an idle energy that was subtracted.
    """
    half = 0.0
    if len(blocks_j) > 2:
        spread = float(np.sqrt(np.mean(np.diff(blocks_j) ** 2) / 2))
        half = student95(2 * (len(blocks_j) - 1) / 3) * spread * math.sqrt(len(blocks_j))
    return math.hypot(half, bias_j, extra_j)


def student95(freedom: float) -> float:
    """Return the two-sided 95 % point of Student's t distribution, for 2 degrees of freedom or more, to one in a thousand.

    The expansion of Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.5, from 4 degrees on.
    """
    if freedom < 4:
        table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764}
        below = max(1, int(freedom))
        return table[below] + (freedom - below) * (table[below + 1] - table[below])
    z, n = 1.959964, freedom
    terms = [
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    ]
    return z + sum(term / n**i for i, term in enumerate(terms, 1))


def _nothing(seconds: float) -> RailEnergy:
    """Return the energy of a window in which nothing was read."""
    nan, empty = math.nan, np.empty(0)
    return RailEnergy(
        energy_j=nan,
        blocks_j=empty,
        noise_j=empty,
        bias_j=nan,
        min_w=nan,
        max_w=nan,
        period_s=nan,
        updates=0,
        needs_s=nan,
        gaps=1,
        gap_s=seconds,
    )


def _drop_wrong(t: np.ndarray, v: np.ndarray, rail: Rail) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Leave out readings that failed, are impossible, contradict the others, or lie before an earlier one.

    Returns:
        The times and values that remain; for each two neighbours of them whether a read between them failed, or was that of a
        power and wrong; and the spikes of a power.
    """
    least, most = rail.bounds
    good, spikes_w = np.isfinite(v), v[:0]
    if rail.counts == "power":
        good &= (v >= least) & (v <= most)
        rows = np.flatnonzero(good)
        spikes = rows[find_spikes(v[rows])]
        good[spikes], spikes_w = False, v[spikes]
    failures = np.cumsum(~good)
    good[1:] &= t[1:] > np.maximum.accumulate(t)[:-1]
    if rail.counts == "energy":
        good &= v <= most
        rows = np.flatnonzero(good)
        good[rows[find_contradictions(t[rows], v[rows], rail)]] = False
    return t[good], v[good], np.diff(failures[good]) > 0, spikes_w


def _find_period(
    t: np.ndarray, v: np.ndarray, rail: Rail, start_s: float, end_s: float, step_s: float
) -> tuple[float, int]:
    """Return the time between two updates, found from when values change, and how many updates lie in the window."""
    changes = t[1:][np.diff(v) != 0]
    changes_inside = int(((changes >= start_s) & (changes <= end_s)).sum())
    length = end_s - start_s
    if not changes_inside:  # the sensor showed one value only, or none was read: nothing tells that it works
        return rail.period_s or step_s, 0
    if len(changes) < LEAST_UPDATES:
        if rail.period_s is None:
            return (float(t[-1] - t[0]) or length) / max(1, len(changes)), changes_inside
        period = rail.period_s
    else:
        # Equal values in a row hide updates: a distance much longer than the usual one holds several of them.
        apart = np.diff(changes)
        period = float(apart[apart < 1.5 * np.median(apart)].mean())
        if not _moves_seldom(period, step_s) and rail.period_s is not None:
            period = min(period, rail.period_s)
    return period, int(length / max(period, step_s))


def _moves_seldom(period_s: float, step_s: float) -> bool:
    """Return True if a sensor updates less often than it is read."""
    return period_s > 1.5 * step_s


def _add_up_power(
    t: np.ndarray, v: np.ndarray, silent: np.ndarray, period_s: float, start_s: float, end_s: float
) -> _Curve:
    """Add up a power by trapezoids between its updates; before the first and behind the last it stays as it was."""
    points = _find_updates(t, v, 1.5 * period_s)
    at, w = t[points], v[points]
    at, w = np.r_[min(start_s, at[0]), at, max(end_s, at[-1])], np.r_[w[0], w, w[-1]]
    return _Curve(at, np.r_[0.0, np.cumsum(np.diff(at) * (w[1:] + w[:-1]) / 2)], silent, v[points])


def _add_up_counter(
    t: np.ndarray, v: np.ndarray, rail: Rail, failed: np.ndarray, period_s: float, step_s: float
) -> _Curve:
    """Add up a counter's differences, smoothed if it moves less often than it is read."""
    differences, lost = _unwrap(t, v, rail, failed, period_s)
    at, total = t, np.r_[0.0, np.cumsum(differences)]
    if _moves_seldom(period_s, step_s):
        at, total = _smooth_moves(at, total, period_s)
    return _Curve(at, total, lost, v[:0])


def _measure_gaps(
    t: np.ndarray, silent: np.ndarray, lost: np.ndarray, start_s: float, end_s: float, limit_s: float
) -> tuple[int, float, float]:
    """Return how many gaps there are in a window, their seconds, and the seconds whose energy is unknown.

    A sensor that began to answer after the start, or stopped before the end, leaves a gap there too.
    """
    edges = np.r_[min(start_s, t[0]), t, max(end_s, t[-1])]
    silent = np.r_[t[0] - start_s > limit_s, silent, end_s - t[-1] > limit_s]
    lost = np.r_[silent[0], lost, silent[-1]]
    lengths = np.maximum(0.0, np.minimum(edges[1:], end_s) - np.maximum(edges[:-1], start_s))
    unseen = silent | lost
    return int((lengths[unseen] > 0).sum()), float(lengths[unseen].sum()), float(lengths[lost].sum())


def _cut_blocks(curve: _Curve, start_s: float, end_s: float, period_s: float) -> np.ndarray:
    """Return the energy of equal parts of a window, each at least two sensor periods long."""
    count = max(2, min(BLOCKS, int((end_s - start_s) / (2 * period_s)))) if period_s > 0 else BLOCKS
    return np.diff(np.interp(np.linspace(start_s, end_s, count + 1), curve.at_s, curve.total_j))


def _find_updates(t: np.ndarray, v: np.ndarray, apart_s: float) -> list[int]:
    """Return the indices of readings that are updates.

    A reading is an update if it differs from the last one, or comes so late that an update must have brought the same value.
    """
    updates = [0]
    last_t, last_v = t[0], v[0]
    for i, (at, value) in enumerate(zip(t.tolist(), v.tolist(), strict=True)):
        if value != last_v or at - last_t > apart_s:
            updates.append(i)
            last_t, last_v = at, value
    return updates


def _unwrap(
    t: np.ndarray, v: np.ndarray, rail: Rail, failed: np.ndarray, period_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a counter's differences from reading to reading, and which of them say nothing.

    A smaller reading is a wrap only if the reads on both sides succeeded one after the other and the power that follows is
    possible; otherwise the counter may have been reset. A counter that moves less often than it is read moves by the energy of
    a whole period at once.
    """
    most_j = rail.most_w * (np.diff(t) + period_s)
    difference = np.diff(v)
    if rail.wrap_j is not None:
        difference = np.where((difference < 0) & ~failed, difference + rail.wrap_j, difference)
    lost = (difference < 0) | (difference > most_j)
    return np.where(lost, 0.0, difference), lost


def _smooth_moves(t: np.ndarray, total: np.ndarray, period_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve through a counter's moves, for a counter that moves less often than it is read.

    Each move shows the energy since the move before. One more move is assumed before the first and one behind the last; if the
    load begins with the window, that may be off by a quarter of a period.
    """
    moves = np.flatnonzero(np.diff(total) > 0)
    if len(moves) < 2:
        return t, total
    at, then = (t[moves] + t[moves + 1]) / 2, total[moves + 1]
    at = np.r_[at[0] - period_s, at, at[-1] + period_s]
    return at, np.r_[total[moves[0]], then, 2 * then[-1] - then[-2]]


def _rounding(w: np.ndarray) -> float:
    """Return how far the mean of readings may be off because of their coarse steps, in W.

    Noise smooths steps: the error falls with exp(-2 pi^2 (noise / step)^2) (Carbone and Petri, IEEE Transactions on
    Instrumentation and Measurement 43, 1994).
    """
    levels = np.unique(w)
    if len(levels) < 2:
        return 0.0
    step = float(np.diff(levels).min())
    noise = float(np.sqrt(np.mean(np.diff(w) ** 2) / 2))
    return step / math.pi * math.exp(-2 * math.pi**2 * min(5.0, noise / step) ** 2)
