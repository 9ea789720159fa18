"""Readings that contradict those around them, found when a window is over.

power      10 10 1999 10 10        spike: one reading in a hundred or fewer, and ten times any other
counter    50 51 0 0 54 55         dip: the counter is back where it would be, at once
counter    50 51 990 53 54         bump: the same upwards
counter    98 99 0 1 2 3           no dip: it climbs from there, so it did begin anew
"""

from collections.abc import Iterator

import numpy as np

from .rail import Rail
from .rail_totals import LEAST_JUDGED_W, LEAST_READINGS, SPIKE, SPIKE_SHARE

__all__ = ["find_contradictions", "find_spikes"]

FAR = 10.0
"""A counter's first readings are wrong if they are dips by their values, and so many usual moves below the next one."""

SLACK_S = 1.0
"""A counter may show at once what it has counted in so many seconds besides."""


def find_spikes(w: np.ndarray) -> np.ndarray:
    """Return which readings of a power are spikes, bool (N,)."""
    if len(w) < LEAST_READINGS:
        return np.zeros(len(w), bool)
    falling = np.sort(w)[::-1]
    for k in range(1, max(1, int(len(w) * SPIKE_SHARE)) + 1):
        if falling[k] >= LEAST_JUDGED_W and falling[k - 1] > SPIKE * falling[k]:
            return np.asarray(w >= falling[k - 1])
    return np.zeros(len(w), bool)


def find_contradictions(t: np.ndarray, j: np.ndarray, rail: Rail) -> np.ndarray:
    """Return which readings of a counter are dips or bumps, bool (N,). The counter itself misses nothing by them.

    Args:
        t, j: times in seconds and readings in joules, float64 (N,), all of them numbers.
        rail: the counter.
    """
    wrong = j < 0
    for find, is_unwrapped in ((_find_dips, False), (_find_dips, True), (_find_bumps, True)):
        rows = np.flatnonzero(~wrong)
        if len(rows) > 2:
            wrong[rows] = find(_unwrap(t[rows], j[rows], rail) if is_unwrapped else j[rows])
    return wrong


def _unwrap(t: np.ndarray, j: np.ndarray, rail: Rail) -> np.ndarray:
    """Return the readings with the counter's range added behind each fall that may be a wrap."""
    if rail.wrap_j is None:
        return j
    moved = np.diff(j)
    is_wrap = (moved < 0) & (moved + rail.wrap_j <= rail.most_w * (np.diff(t) + SLACK_S))
    is_wrap[:-1] &= (j[2:] < j[:-2]) | (moved[1:] < -moved[:-1] / 2)  # else it jumps back at once
    return np.asarray(j + rail.wrap_j * np.r_[0, np.cumsum(is_wrap)])


def _find_dips(j: np.ndarray) -> np.ndarray:
    """Return which readings are lower than an earlier one, where the next one jumps back over at least half of the fall.

    Readings that climb meanwhile as those around them do are right: then the higher ones are bumps.
    """
    highest = np.maximum.accumulate(j)
    wrong = np.zeros(len(j), bool)
    for first, last in _runs(j < highest):
        if last + 1 < len(j) and j[last + 1] - j[last] >= (highest[first] - j[first]) / 2:
            climbed, rise = j[last] - j[first], j[last + 1] - highest[first]
            wrong[first : last + 1] = climbed <= 0 or climbed < rise / 2
    if wrong.any():  # a counter that shows 0 now and then may have shown it first
        moves, begin = np.diff(j[~wrong]), int(np.argmax(j > j[wrong].max()))
        usual_j = np.median(moves[moves > 0]) if (moves > 0).any() else 0.0
        wrong[:begin] |= begin > 0 and j[begin] - j[begin - 1] > FAR * usual_j
    return wrong


def _find_bumps(j: np.ndarray) -> np.ndarray:
    """Return which readings are higher than a later one, where the one before jumps up by at least half of the fall."""
    lowest = np.minimum.accumulate(j[::-1])[::-1]
    wrong = np.zeros(len(j), bool)
    for first, last in _runs(j > lowest):
        if first > 0 and j[first] - j[first - 1] >= (j[last] - lowest[last]) / 2 > 0:
            wrong[first : last + 1] = True
    return wrong


def _runs(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first and last index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    yield from zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)
