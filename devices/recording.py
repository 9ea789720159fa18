"""Reading a meter again and again, and joules from what was read."""

import math
from array import array
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Protocol

from msgspec import Struct

from ..errors import MeasurementError
from .clock import HANGS, Clock, wait_for
from .integration import LEAST_UPDATES, LEAST_WINDOW_S, RailEnergy, integrate, interval
from .rail import Grade, Probe, Rail, describe_failure
from .state import State, throttled_between

SLOW = 10
"""Rails outside the total are read once in so many rounds: on many sensors every read waits for a conversion."""

IMPOSSIBLE = "it gives no number, or one that is not possible"

MOST_GAP = 0.1
"""The share of a window that may pass unseen."""


class Energy(Struct, frozen=True, kw_only=True):
    """Joules of one window, with all that is needed to judge them.

    Attributes:
        energy_j: what passed, idle included; with its 95 % interval. A sensor's own scale error is not in it.
        net_j: what passed beyond idle, with its interval; None where idle was not measured.
        idle_w: mean power of the board at rest, before and after.
        duration_s, mean_w: of the window.
        min_w, max_w: least and most power seen; of a counter, or of several rails, the least and most mean of a part of the
            window.
        rails_j: joules of each rail that was seen often enough, the parts of the total among them.
        meter, scope, grade: what measured, what its total covers, and what kind of joules these are.
        period_s, rate_hz: the sensor's update period as found, and how often a second something new was read.
        gaps, gap_s: how often and how long nothing could be read.
        throttled: what slowed the board down meanwhile; empty when nothing did.
        before, after: the board's clocks and temperature at both ends.
    """

    energy_j: float
    interval_j: tuple[float, float]
    net_j: float | None
    net_interval_j: tuple[float, float] | None
    idle_w: tuple[float, float] | None
    duration_s: float
    mean_w: float
    min_w: float
    max_w: float
    rails_j: dict[str, float]
    meter: str
    scope: str
    grade: Grade
    period_s: float
    rate_hz: float
    gaps: int
    gap_s: float
    throttled: tuple[str, ...]
    before: State
    after: State

    def __str__(self) -> str:
        half = (self.interval_j[1] - self.interval_j[0]) / 2
        lines = [
            f"{self.energy_j:.4g} J +- {half:.2g} J in {self.duration_s:.2f} s, mean {self.mean_w:.4g} W "
            f"(least {self.min_w:.4g}, most {self.max_w:.4g})"
        ]
        if self.net_j is not None and self.net_interval_j and self.idle_w:
            half = (self.net_interval_j[1] - self.net_interval_j[0]) / 2
            lines.append(
                f"{self.net_j:.4g} J +- {half:.2g} J beyond idle, {self.idle_w[0]:.4g} W before and {self.idle_w[1]:.4g} W after"
            )
        gaps = f"{self.gaps} gaps of {self.gap_s:.2g} s in all" if self.gaps else "no gaps"
        lines.append(f"{self.grade}, {self.meter}: {self.scope}; {self.rate_hz:.3g} updates/s, {gaps}")
        if self.throttled:
            lines.append(f"throttled meanwhile: {', '.join(self.throttled)}")
        return "\n".join(lines)


class WindowTooShortError(MeasurementError):
    """The window is too short for its sensor: to try again makes it no longer. `needs_s` would do."""

    def __init__(self, message: str, needs_s: float) -> None:
        super().__init__(message)
        self.needs_s = needs_s


class RailSource(Protocol):
    """What a recording needs of a `Meter`, which itself imports the window that records it."""

    name: str
    scope: str
    grade: Grade
    poll_s: float
    probes: tuple[Probe, ...]
    rails: tuple[Rail, ...]
    total: tuple[str, ...]
    clock: Clock

    def state(self) -> State:
        """Read throttling, clocks and temperature."""


