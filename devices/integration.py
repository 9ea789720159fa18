"""From readings of a rail to joules between two times, with what is not known about them.

    reading  |      ____            ____          a sensor keeps a value until its next update:
             | ____|    |____  ____|    |____     where readings change, there is one
    polled   | . . . . . . . x . . . . . . . .    x failed: a gap from the read before to the read after
    edges    |    [----------------------]        the trapezoids end at interpolated edges

A power is integrated by trapezoids between updates; a counter is a difference, which misses nothing. The error comes from what
the sensor itself cannot tell, such as what passed between its last update and the end, and that of a sampled power also from the
differences between neighbouring blocks of the window (von Neumann, Annals of Mathematical Statistics 12, 1941), so that a slow
drift is not taken for noise.
"""

import math
from typing import Any

from msgspec import Struct

from .rail import Rail

BLOCKS = 20
"""How many blocks a window is divided into to find its error."""

LEAST_UPDATES = 20
LEAST_PERIODS = 50
LEAST_WINDOW_S = {"power": 2.0, "energy": 0.1}
"""What a window must hold; a sampled power needs two seconds however fast its sensor is, a counter misses nothing."""


class RailEnergy(Struct, frozen=True, kw_only=True):
    """What a rail did between two times.

    Attributes:
        energy_j: what passed.
        blocks_j: float64 (blocks,), the same in equal parts of the time; empty where nothing was read.
        noise_j: those whose differences show the sensor's noise; empty for counters, which miss nothing.
        bias_j: how far it may be off in one direction: edges that fall between two updates, gaps, coarse steps.
        min_w, max_w: least and most power seen.
        period_s: time between two updates of the sensor, as found.
        updates: how many there were.
        needs_s: how long a window must be for this sensor.
        gaps, gap_s: how often and how long nothing was read, or nothing possible.
    """

    energy_j: float
    blocks_j: Any
    noise_j: Any
    bias_j: float
    min_w: float
    max_w: float
    period_s: float
    updates: int
    needs_s: float
    gaps: int
    gap_s: float


def integrate(times: Any, values: Any, rail: Rail, start_s: float, end_s: float, *, poll_s: float) -> RailEnergy:
    """Integrate a rail between two times.

    Args:
        times: when each read was at its middle, seconds, float64 (N,), on a clock that does not go back.
        values: W or J as the rail counts, float64 (N,); NaN where the read failed.
        rail: the rail.
        start_s, end_s: from when to when.
        poll_s: how often the sensor was to be read.
    """
    import numpy as np

    t, v = np.asarray(times, np.float64), np.asarray(values, np.float64)
    good = np.isfinite(v)
    if rail.counts == "power":
        good &= np.abs(v) <= rail.most_w
    failures = np.cumsum(~good)
    good[1:] &= t[1:] > np.maximum.accumulate(t)[:-1]
    failed = np.diff(failures[good]) > 0
    t, v = t[good], v[good]
    if not len(t):
        return _nothing(end_s - start_s)
    step_s = float(np.median(np.diff(t))) if len(t) > 1 else poll_s
    period_s, updates = _find_period(t, v, rail, start_s, end_s, step_s)
    silent = failed | (np.diff(t) > 5 * max(poll_s, step_s))
    if rail.counts == "power":
        points = _updates(t, v, 1.5 * period_s)
        at, w = t[points], v[points]
        at, w = np.r_[min(start_s, at[0]), at, max(end_s, at[-1])], np.r_[w[0], w, w[-1]]
        total = np.r_[0.0, np.cumsum(np.diff(at) * (w[1:] + w[:-1]) / 2)]
        inside = v[(t >= start_s) & (t <= end_s)]
        lost = silent
    else:
        counted, lost = _unwrap(t, v, rail, failed, period_s)
        at, total = t, np.r_[0.0, np.cumsum(counted)]
        if period_s > 1.5 * step_s:
            at, total = _through_moves(at, total, period_s)
        inside = None
    # What was not seen at the edges is silent too: a sensor that died before the end, or came after the start.
    edges_t = np.r_[min(start_s, t[0]), t, max(end_s, t[-1])]
    limit = 5 * max(poll_s, step_s)
    silent = np.r_[t[0] - start_s > limit, silent, end_s - t[-1] > limit]
    lost = np.r_[silent[0], lost, silent[-1]]
    lengths = np.maximum(0.0, np.minimum(edges_t[1:], end_s) - np.maximum(edges_t[:-1], start_s))
    unseen = silent | lost
    gap_s, lost_s = float(lengths[unseen].sum()), float(lengths[lost].sum())
    count = max(2, min(BLOCKS, int((end_s - start_s) / (2 * period_s)))) if period_s > 0 else BLOCKS
    edges = np.linspace(start_s, end_s, count + 1)
    blocks = np.diff(np.interp(edges, at, total))
    if rail.counts == "energy" and lost_s > 0:
        blocks += blocks.sum() / max(end_s - start_s - lost_s, poll_s) * lost_s / count
    powers = blocks * count / (end_s - start_s) if inside is None or not len(inside) else inside
    low, high = float(powers.min()), float(powers.max())
    bias = [lost_s * (high - low) / 2]
    if rail.counts == "power":
        bias += [0.71 * (period_s + rail.lag_s) * (high - low), _rounding(v[points]) * (end_s - start_s)]
    else:
        bias.append(0.8 * min(period_s, step_s) * high)
        bias.append(0.25 * period_s * high if period_s > 1.5 * step_s else 0.0)
    return RailEnergy(
        energy_j=float(blocks.sum()),
        blocks_j=blocks,
        noise_j=blocks if rail.counts == "power" else blocks[:0],
        bias_j=math.hypot(*bias),
        min_w=low,
        max_w=high,
        period_s=period_s,
        updates=updates,
        needs_s=max(LEAST_WINDOW_S[rail.counts], LEAST_PERIODS * period_s, 1.1 * LEAST_UPDATES * step_s),
        gaps=int((lengths[unseen] > 0).sum()),
        gap_s=gap_s,
    )


