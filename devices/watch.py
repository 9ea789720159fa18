"""A meter read in the background for as long as a product runs, in memory that does not grow."""

import math
import os
from collections.abc import Callable
from threading import RLock

from msgspec import Struct

from .clock import HANGS, wait_for
from .meter import Meter
from .rail import NEGATIVE, Grade, Probe, describe_failure
from .rail_totals import RailPower, RailTotals
from .state import State, count_events, describe_throttling

__all__ = ["WATCH_S", "Power", "RailPower", "Watch"]

WATCH_S = 0.1
"""Poll at most this often. A product that is woken more often sleeps less deeply, and over minutes ten reads a second at random
moments are enough for the mean."""

WATCH_SLOWDOWN = 5
"""Poll at most at 1/5 of the measuring rate, since reading some sensors takes milliseconds."""

SELDOM = 10
"""Rails outside the total are read at every tenth turn."""

LONGEST_PAUSE = 100
"""A failing sensor is read again after 2, 4, 8, ... turns, and at the latest after this many."""

STATE_S = 5.0
"""The time between two reads of the board's state."""

SOON_S = 1.0
"""It is a problem if nothing is read for this long."""


class Power(Struct, frozen=True, kw_only=True):
    """The power that a watch has seen since it began, or since it was reset.

    Attributes:
        energy_j: energy of the meter's total in `seen_s`.
        half_j: half the 95 % interval of that energy.
        mean_w: mean power in `seen_s`; None if nothing was seen.
        rails: each rail by itself.
        seen_s, unseen_s: the time with readings, and the time without.
        meter, scope, grade: as in `Energy`; empty or None if there is no meter.
        problem: why there are no readings, or none any more; None if there are.
        throttled: the causes that slowed the board down, as far as they were seen every five seconds or are counted.
        state: clocks and temperature, five seconds old at most.

    Example:
        >>> from offramp.runtime import load
        >>> from offramp.devices import SimulatedBoard
        >>> board = SimulatedBoard(idle_w=4.0)
        >>> with load("digits.offramp", "cpu", meter=board.meter()) as net:
        ...     board.work(10.0, power_w=9.0)
        ...     power = net.stats().power
        >>> print(f"{power.mean_w:.0f} W over {power.seen_s:.0f} s")
        9 W over 10 s
    """

    energy_j: float
    half_j: float
    mean_w: float | None
    rails: dict[str, RailPower]
    seen_s: float
    unseen_s: float
    meter: str
    scope: str
    grade: Grade | None
    problem: str | None
    throttled: tuple[str, ...]
    state: State


