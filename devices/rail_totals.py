"""The running totals of a rail, reading by reading, in memory that does not grow."""

import math
from typing import NamedTuple

from msgspec import Struct

from .rail import Rail

__all__ = ["LEAST_JUDGED_W", "LEAST_READINGS", "SPIKE", "SPIKE_SHARE", "RailPower", "RailTotals"]

STILL_S = 10.0
"""It is a problem if a counter does not move for this long."""

SPIKE = 10.0
"""A reading of power is a spike if it is more than so many times any other."""

SPIKE_SHARE = 0.01
"""Spikes are at most this share of the readings, or a single one."""

LEAST_JUDGED_W = 0.1
"""Beside less power than this a pulse is no spike: a part of a board may rest at zero."""

LEAST_READINGS = 20
"""Fewer readings do not tell what is usual."""

MOST_JUMPS = 4
"""So many falls, and so many tall rises, of a counter are kept that may turn out to be wrong readings."""


class RailPower(Struct, frozen=True):
    """A rail's power over a time.

    Attributes:
        energy_j, seen_s: its joules, and the time with readings.
        min_w, mean_w, max_w: the least, mean and most power.
    """

    energy_j: float
    seen_s: float
    min_w: float
    mean_w: float
    max_w: float


class _RailSums(Struct):
    """What was added up until a reading.

    Attributes:
        at, value: when the last reading was taken, in seconds, and its W or J; None before the first.
        energy_j, seen_s: joules, and the time with readings.
        square_j2: variance of the joules by the noise of single readings.
        step_j, longest_s: the largest and the slowest move of a counter.
        low_w, high_w: the least and the most power.
    """

    at: float | None = None
    value: float = 0.0
    energy_j: float = 0.0
    seen_s: float = 0.0
    square_j2: float = 0.0
    step_j: float = 0.0
    longest_s: float = 0.0
    low_w: float = math.inf
    high_w: float = -math.inf

    def count(self, at: float, value: float, moved_j: float, low_w: float, high_w: float) -> None:
        """Add joules since the last reading, and remember this one."""
        assert self.at is not None
        self.energy_j += moved_j
        self.seen_s += at - self.at
        self.low_w, self.high_w = min(self.low_w, low_w), max(self.high_w, high_w)
        self.at, self.value = at, value

    def copy(self) -> "_RailSums":
        """Return a copy, to go back to."""
        return _RailSums(*(getattr(self, name) for name in self.__struct_fields__))


class _Jump(NamedTuple):
    """A fall or a tall rise of a counter: what was added up before it, and the reading behind it."""

    before: _RailSums
    value: float

    @property
    def height(self) -> float:
        """How far the reading jumped, in joules."""
        return abs(self.value - self.before.value)


