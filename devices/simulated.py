"""A simulated board: rails, noise, slow and coarse sensors, throttling and faults, in simulated time.

For tests of power-aware products without hardware and without waiting:

    board = SimulatedBoard(idle_w=4.0, sensor=Sensor(period_s=0.0066, noise_w=0.05))
    meter = board.meter()
    with meter.window() as window:
        for _ in range(500):
            board.work(0.008, power_w=9.0)      # an inference
    window.energy.energy_j, board.spent_j       # what was measured, and the truth
"""

import errno
import heapq
import math
import random
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct

from ..errors import UsageError, unknown_name
from .clock import Clock, jitter
from .meter import Meter
from .rail import COUNTS, Probe, Rail
from .state import State

TOTAL = "VDD_IN"


class SimulatedClock(Clock):
    """Time that passes only when it is told to; what `every` is to call happens meanwhile."""

    def __init__(self, *, seed: int = 0) -> None:
        self._now_s = 0.0
        self._draw = random.Random(seed).random
        self._count = 0
        self._due: list[tuple[float, int, float, Callable[[], None]]] = []
        self._ended: set[int] = set()
        self._calling = False

    def now_s(self) -> float:
        """Return seconds since the clock was made."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass, and call what is due on the way."""
        until = self._now_s + max(0.0, seconds)
        if self._calling:  # what is called takes time itself; what falls due meanwhile is late
            self._now_s = until
            return
        while self._due and self._due[0][0] <= until:
            at, number, period_s, call = heapq.heappop(self._due)
            if number in self._ended:
                self._ended.discard(number)
                continue
            self._now_s = max(self._now_s, at)
            self._calling = True
            try:
                call()
            finally:
                self._calling = False
            heapq.heappush(self._due, (self._now_s + jitter(period_s, self._draw), number, period_s, call))
        self._now_s = max(self._now_s, until)

    def every(self, period_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call something again and again as time passes."""
        self._count += 1
        number = self._count
        heapq.heappush(self._due, (self._now_s + jitter(period_s, self._draw), number, period_s, call))
        return lambda: self._ended.add(number)


class Sensor(Struct, frozen=True, kw_only=True):
    """How a simulated sensor sees power.

    Attributes:
        period_s: how often it updates.
        noise_w: standard deviation of an update's error.
        step_w: its resolution: readings are multiples of this; 0 rounds nothing.
        counts: whether it shows `power`, or an `energy` counter.
        averages: whether an update shows the mean since the one before, or the power at its moment.
        wrap_j: where an energy counter begins anew; more than what one update may add.
        read_s: how long a read takes.
    """

    period_s: float = 0.0066
    noise_w: float = 0.05
    step_w: float = 0.0
    counts: str = "power"
    averages: bool = True
    wrap_j: float | None = None
    read_s: float = 0.0


class Fault(Struct, frozen=True, kw_only=True):
    """From when to when, in simulated seconds, reads of a rail fail, and with which errno."""

    rail: str
    start_s: float
    end_s: float = math.inf
    code: int = errno.EIO


class SimulatedBoard:
    """A board whose true power and energy are known.

    Args:
        idle_w: power at rest.
        sensor: how its sensors see.
        parts: for each part of the total `VDD_IN` its share.
        faults: reads that fail.
        throttled_s: from when to when the board throttles: work that begins then takes twice as long at two thirds of the power
            beyond rest, and the state says so.
        seed: draws noise and the sensor's phase.

    Attributes:
        clock: the simulated time.
        spent_j: the energy that truly was spent until now.
    """

    def __init__(
        self,
        *,
        idle_w: float = 4.0,
        sensor: Sensor = Sensor(),  # noqa: B008 a frozen value
        parts: dict[str, float] | None = None,
        faults: Sequence[Fault] = (),
        throttled_s: Sequence[tuple[float, float]] = (),
        seed: int = 0,
    ) -> None:
        if not 0 < sensor.period_s < math.inf:
            raise UsageError(f"period_s of a sensor is a time above 0, not {sensor.period_s}.")
        if sensor.counts not in COUNTS:
            raise UsageError(f"counts of a sensor is one of {', '.join(COUNTS)}, not {sensor.counts!r}.")
        if min(sensor.noise_w, sensor.step_w, sensor.read_s) < 0:
            raise UsageError("noise_w, step_w and read_s of a sensor are 0 or more.")
        if TOTAL in (parts or {}):
            raise UsageError(f"{TOTAL} is the board's total and no part of it.")
        for fault in faults:
            if fault.rail not in (known := (TOTAL, *(parts or {}))):
                raise unknown_name("rail of the simulated board", fault.rail, known)
        self.clock = SimulatedClock(seed=seed)
        self.spent_j = 0.0
        self.idle_w, self._power_w, self._since_s = idle_w, idle_w, 0.0
        self._sensor, self._faults, self._throttled_s = sensor, tuple(faults), tuple(throttled_s)
        self._shares = {TOTAL: 1.0, **(parts or {})}
        self._random = random.Random(seed)
        self._last_s = -self._random.random() * sensor.period_s
        self._last_j = self._last_s * idle_w
        shown_w = round(idle_w / sensor.step_w) * sensor.step_w if sensor.step_w else idle_w
        self._shown = dict.fromkeys(self._shares, shown_w if sensor.counts == "power" else 0.0)
        self._events = 0

    def work(self, seconds: float, *, power_w: float) -> None:
        """Spend time at a power, then fall back to idle; while the board throttles it takes longer."""
        if self._is_throttled():
            seconds, power_w = 2 * seconds, self.idle_w + (power_w - self.idle_w) * 2 / 3
            self._events += 1
        self.set_power(power_w)
        self.clock.advance(seconds)
        self.set_power(self.idle_w)

    def set_power(self, power_w: float) -> None:
        """Set the board's power from now on."""
        self._settle()
        self._power_w = power_w

    def meter(self, *, poll_s: float = 0.01) -> Meter:
        """Return the board's meter, whose grade is `simulated`."""
        sensor = self._sensor
        probes = [
            Probe(
                (
                    Rail(
                        name=name,
                        role="total" if name == TOTAL else "part",
                        covers="the simulated board" if name == TOTAL else "a part of it",
                        counts="energy" if sensor.counts == "energy" else "power",
                        wrap_j=sensor.wrap_j,
                    ),
                ),
                partial(self._read, name),
            )
            for name in self._shares
        ]
        return Meter(
            "simulated",
            probes,
            scope="the simulated board",
            grade="simulated",
            poll_s=poll_s,
            clock=self.clock,
            state=self.state,
        )

    def state(self) -> State:
        """Return the board's state."""
        throttled = self._is_throttled()
        return State(
            clock_hz=0.9e9 if throttled else 1.8e9,
            temperature_c=95.0 if throttled else 45.0 + self._power_w,
            throttling=("simulated heat",) if throttled else (),
            events={"simulated heat": self._events},
        )

    def _is_throttled(self) -> bool:
        return any(start <= self.clock.now_s() < end for start, end in self._throttled_s)

    def _read(self, rail: str) -> tuple[float]:
        self.clock.advance(self._sensor.read_s)
        now = self.clock.now_s()
        for fault in self._faults:
            if fault.rail == rail and fault.start_s <= now < fault.end_s:
                raise OSError(fault.code, "simulated fault")
        self._settle()
        return (self._shown[rail],)

    def _settle(self) -> None:
        """Bring the truth and the sensor's updates up to now."""
        sensor, now, power_w = self._sensor, self.clock.now_s(), self._power_w
        truth_j = self.spent_j
        while self._last_s + sensor.period_s <= now:
            at = self._last_s + sensor.period_s
            at_j = truth_j + power_w * (at - self._since_s)
            seen_w = (at_j - self._last_j) / sensor.period_s if sensor.averages else power_w
            for rail, share in self._shares.items():
                if sensor.counts == "energy":
                    shown = share * at_j
                    self._shown[rail] = shown % sensor.wrap_j if sensor.wrap_j else shown
                else:
                    noisy = share * seen_w + self._random.gauss(0.0, sensor.noise_w)
                    self._shown[rail] = round(noisy / sensor.step_w) * sensor.step_w if sensor.step_w else noisy
            self._last_s, self._last_j = at, at_j
        self.spent_j = truth_j + power_w * (now - self._since_s)
        self._since_s = now