class Watch:
    """Reads a meter in the background. Failures of the sensor raise nothing; `power` says why there are no readings.

    Only the reading thread touches the sensor, so that `power` never waits for it.

    Args:
        meter: None if there is no meter.
        problem: why there is none.
        poll_s: the time between two reads; by default at least `WATCH_S`, and five times the meter's own.
    """

    def __init__(self, meter: Meter | None, *, problem: str | None = None, poll_s: float | None = None) -> None:
        self.meter = meter
        self._poll_s = poll_s or (max(WATCH_SLOWDOWN * meter.poll_s, WATCH_S) if meter else 0.0)
        self._soon_s = max(SOON_S, 5 * self._poll_s)
        self._problem = problem
        self._process = os.getpid()
        self._lock = RLock()  # a garbage collection while it is held may release the watch
        self._users = 0
        self._end: Callable[[], None] | None = None
        self._is_looking = False
        self._clear()

    def _clear(self) -> None:
        """Forget all readings and start again."""
        if self.meter is None:
            return
        self._totals = {rail.name: RailTotals(rail) for rail in self.meter.rails}
        self._counted = [self._totals[name] for name in self.meter.total or self._totals]
        chosen = {totals.rail.name for totals in self._counted}
        self._probes = [(probe, any(rail.name in chosen for rail in probe.rails)) for probe in self.meter.probes]
        self._throttling: dict[str, None] = {}
        self._events: dict[str, int] = {}
        self._past_s = 0.0
        self._start()

    def _start(self) -> None:
        """Start to count time."""
        assert self.meter is not None
        self._since_s = self.meter.clock.now_s()
        self._is_first = True
        self._turn, self._failures, self._next_turn = 0, 0, 1
        self._reading_since_s: float | None = None
        self._state: State | None = None
        self._looked_s = -math.inf
        for totals in self._totals.values():
            totals.pause()

    def reset(self) -> None:
        """Forget all readings, and go on."""
        if not self._is_forked():
            with self._lock:
                self._clear()

    def acquire(self) -> None:
        """Start reading, unless another user of the watch has done so. Each `acquire` needs a `release`."""
        if self._is_forked():
            return
        with self._lock:
            self._users += 1
            if self._end is None and self.meter is not None:
                self._start()
                self._end = self.meter.clock.every(self._poll_s, self._tick)

    def release(self) -> None:
        """Stop reading if this was the last user. The readings until then stay."""
        if self._is_forked():
            return
        with self._lock:
            self._users -= 1
            end = self._end if self._users <= 0 else None
            if end:
                self._problem = self._find_problem()
                self._past_s += self._elapsed_s()
                self._end = None
        if end:
            end()

    def power(self) -> Power:
        """Return the power that was seen until now."""
        if self.meter is None or self._is_forked():
            return _nothing(self._problem)
        with self._lock:
            time_s = self._past_s + (self._elapsed_s() if self._end else 0.0)
            seen_s = min(totals.seen_s for totals in self._counted)
            mean_w = sum(totals.power.mean_w for totals in self._counted) if self.meter.total and seen_s else None
            if mean_w is not None and mean_w < 0:
                mean_w = None
            waiting_s = self._waiting_s()
            return Power(
                energy_j=0.0 if mean_w is None else mean_w * seen_s,
                half_j=0.0 if mean_w is None else sum(totals.half_j() for totals in self._counted),
                mean_w=mean_w,
                rails={name: totals.power for name, totals in self._totals.items() if totals.seen_s > 0},
                seen_s=seen_s,
                unseen_s=max(0.0, time_s - seen_s - waiting_s),
                meter=self.meter.name,
                scope=self.meter.scope,
                grade=self.meter.grade,
                problem=self._find_problem() if self._end else self._problem,
                throttled=describe_throttling(self._throttling, self._events),
                state=State() if self._state is None or self._is_stale() else self._state,
            )

    def _is_stale(self) -> bool:
        """Return True if the last state is older than five seconds, since the read of the next one hangs."""
        assert self.meter is not None
        return self._is_looking and self.meter.clock.now_s() - self._looked_s > STATE_S

    def _elapsed_s(self) -> float:
        assert self.meter is not None
        return self.meter.clock.now_s() - self._since_s

    def _waiting_s(self) -> float:
        """Return how long the next reading or counter step has been awaited, in seconds; 0 if that wait is already a problem."""
        assert self.meter is not None
        now_s = self.meter.clock.now_s()
        if self._end is None:
            return min(self._soon_s, max(0.0, self._past_s - min(totals.seen_s for totals in self._counted)))
        waits = [now_s - (self._since_s if totals.at is None else totals.at) for totals in self._counted]
        if any(wait_s > totals.patience_s(self._soon_s) for wait_s, totals in zip(waits, self._counted, strict=True)):
            return 0.0
        return max(waits)

    def _find_problem(self) -> str | None:
        """Say why there are no readings now; None if there are."""
        assert self.meter is not None
        if not self.meter.total:
            return f"the meter {self.meter.name} knows of no total among its rails"
        now_s = self.meter.clock.now_s()
        for totals in self._counted:
            name = f"{totals.rail.name} of {self.meter.name}"
            if totals.problem is not None:
                return f"{name}: {totals.problem}"
            wait_s = now_s - (self._since_s if totals.at is None else totals.at)
            if self._reading_since_s is not None and now_s - self._reading_since_s > self._soon_s:
                return f"{name}: {HANGS}"
            if wait_s > totals.patience_s(self._soon_s):
                return f"{name}: {'its counter does not move' if totals.at is not None else 'nothing was read'}"
        if sum(totals.energy_j for totals in self._counted) < 0:
            return f"the total of {self.meter.name}: {NEGATIVE}"
        return None

    def _is_forked(self) -> bool:
        """Return True in a process that was forked from the reading one: a lock may be held there for ever."""
        if os.getpid() == self._process:
            return False
        self._problem = "this process was forked from the one that reads the meter: load the network here"
        return True

    def _tick(self) -> None:
        """Read the probes whose turn it is, and now and then the board's state."""
        assert self.meter is not None
        self._turn += 1
        if self._turn >= self._next_turn:
            due = self._turn % SELDOM
            good = [self._read(probe) for i, (probe, counts) in enumerate(self._probes) if counts or i % SELDOM == due]
            self._failures = 0 if any(good) else min(self._failures + 1, LONGEST_PAUSE)
            self._next_turn = self._turn + min(LONGEST_PAUSE, 2**self._failures if self._failures else 1)
        # While a read of the state hangs no other is begun, since each would be a thread.
        if not self._is_looking and self.meter.clock.now_s() - self._looked_s >= STATE_S:
            self._looked_s = self.meter.clock.now_s()
            wait_for(self._look)

    def _read(self, probe: Probe) -> bool:
        """Read a probe and add its readings to the totals. Return True if that succeeded."""
        assert self.meter is not None
        start_s = self._reading_since_s = self.meter.clock.now_s()
        problem = None
        try:
            values = probe.read_all()
        except (Exception, SystemExit) as error:
            values, problem = [math.nan] * len(probe.rails), describe_failure(error)
        at = (start_s + self.meter.clock.now_s()) / 2
        with self._lock:
            self._reading_since_s = None
            if self._is_first and problem is None:
                self._is_first = False
                if at - self._since_s <= self._soon_s:
                    self._since_s = at
            for rail, value in zip(probe.rails, values, strict=True):
                totals = self._totals[rail.name]
                totals.problem = problem
                totals.add(at, value, self._soon_s if totals in self._counted else SELDOM * self._soon_s)
        return problem is None

    def _look(self) -> None:
        """Read the board's state, and note the causes that slowed it down since the last time."""
        assert self.meter is not None
        self._is_looking = True
        try:
            state = self.meter.state()
        finally:
            self._is_looking = False
        with self._lock:
            self._throttling |= dict.fromkeys(state.throttling)
            for name, count in count_events(self._state or state, state).items():
                self._events[name] = self._events.get(name, 0) + count
            self._state = state


def _nothing(problem: str | None) -> Power:
    """Return the power of a watch that has no meter."""
    return Power(
        energy_j=0.0,
        half_j=0.0,
        mean_w=None,
        rails={},
        seen_s=0.0,
        unseen_s=0.0,
        meter="",
        scope="",
        grade=None,
        problem=problem,
        throttled=(),
        state=State(),
    )
