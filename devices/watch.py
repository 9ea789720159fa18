"""A meter that is read for as long as a product runs, in the background, in memory that does not grow."""

import math
from collections.abc import Callable
from threading import Lock

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
        throttled: what slowed the board down meanwhile.
        state: clocks and temperature now.
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

    Args:
        meter: None where there is none.
        problem: why there is none.
    """

    def __init__(self, meter: Meter | None, *, problem: str | None = None) -> None:
        self.meter = meter
        self._poll_s = max(meter.poll_s, WATCH_S) if meter else 0.0
        self._problem = problem
        self._lock = Lock()
        self._users = 0
        self._end: Callable[[], None] | None = None
        self._turn = 0
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        with self._lock:
            self._energy_j = self._variance_j2 = self._seen_s = self._unseen_s = 0.0
            self._rails: dict[str, list[float]] = {}
            if self.meter is None:
                return
            self._recording = Recording(self.meter, self.meter.total or [rail.name for rail in self.meter.rails])
            self._since_s = self.meter.clock.now_s()
            self._before = self.meter.state()

    def acquire(self) -> None:
        """Begin to read, unless somebody else has begun already."""
        with self._lock:
            self._users += 1
            if self._end is None and self.meter is not None:
                self._end = self.meter.clock.every(self._poll_s, self._tick)

    def release(self) -> None:
        """Stop reading if nobody else wants it."""
        with self._lock:
            self._users -= 1
            end = self._end if self._users <= 0 else None
            if end:
                self._end = None
        if end:
            end()

    def power(self) -> Power:
        """Say what was seen until now."""
        if self.meter is None:
            return _nothing(self._problem)
        if self.meter.clock.now_s() - self._since_s > BRIEF * self._poll_s:
            self._fold()
        with self._lock:
            rails = {
                name: RailPower(joules, seconds, low, joules / seconds, high)
                for name, (joules, seconds, low, high) in self._rails.items()
            }
            state = self.meter.state()
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
                problem=self._problem,
                throttled=throttled_between(self._before, state),
                state=state,
            )

    def _tick(self) -> None:
        self._turn += 1
        if self._problem is not None and self._turn % PATIENCE:
            return
        self._recording.poll()
        assert self.meter is not None
        if self.meter.clock.now_s() - self._since_s >= FOLD_S:
            self._fold()

    def _fold(self) -> None:
        """Add what was read since the last time to the totals, and forget the readings."""
        assert self.meter is not None
        with self._lock:
            recording, start_s, end_s = self._recording, self._since_s, self.meter.clock.now_s()
            soon_s = max(1.0, 5 * self._poll_s)  # a sensor that is read as it should be is judged by what was read
            if recording.has_read():
                first_s, last_s = recording.span()
                start_s = first_s if 0 < first_s - start_s < soon_s else start_s
                end_s = last_s if end_s - last_s < soon_s else end_s
            elif end_s - start_s < soon_s:
                return
            length = end_s - start_s
            if length <= 0:
                return
            courses = {rail: recording.course(rail, start_s, end_s) for rail in self.meter.rails}
            counted = [courses[rail] for rail in self.meter.rails if rail.name in recording.rails]
            for rail, course in courses.items():
                if (seen_s := length - course.gap_s) > 0 and course.updates:
                    known = self._rails.setdefault(rail.name, [0.0, 0.0, math.inf, -math.inf])
                    low, high = min(known[2], course.min_w), max(known[3], course.max_w)
                    known[:] = known[0] + course.seen_j, known[1] + seen_s, low, high
            seen_s = max(0.0, length - max(course.gap_s for course in counted))
            self._problem = next((text for name in recording.rails if (text := recording.problem(name, soon_s))), None)
            self._unseen_s += length - seen_s
            if self.meter.total and seen_s > 0:
                self._energy_j += sum(course.seen_j / (length - course.gap_s) for course in counted) * seen_s
                self._variance_j2 += sum(interval(course.blocks_j, course.bias_j) for course in counted) ** 2
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