class _Series:
    """What a probe gave: for each reading its time and a value for each rail, one after the other."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.read, self.count = probe, probe.read, len(probe.rails)
        self.readings = array("d")


class Recording:
    """The readings of a meter's rails from `start` to `stop`. About 6 MB an hour and rail at 100 reads a second."""

    def __init__(self, meter: RailSource, rails: Sequence[str]) -> None:
        self.meter, self.rails = meter, tuple(rails)
        self.errors: dict[str, str] = {}
        self._series = [_Series(probe) for probe in meter.probes]
        self._fast = [one for one in self._series if any(rail.name in rails for rail in one.probe.rails)]
        self._slow = [one for one in self._series if one not in self._fast]
        self._places = {rail.name: (one, i) for one in self._series for i, rail in enumerate(one.probe.rails, 1)}
        self._round = 0
        self._end: Callable[[], None] = _do_nothing
        self._lock = Lock()
        self._now_s = meter.clock.now_s

    def start(self) -> None:
        """Read now, and go on reading in the background."""
        self.poll_now()
        self._end = self.meter.clock.every(self.meter.poll_s, self.poll)

    def stop(self) -> None:
        """Read no more."""
        self._end()

    def poll(self) -> None:
        """Read the rails that count, and now and then the others; a read that fails is a gap and never raises."""
        for series in self._fast:
            self._read(series)
        if self._slow and self._round % SLOW == 0:
            self._read(self._slow[self._round // SLOW % len(self._slow)])
        self._round += 1

    def poll_now(self) -> None:
        """Poll, but do not wait for a read that hangs."""
        if not wait_for(self.poll):
            self.errors |= dict.fromkeys(self.rails, HANGS)

    def _read(self, series: "_Series") -> None:
        start = self._now_s()
        try:
            values = array("d", series.read())
            if len(values) != series.count:
                raise ValueError(f"it gives {len(values)} numbers for {series.count} rails")
        except (Exception, SystemExit) as error:
            values = array("d", [math.nan] * series.count)
            self.errors |= dict.fromkeys((rail.name for rail in series.probe.rails), describe_failure(error))
        at = (start + self._now_s()) / 2
        with self._lock:  # not while reading: a read may hang, and nobody shall wait for it
            series.readings.append(at)
            series.readings.extend(values)

    def integrate_rail(self, rail: Rail, start_s: float, end_s: float) -> RailEnergy:
        """Integrate one rail between two times."""
        import numpy as np

        series, column = self._places[rail.name]
        with self._lock:
            rows = np.array(series.readings).reshape(-1, series.count + 1)
        slow = 1 if series in self._fast else SLOW * len(self._slow)
        return integrate(rows[:, 0], rows[:, column], rail, start_s, end_s, poll_s=self.meter.poll_s * slow)

    def mean_w(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Return the mean power of the chosen rails between two times, and half its 95 % interval."""
        courses = [self.integrate_rail(rail, start_s, end_s) for rail in self.chosen]
        self._refuse(courses, end_s - start_s, still=True)
        half = interval(_noise(courses), sum(course.bias_j for course in courses))
        return sum(course.energy_j for course in courses) / (end_s - start_s), half / (end_s - start_s)

    @property
    def chosen(self) -> list[Rail]:
        """The rails that are added up."""
        return [rail for rail in self.meter.rails if rail.name in self.rails]

    def energy(
        self,
        start_s: float,
        end_s: float,
        *,
        before: State,
        after: State,
        idle: tuple[tuple[float, float], tuple[float, float]] | None = None,
        tail_s: float = 0.0,
    ) -> Energy:
        """Make the joules between two times.

        Args:
            start_s, end_s: from when to when.
            before, after: the board's state at both ends.
            idle: mean power at rest with half its interval, before and after.
            tail_s: how long the board rested behind the end while it was read: what a late sensor shows there of the window
                is added, and the idle energy taken away.

        Raises:
            MeasurementError: the window is too short for the sensor, or too much of it was not seen.
        """
        length = end_s - start_s
        courses = [self.integrate_rail(rail, start_s, end_s + tail_s) for rail in self.chosen]
        inner = [self.integrate_rail(rail, start_s, end_s) for rail in self.chosen] if tail_s else courses
        self._refuse(inner, length)
        bias = sum(course.bias_j for course in courses)
        gross = sum(course.energy_j for course in courses)
        net = net_interval = idle_w = None
        half = interval(_noise(inner), bias)
        low_w, high_w = _extremes(inner, length)
        if idle is not None:
            (first_w, first_half), (last_w, last_half) = idle
            idle_w = first_w, last_w
            gross -= last_w * tail_s
            mean_w = (first_w + last_w) / 2
            # Two measurements of one rest that differ by more than their own errors show that rest itself wanders.
            rest = max(math.hypot(first_half, last_half) / 2, abs(first_w - last_w) / 2) * length
            net = gross - mean_w * length
            wide = interval(_noise(inner), bias, extra_j=rest)
            net_interval = net - wide, net + wide
        return Energy(
            energy_j=gross,
            interval_j=(gross - half, gross + half),
            net_j=net,
            net_interval_j=net_interval,
            idle_w=idle_w,
            duration_s=length,
            mean_w=gross / length,
            min_w=low_w,
            max_w=high_w,
            rails_j=self._rails(start_s, end_s),
            meter=self.meter.name,
            scope=self.meter.scope if self.rails == self.meter.total else " + ".join(self.rails),
            grade=self.meter.grade,
            period_s=max(course.period_s for course in inner),
            rate_hz=min(course.updates for course in inner) / length,
            gaps=max(course.gaps for course in inner),
            gap_s=max(course.gap_s for course in inner),
            throttled=throttled_between(before, after),
            before=before,
            after=after,
        )

    def _rails(self, start_s: float, end_s: float) -> dict[str, float]:
        found = {}
        for rail in self.meter.rails:
            course = self.integrate_rail(rail, start_s, end_s)
            if course.updates >= LEAST_UPDATES and course.gap_s <= MOST_GAP * (end_s - start_s):
                found[rail.name] = course.energy_j
        return found

    def _refuse(self, courses: Sequence[RailEnergy], length: float, *, still: bool = False) -> None:
        """Refuse what says nothing. Where the board is `still`, a coarse sensor may well show one value only.

        Raises:
            MeasurementError: see `energy`.
        """
        for rail, course in zip(self.chosen, courses, strict=True):
            reason = f": {self.errors.get(rail.name, IMPOSSIBLE)}" if course.gaps else ""
            if course.gap_s > MOST_GAP * length:
                raise MeasurementError(
                    f"{self.meter.name} could not read {rail.name} for {course.gap_s:.2f} s of {length:.2f} s{reason}."
                )
            if length < course.needs_s or course.updates < LEAST_UPDATES:
                needs_s = max(course.needs_s, 1.1 * LEAST_UPDATES * course.period_s)
                if course.updates == 0 and length >= LEAST_WINDOW_S[rail.counts]:
                    if self.meter.grade == "modelled":
                        continue
                    if still and rail.counts == "power":
                        continue
                    raise MeasurementError(
                        f"{rail.name} of {self.meter.name} showed one value only in {length:.2f} s: nothing tells whether its "
                        "sensor works. Measure for longer, while the load changes."
                    )
                found = (
                    f", whose sensor was found to update every {course.period_s * 1e3:.3g} ms" if course.updates else ""
                )
                raise WindowTooShortError(
                    f"A window of {length:.3g} s is too short for {rail.name} of {self.meter.name}{found}: it takes at least "
                    f"{math.ceil(needs_s * 10) / 10:g} s.",
                    needs_s,
                )


def _noise(courses: Sequence[RailEnergy]) -> Any:
    """Return the blocks that tell how noisy a sum of rails is; a counter has no noise."""
    import numpy as np

    blocks = [course.noise_j for course in courses if len(course.noise_j)]
    return (
        sum(blocks) if blocks and len({len(one) for one in blocks}) == 1 else np.concatenate([np.empty(0), *blocks[:1]])
    )


def _extremes(courses: Sequence[RailEnergy], length: float) -> tuple[float, float]:
    """Return the least and the most power of a sum of rails."""
    if len(courses) == 1:
        return courses[0].min_w, courses[0].max_w
    if len({len(course.blocks_j) for course in courses}) > 1:  # sensors of different speed: within these
        return sum(course.min_w for course in courses), sum(course.max_w for course in courses)
    powers = sum(course.blocks_j for course in courses) * len(courses[0].blocks_j) / length
    return float(powers.min()), float(powers.max())


def _do_nothing() -> None:
    """End what was never begun."""
