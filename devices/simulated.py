"""A simulated board for tests of power-aware products, without hardware and without waiting.

It has rails, noise, slow and coarse sensors, throttling and faults, and a clock of its own:

    board = SimulatedBoard(idle_w=4.0, sensor=Sensor(period_s=0.0066, noise_w=0.05))
    meter = board.meter()
    with meter.window() as window:
        for _ in range(500):
            board.work(0.008, power_w=9.0)      # an inference
    window.energy.energy_j, board.spent_j       # the measured energy, and the true one
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
    """Time that passes only when it is told to. Periodic calls of `every` happen on the way.

    Args:
        seed: draws the distances between periodic calls.

    Example:
        >>> from offramp.devices import SimulatedClock
        >>> clock, times = SimulatedClock(), []
        >>> end = clock.every(1.0, lambda: times.append(clock.now_s()))
        >>> clock.sleep(10.0)
        >>> clock.now_s(), len(times) > 5
        (10.0, True)
    """

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
        """Let time pass, and make the calls that are due on the way."""
        until = self._now_s + max(0.0, seconds)
        if self._calling:  # the call itself takes time; others that fall due meanwhile are late
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
        """Call a function again and again as time passes; return a function that ends it."""
        self._count += 1
        number = self._count
        heapq.heappush(self._due, (self._now_s + jitter(period_s, self._draw), number, period_s, call))
        return lambda: self._ended.add(number)


class Sensor(Struct, frozen=True, kw_only=True):
    """How a simulated sensor measures power.

    Attributes:
        period_s: the time between two updates.
        noise_w: standard deviation of an update's error.
        step_w: the resolution: readings are multiples of it; 0 rounds nothing.
        counts: `power`, or `energy` for a counter.
        averages: whether an update shows the mean since the one before, or the power at its moment.
        wrap_j: the value at which a counter starts again from 0; more than one update may add.
        read_s: how long a read takes.

    Example:
        >>> from offramp.devices import Sensor, SimulatedBoard
        >>> meter = SimulatedBoard(idle_w=4.0, sensor=Sensor(noise_w=0.0, step_w=1.0)).meter()
        >>> meter.read()
        {'VDD_IN': 4.0}
    """

    period_s: float = 0.0066
    noise_w: float = 0.05
    step_w: float = 0.0
    counts: str = "power"
    averages: bool = True
    wrap_j: float | None = None
    read_s: float = 0.0


class Fault(Struct, frozen=True, kw_only=True):
    """A time in which reads of a rail fail.

    Attributes:
        rail: the rail's name.
        start_s, end_s: from when to when, in simulated seconds.
        code: the errno of the failure.

    Example:
        >>> from offramp.devices import Fault, SimulatedBoard
        >>> SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=0.0)]).meter().read()
        {'VDD_IN': 'simulated fault'}
    """

    rail: str
    start_s: float
    end_s: float = math.inf
    code: int = errno.EIO


class SimulatedBoard:
    """A board whose true power and energy are known.

    Args:
        idle_w: power at rest.
        sensor: how its sensors measure.
        parts: the parts of the total `VDD_IN`, each with its share.
        faults: reads that fail.
        throttled_s: times, each from when to when, in which the board throttles. Work that begins then takes twice as long at two
            thirds of the power beyond rest, and the state says so.
        seed: draws noise and the sensor's phase.

    Attributes:
        clock: the simulated time.
        spent_j: the energy that was truly spent until now.

    Raises:
        UsageError: a value of the sensor is out of its range, or a fault names no rail of the board.

    Example:
        >>> from offramp.devices import SimulatedBoard
        >>> board = SimulatedBoard(idle_w=4.0, parts={"GPU": 0.5})
        >>> with board.meter().window() as window:
        ...     board.work(60.0, power_w=9.0)
        >>> print(f"{window.energy.energy_j:.0f} J of {board.spent_j:.0f} J, GPU {window.energy.rails_j['GPU']:.0f} J")
        540 J of 540 J, GPU 270 J
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
            if fault.rail not in (choices := (TOTAL, *(parts or {}))):
                raise unknown_name("rail of the simulated board", fault.rail, choices)
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
        """Spend time at a power, then go back to rest. While the board throttles the work takes longer."""
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
        """Return a meter of the board; its grade is `simulated`."""
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
