"""A meter that is read for as long as a product runs, in the background, in memory that does not grow."""

import math
import os
from collections.abc import Callable
from threading import RLock

from msgspec import Struct

from .integrate import interval
from .meter import Grade, Meter
from .recording import Recording
from .state import State, throttled_between

FOLD_S = 5.0
"""How much time is integrated at once; then its readings are dropped."""

WATCH_S = 0.1
"""A meter is read no more often than this: a product that is woken more often sleeps less deeply, and over minutes even ten reads
a second at random moments tell the mean."""

SLOWER = 5
"""Nor more often than a fifth as often as for a measurement: to ask some sensors takes milliseconds."""

BRIEF = 3
"""So many turns must have passed before it is worth integrating."""

PATIENCE = 100
"""A sensor that fails is asked at every hundredth turn only."""


class RailPower(Struct, frozen=True):
    """A rail's power over a time: joules, for how long, and the least, mean and most watts."""

    energy_j: float
    seen_s: float
    min_w: float
    mean_w: float
    max_w: float


class Power(Struct, frozen=True, kw_only=True):
    """What a watch has seen since it began, or since it was reset.

    Attributes:
        energy_j: of the meter's total, with half its 95 % interval; `mean_w` likewise of the time that was seen.
        rails: each rail by itself.
        seen_s, unseen_s: how long readings were had, and how long not.
        meter, scope, grade: as in `Energy`; empty where there is no meter.
        problem: why there are no readings, or none any more.
        throttled: what slowed the board down meanwhile, as far as it was seen every five seconds, or is counted.
        state: clocks and temperature, five seconds old at most.
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
    """Reads a meter in the background. Whatever becomes of the sensor, nothing is raised; `power` says why it saw nothing.

    Only the thread that reads touches the sensor, so that `power` never waits for one.

    Args:
        meter: None where there is none.
        problem: why there is none.
        poll_s: how often to read; by default no more often than a product should.
    """

    def __init__(self, meter: Meter | None, *, problem: str | None = None, poll_s: float | None = None) -> None:
        self.meter = meter
        self._poll_s = poll_s or (max(SLOWER * meter.poll_s, WATCH_S) if meter else 0.0)
        self._soon_s = max(1.0, 5 * self._poll_s)  # a sensor that is read as it should be is judged by what was read
        self._problem = problem
        self._process = os.getpid()
        self._lock = RLock()  # what is collected while it is held may let go of the watch
        self._users = self._turn = 0
        self._state: State | None = None
        self._end: Callable[[], None] | None = None
        self._clear()

    def _clear(self) -> None:
        self._energy_j = self._variance_j2 = self._seen_s = self._unseen_s = 0.0
        self._rails: dict[str, list[float]] = {}
        self._throttled: tuple[str, ...] = ()
        if self.meter is not None:
            self._problem = None
            self._recording = Recording(self.meter, self.meter.total or [rail.name for rail in self.meter.rails])
            self._since_s = self.meter.clock.now_s()

    def reset(self) -> None:
        """Begin anew."""
        if not self._is_forked():
            with self._lock:
                self._clear()

    def acquire(self) -> None:
        """Begin to read, unless somebody else has begun already."""
        if self._is_forked():
            return
        with self._lock:
            self._users += 1
            if self._end is None and self.meter is not None:
                if not self._seen_s + self._unseen_s:
                    self._clear()
                self._end = self.meter.clock.every(self._poll_s, self._tick)

    def release(self) -> None:
        """Stop reading if nobody else wants it; what was seen until then stays."""
        if self._is_forked():
            return
        with self._lock:
            self._users -= 1
            end = self._end if self._users <= 0 else None
            if end:
                self._try_to_fold()
                self._end = None
        if end:
            end()

    def power(self) -> Power:
        """Say what was seen until now."""
        if self.meter is None or self._is_forked():
            return _nothing(self._problem)
        with self._lock:
            if self._end is not None and self.meter.clock.now_s() - self._since_s > BRIEF * self._poll_s:
                self._try_to_fold()
            rails = {
                name: RailPower(joules, seconds, low, joules / seconds, high)
                for name, (joules, seconds, low, high) in self._rails.items()
            }
            problem = self._problem
            if not self.meter.total:
                problem = problem or f"the meter {self.meter.name} knows of no total among its rails"
            return Power(
                energy_j=self._energy_j,
                half_j=math.sqrt(self._variance_j2),
                mean_w=self._energy_j / self._seen_s if self._seen_s and self.meter.total else None,
                rails=rails,
                seen_s=self._seen_s,
                unseen_s=self._unseen_s,
                meter=self.meter.name,
                scope=self.meter.scope,
                grade=self.meter.grade,
                problem=problem,
                throttled=self._throttled,
                state=self._state or State(),
            )

    def _is_forked(self) -> bool:
        """Tell whether this is another process than the one that reads, in which a lock may be held for ever."""
        if os.getpid() == self._process:
            return False
        self._problem = "this process was forked from the one that reads the meter: load the network here"
        return True

    def _tick(self) -> None:
        assert self.meter is not None
        self._turn += 1
        recording = self._recording
        if not recording.is_failing() or self._turn % PATIENCE == 0:
            recording.poll()
        due = self.meter.clock.now_s() - self._since_s >= FOLD_S
        if due or self._state is None:
            self._look()
        if due:
            with self._lock:
                self._try_to_fold()

    def _look(self) -> None:
        """Read the board's state, and remember what slowed it down since the last time."""
        assert self.meter is not None
        state = self.meter.state()
        found = throttled_between(self._state or state, state)
        with self._lock:
            self._throttled = tuple(dict.fromkeys([*self._throttled, *found]))
            self._state = state

    def _try_to_fold(self) -> None:
        try:
            self._fold()
        except Exception as error:  # no statistic is worth a product's failure
            self._problem = f"what was read could not be added up: {type(error).__name__}: {error}"

    def _fold(self) -> None:
        """Add what was read since the last time to the totals, and forget the readings."""
        assert self.meter is not None
        recording, start_s, end_s = self._recording, self._since_s, self.meter.clock.now_s()
        if recording.has_read() and not recording.is_failing():
            first_s, last_s = recording.span()
            start_s = first_s if 0 < first_s - start_s < self._soon_s else start_s
            end_s = last_s if end_s - last_s < self._soon_s else end_s
        elif not recording.has_read() and end_s - start_s < self._soon_s:
            return
        length = end_s - start_s
        if length <= 0:
            return
        courses = {rail: recording.course(rail, start_s, end_s, smooth=False) for rail in self.meter.rails}
        still = {rail.name for rail, course in courses.items() if rail.counts == "energy" and not course.updates}
        if still & set(recording.rails) and length < self._soon_s:
            return
        gaps = {rail.name: length if rail.name in still else course.gap_s for rail, course in courses.items()}
        for rail, course in courses.items():
            if (seen_s := length - gaps[rail.name]) > 0:
                known = self._rails.setdefault(rail.name, [0.0, 0.0, math.inf, -math.inf])
                low, high = min(known[2], course.min_w), max(known[3], course.max_w)
                known[:] = known[0] + course.seen_j, known[1] + seen_s, low, high
        counted = [(courses[rail], gaps[rail.name]) for rail in self.meter.rails if rail.name in recording.rails]
        seen_s = max(0.0, length - max(gap_s for _, gap_s in counted))
        self._problem = next(
            (text for name in recording.rails if (text := recording.problem(name, self._soon_s))), None
        )
        for name in recording.rails:
            if self._problem is None and name in still:
                self._problem = f"{name} of {self.meter.name}: its counter does not move"
        self._unseen_s += length - seen_s
        if self.meter.total and seen_s > 0:
            self._energy_j += sum(course.seen_j / (length - gap_s) for course, gap_s in counted) * seen_s
            self._variance_j2 += sum(interval(course.noise_j, course.bias_j) for course, _ in counted) ** 2
        self._seen_s += seen_s
        self._since_s = end_s
        recording.forget(end_s)


def _nothing(problem: str | None) -> Power:
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