class RailTotals:
    """The totals of a rail: joules from reading to reading, or from move to move of a counter.

    Attributes:
        rail: the rail.
        problem: what is wrong with the last reading, in words; None if nothing is.
    """

    def __init__(self, rail: Rail) -> None:
        self.rail = rail
        self.problem: str | None = None
        self._sums = _RailSums()
        self._readings = self._spikes = 0
        self._doubt_j = 0.0
        self.pause()

    @property
    def at(self) -> float | None:
        """When the last reading was taken, or the last move of a counter was seen; None before the first."""
        return self._sums.at

    @property
    def energy_j(self) -> float:
        """The joules in `seen_s`."""
        return self._sums.energy_j

    @property
    def seen_s(self) -> float:
        """The time with readings."""
        return self._sums.seen_s

    @property
    def power(self) -> RailPower:
        """The power that was seen, once `seen_s` is above 0."""
        sums = self._sums
        return RailPower(sums.energy_j, sums.seen_s, sums.low_w, sums.energy_j / sums.seen_s, sums.high_w)

    def pause(self) -> None:
        """Begin anew with the next reading. The time until then is unseen."""
        self._sums.at = None
        self._falls: list[_Jump] = []
        self._rises: list[_Jump] = []
        self._spike: tuple[float, float] | None = None

    def patience_s(self, soon_s: float) -> float:
        """Return how long this rail may show nothing new."""
        return soon_s if self.rail.counts == "power" else max(STILL_S, 5 * self._sums.longest_s)

    def half_j(self) -> float:
        """Return half the 95 % interval: the noise of the readings, spikes left out, and what a counter does not show yet."""
        return math.hypot(1.96 * math.sqrt(self._sums.square_j2), self._sums.step_j, self._doubt_j)

    def add(self, at: float, value: float, soon_s: float) -> None:
        """Add the energy since the last reading.

        Args:
            at: when it was read.
            value: W or J, as the rail counts.
            soon_s: the longest time between two readings of a power that is taken for seen.
        """
        if problem := self.rail.find_problem(value):
            self.problem = self.problem or problem
            if self.rail.counts == "power":
                self.pause()
            return
        self.problem = None
        if self._sums.at is None:
            self._sums.at, self._sums.value = at, value
        elif self.rail.counts == "power":
            self._add_power(at, value, soon_s)
        else:
            self._add_count(at, value)

    def _add_power(self, at: float, value: float, soon_s: float) -> None:
        """Add a reading of power. One that towers over all others waits for the next: if that is back, it was a spike."""
        spike, self._spike = self._spike, None
        if spike is not None and value == spike[1] and at - spike[0] <= soon_s:
            self._spike = spike  # the same update of the sensor
            return
        if spike is not None and value >= spike[1] / SPIKE:
            self._count_power(*spike, soon_s)  # the load did rise
        elif spike is not None:
            self._spikes += 1
            self._doubt_j += spike[1] * max(0.0, at - (self._sums.at or at)) / 2
        elif self._may_be_spike(value):
            self._spike = at, value
            return
        self._count_power(at, value, soon_s)

    def _may_be_spike(self, value: float) -> bool:
        is_rare = self._readings >= LEAST_READINGS and self._spikes <= SPIKE_SHARE * self._readings
        return is_rare and self._sums.high_w >= LEAST_JUDGED_W and value > SPIKE * self._sums.high_w

    def _count_power(self, at: float, value: float, soon_s: float) -> None:
        sums, last = self._sums, self._sums.value
        assert sums.at is not None
        self._readings += 1
        if 0 < (spent_s := at - sums.at) <= soon_s:
            # Half the squared difference of neighbours is the noise of a reading (von Neumann, 1941).
            sums.square_j2 += (value - last) ** 2 / 2 * spent_s**2
            sums.count(at, value, (value + last) / 2 * spent_s, min(value, last), max(value, last))
        sums.at, sums.value = at, value

    def _add_count(self, at: float, value: float) -> None:
        """Add a reading of a counter, which may be wrong: what was added up before a fall or a tall rise is kept for a while.

        If the counter jumps back behind it, the readings between were wrong, and it is counted from before. If it climbs on by
        half of the fall or rise instead, that was true: the counter began anew, wrapped, or the load rose.
        """
        for places in (self._falls, self._rises):
            places[:] = [place for place in places if self._sums.value - place.value < place.height / 2]
        if value >= self._sums.value:
            kept = self._find_before_fall(at, value)
            if kept is None and self._is_tall(at, value):
                self._keep(self._rises, _Jump(self._sums.copy(), value))
        else:
            kept = self._find_before_rise(at, value)
            if kept is None:
                self._keep(self._falls, _Jump(self._sums.copy(), value))
        self._sums = kept or self._sums
        if value != self._sums.value:
            self._move(at, value)

    def _find_before_fall(self, at: float, value: float) -> _RailSums | None:
        """Return the sums before the fall that a reading jumps back over; None if it does not."""
        for i, (before, low) in reversed(list(enumerate(self._falls))):
            climbed, rise = self._sums.value - low, value - before.value
            is_back = rise >= 0 and value - self._sums.value >= (before.value - low) / 2
            if is_back and (climbed <= 0 or climbed < rise / 2) and self._moved_j(before, at, value) is not None:
                del self._falls[i:]
                return before
        return None

    def _find_before_rise(self, at: float, value: float) -> _RailSums | None:
        """Return the sums before the tall rise that a reading falls back behind; None if it does not."""
        for i, (before, _) in reversed(list(enumerate(self._rises))):
            if value >= before.value and self._moved_j(before, at, value) is not None:
                del self._rises[i:]
                return before
        return None

    def _is_tall(self, at: float, value: float) -> bool:
        """Return True if a counter moves many times as far as it did on average."""
        sums = self._sums
        assert sums.at is not None
        return (value - sums.value) * sums.seen_s > SPIKE * sums.energy_j * (at - sums.at)

    def _keep(self, jumps: list[_Jump], jump: _Jump) -> None:
        jumps[:] = [*jumps[1 - MOST_JUMPS :], jump]

    def _move(self, at: float, value: float) -> None:
        """Count what lies between the last reading and one that differs; nothing if no load could use it."""
        sums = self._sums
        moved_j, is_first = self._moved_j(sums, at, value), sums.value == 0 and sums.seen_s == 0
        if moved_j is None or is_first:  # a counter that shows 0 may not have begun to count
            sums.at, sums.value = at, value
        else:
            self._count_move(at, value, moved_j)

    def _count_move(self, at: float, value: float, moved_j: float) -> None:
        sums = self._sums
        assert sums.at is not None
        spent_s = at - sums.at
        sums.longest_s, sums.step_j = max(sums.longest_s, spent_s), max(sums.step_j, moved_j)
        sums.count(at, value, moved_j, moved_j / spent_s, moved_j / spent_s)

    def _moved_j(self, sums: _RailSums, at: float, value: float) -> float | None:
        """Return the joules from one reading to another, which may lie behind a wrap; None if no load could use them."""
        assert sums.at is not None
        moved_j, spent_s = value - sums.value, at - sums.at
        if moved_j < 0 and self.rail.wrap_j is not None:
            moved_j += self.rail.wrap_j
        return moved_j if spent_s > 0 and 0 <= moved_j <= self.rail.most_w * (spent_s + sums.longest_s) else None