def interval(blocks_j: Any, bias_j: float, *, extra_j: float = 0.0) -> float:
    """Return half the 95 % interval of the energy of a window in joules.

    Args:
        blocks_j: energy of each block, float64 (blocks,).
        bias_j: how far the sum may be off besides.
        extra_j: half of another independent interval, such as that of the idle energy which was taken away.
    """
    import numpy as np

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
    import numpy as np

    nan = math.nan
    return RailEnergy(
        energy_j=nan,
        blocks_j=np.empty(0),
        noise_j=np.empty(0),
        bias_j=nan,
        min_w=nan,
        max_w=nan,
        period_s=nan,
        updates=0,
        needs_s=nan,
        gaps=1,
        gap_s=seconds,
    )


def _find_period(t: Any, v: Any, rail: Rail, start_s: float, end_s: float, step_s: float) -> tuple[float, int]:
    """Return the time between two updates, found from when values change, and how many updates lie in the window."""
    import numpy as np

    changes = t[1:][np.diff(v) != 0]
    seen = int(((changes >= start_s) & (changes <= end_s)).sum())
    length = end_s - start_s
    if not seen:  # it shows one value only, or none that was read: nothing tells that it works
        return rail.period_s or step_s, 0
    if len(changes) < LEAST_UPDATES:
        if rail.period_s is None:
            return (float(t[-1] - t[0]) or length) / max(1, len(changes)), seen
        period = rail.period_s
    else:
        # Equal values in a row hide updates: what is much longer than the usual distance is several of them.
        apart = np.diff(changes)
        period = float(apart[apart < 1.5 * np.median(apart)].mean())
        if period <= 1.5 * step_s and rail.period_s is not None:  # it updates at least as often as it is read
            period = min(period, rail.period_s)
    return period, int(length / max(period, step_s))


def _updates(t: Any, v: Any, apart_s: float) -> list[int]:
    """Return which readings are updates: those that changed, and those whose update happened to bring the same value."""
    kept = [0]
    last_t, last_v = t[0], v[0]
    for i, (at, value) in enumerate(zip(t.tolist(), v.tolist(), strict=True)):
        if value != last_v or at - last_t > apart_s:
            kept.append(i)
            last_t, last_v = at, value
    return kept


def _unwrap(t: Any, v: Any, rail: Rail, failed: Any, period_s: float) -> tuple[Any, Any]:
    """Return a counter's differences, and which of them say nothing.

    A smaller reading is a wrap only if the reads on both sides succeeded one after the other and the power that follows is
    possible; otherwise the counter may have begun anew. A counter that moves less often than it is read moves by all that
    passed in its period at once.
    """
    import numpy as np

    most_j = rail.most_w * (np.diff(t) + period_s)
    fall = (np.diff(v)[:-1] < 0) & (v[2:] >= v[:-2]) if len(v) > 2 else np.zeros(0, bool)
    if rail.wrap_j is not None and len(v) > 2:
        fall &= np.diff(v)[:-1] + rail.wrap_j > most_j[:-1]
    v = v.copy()
    v[1:-1][fall] = v[:-2][fall]  # one wrong reading between two that fit
    difference = np.diff(v)
    if rail.wrap_j is not None:
        difference = np.where((difference < 0) & ~failed, difference + rail.wrap_j, difference)
    lost = (difference < 0) | (difference > most_j)
    return np.where(lost, 0.0, difference), lost


def _through_moves(t: Any, total: Any, period_s: float) -> tuple[Any, Any]:
    """Return the course through a counter's moves, where it moves less often than it is read.

    A move shows what passed since the one before. One more of them is put before the first and behind the last; where the load
    begins with the window, that may be off by a quarter of a period.
    """
    import numpy as np

    moves = np.flatnonzero(np.diff(total) > 0)
    if len(moves) < 2:
        return t, total
    at, then = (t[moves] + t[moves + 1]) / 2, total[moves + 1]
    at = np.r_[at[0] - period_s, at, at[-1] + period_s]
    return at, np.r_[total[moves[0]], then, 2 * then[-1] - then[-2]]


def _rounding(w: Any) -> float:
    """Return how far the mean of readings may be off for their coarse steps, in W.

    Noise smooths steps: the error falls with exp(-2 pi^2 (noise / step)^2) (Carbone and Petri, IEEE Transactions on
    Instrumentation and Measurement 43, 1994).
    """
    import numpy as np

    known = np.unique(w)
    if len(known) < 2:
        return 0.0
    step = float(np.diff(known).min())
    noise = float(np.sqrt(np.mean(np.diff(w) ** 2) / 2))
    return step / math.pi * math.exp(-2 * math.pi**2 * min(5.0, noise / step) ** 2)
