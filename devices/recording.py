"""A meter read again and again, and the joules of the times between."""

import math
from array import array
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Protocol

import numpy as np
from msgspec import Struct

from ..errors import MeasurementError
from .clock import HANGS, Clock, wait_for
from .integration import LEAST_UPDATES, LEAST_WINDOW_S, RailEnergy, estimate_half_interval, integrate
from .rail import NEGATIVE, Grade, Probe, Rail, describe_failure
from .state import State, throttled_between

__all__ = ["Energy", "RailSource", "Recording", "WindowTooShortError"]

SLOW_ROUNDS = 10
"""Rails outside the total are read once in so many rounds: on many sensors every read waits for a conversion."""

IMPOSSIBLE = "it gives no number, or one that is not possible"

LARGEST_GAP = 0.1
"""The largest share of a window in which nothing may be read."""


class Energy(Struct, frozen=True, kw_only=True):
    """The joules of one window, with all that is needed to judge them.

    Attributes:
        energy_j: the window's energy, idle included.
        interval_j: its 95 % interval, without the scale error that a sensor has by itself.
        net_j: the energy beyond idle; None if idle was not measured.
        net_interval_j: its 95 % interval.
        idle_w: mean power of the board at rest, before and after the window.
        duration_s: the window's length.
        mean_w: its mean power.
        min_w, max_w: the least and the most power seen. For a counter, or several rails, the least and the most mean of a part
            of the window.
        rails_j: joules of each rail that was read often enough, the parts of the total included.
        meter: the meter's name.
        scope: what its total covers.
        grade: how the joules were got: by a sensor, an instrument, or a stated power.
        period_s: the time between two updates of the sensor, as found from its readings.
        rate_hz: updates read in a second.
        gaps, gap_s: how often and how long nothing could be read.
        throttled: what slowed the board down during the window; empty if nothing did.
        before, after: the board's clocks and temperature at both ends.

    Example:
        >>> from offramp.devices import SimulatedBoard
        >>> board = SimulatedBoard(idle_w=4.0)
        >>> with board.meter().window() as window:
        ...     board.work(10.0, power_w=9.0)
        >>> print(f"{window.energy.energy_j:.0f} J of {window.energy.scope}, {window.energy.grade}")
        90 J of the simulated board, simulated
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
    """The window is too short for its sensor; `needs_s` seconds are enough. Trying again with the same length does not help."""

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
    """The readings of a probe in one flat array: time, value of the first rail, of the second, ..., time of the next reading."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.count = probe, len(probe.rails)
        self.readings = array("d")


class Recording:
    """The readings of a meter's rails from `start` to `stop`. About 6 MB an hour and rail at 100 reads a second."""

    def __init__(self, meter: RailSource, rails: Sequence[str]) -> None:
        self.meter, self.rails = meter, tuple(rails)
        self.errors: dict[str, str] = {}
        self._series = [_Series(probe) for probe in meter.probes]
        self._fast = [series for series in self._series if any(rail.name in rails for rail in series.probe.rails)]
        self._slow = [series for series in self._series if series not in self._fast]
        self._places = {
            rail.name: (series, i) for series in self._series for i, rail in enumerate(series.probe.rails, 1)
        }
        self._round = 0
        self._end: Callable[[], None] = _do_nothing
        self._lock = Lock()
        self._now_s = meter.clock.now_s

    def start(self) -> None:
        """Read at once, then go on reading in the background."""
        self.poll_now()
        self._end = self.meter.clock.every(self.meter.poll_s, self.poll)

    def stop(self) -> None:
        """Stop reading."""
        self._end()

    def poll(self) -> None:
        """Read the chosen rails, and one of the others in every tenth round. A failed read is a gap and never raises."""
        for series in self._fast:
            self._read(series)
        if self._slow and self._round % SLOW_ROUNDS == 0:
            self._read(self._slow[self._round // SLOW_ROUNDS % len(self._slow)])
        self._round += 1

    def poll_now(self) -> None:
        """Poll, without waiting for a read that hangs."""
        if not wait_for(self.poll):
            self.errors |= dict.fromkeys(self.rails, HANGS)

    def _read(self, series: "_Series") -> None:
        start = self._now_s()
        try:
            values = array("d", series.probe.read_all())
        except (Exception, SystemExit) as error:
            values = array("d", [math.nan] * series.count)
            self.errors |= dict.fromkeys((rail.name for rail in series.probe.rails), describe_failure(error))
        at = (start + self._now_s()) / 2
        with self._lock:  # not held while reading: a read may hang, and nothing must wait for it
            series.readings.append(at)
            series.readings.extend(values)

    def integrate_rail(self, rail: Rail, start_s: float, end_s: float) -> RailEnergy:
        """Integrate one rail between two times."""
        series, column = self._places[rail.name]
        with self._lock:
            rows = np.array(series.readings).reshape(-1, series.count + 1)
        rounds = 1 if series in self._fast else SLOW_ROUNDS * len(self._slow)
        return integrate(rows[:, 0], rows[:, column], rail, start_s, end_s, poll_s=self.meter.poll_s * rounds)

    def mean_w(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Return the mean power of the chosen rails between two times, and half its 95 % interval."""
        parts = [self.integrate_rail(rail, start_s, end_s) for rail in self.chosen]
        self._refuse(parts, end_s - start_s, still=True)
        half = estimate_half_interval(_noise(parts), sum(part.bias_j for part in parts))
        return sum(part.energy_j for part in parts) / (end_s - start_s), half / (end_s - start_s)

    @property
    def chosen(self) -> list[Rail]:
        """The rails whose sum is measured."""
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
        """Return the energy between two times.

        Args:
            start_s, end_s: from when to when.
            before, after: the board's state at both ends.
            idle: mean power at rest and half its interval, before and after the window.
            tail_s: how long the board rested behind the end while it was read. A late sensor shows energy of the window there,
                which is added; the idle energy of the tail is subtracted.

        Raises:
            MeasurementError: the window is too short for the sensor, or nothing was read in too much of it.
        """
        length = end_s - start_s
        with_tail = [self.integrate_rail(rail, start_s, end_s + tail_s) for rail in self.chosen]
        inner = [self.integrate_rail(rail, start_s, end_s) for rail in self.chosen] if tail_s else with_tail
        self._refuse(inner, length)
        noise, bias = _noise(inner), sum(part.bias_j for part in with_tail)
        gross = sum(part.energy_j for part in with_tail)
        net = net_interval = idle_w = None
        half = estimate_half_interval(noise, bias)
        low_w, high_w = _extremes(inner, length)
        if idle is not None:
            idle_w = idle[0][0], idle[1][0]
            gross -= idle_w[1] * tail_s
            rest_j, rest_half_j = _idle_energy(idle, length)
            net = gross - rest_j
            net_half = estimate_half_interval(noise, bias, extra_j=rest_half_j)
            net_interval = net - net_half, net + net_half
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
            rails_j=self._energy_by_rail(start_s, end_s),
            meter=self.meter.name,
            scope=self.meter.scope if self.rails == self.meter.total else " + ".join(self.rails),
            grade=self.meter.grade,
            period_s=max(part.period_s for part in inner),
            rate_hz=min(part.updates for part in inner) / length,
            gaps=max(part.gaps for part in inner),
            gap_s=max(part.gap_s for part in inner),
            throttled=throttled_between(before, after),
            before=before,
            after=after,
        )

    def _energy_by_rail(self, start_s: float, end_s: float) -> dict[str, float]:
        """Return the joules of each rail that was read often enough."""
        joules = {}
        for rail in self.meter.rails:
            part = self.integrate_rail(rail, start_s, end_s)
            if part.updates >= LEAST_UPDATES and part.gap_s <= LARGEST_GAP * (end_s - start_s):
                joules[rail.name] = part.energy_j
        return joules

    def _refuse(self, parts: Sequence[RailEnergy], length: float, *, still: bool = False) -> None:
        """Refuse a window that is too short, or has too large gaps, to say anything.

        Args:
            parts: the energy of each chosen rail.
            length: of the window, in seconds.
            still: whether the board is at rest, where a coarse sensor may well show one value only.

        Raises:
            MeasurementError: see `energy`.
        """
        if sum(part.energy_j for part in parts) < 0:
            raise MeasurementError(f"{' + '.join(self.rails)} of {self.meter.name}: {NEGATIVE}.")
        for rail, part in zip(self.chosen, parts, strict=True):
            reason = f": {self.errors.get(rail.name, IMPOSSIBLE)}" if part.gaps else ""
            if part.gap_s > LARGEST_GAP * length:
                raise MeasurementError(
                    f"{self.meter.name} could not read {rail.name} for {part.gap_s:.2f} s of {length:.2f} s{reason}."
                )
            if length < part.needs_s or part.updates < LEAST_UPDATES:
                needs_s = max(part.needs_s, 1.1 * LEAST_UPDATES * part.period_s)
                if part.updates == 0 and length >= LEAST_WINDOW_S[rail.counts]:
                    if self.meter.grade == "modelled":
                        continue
                    if still and rail.counts == "power":
                        continue
                    raise MeasurementError(
                        f"{rail.name} of {self.meter.name} showed one value only in {length:.2f} s: nothing tells whether its "
                        "sensor works. Measure for longer, while the load changes."
                    )
                pace = f", whose sensor was found to update every {part.period_s * 1e3:.3g} ms" if part.updates else ""
                raise WindowTooShortError(
                    f"A window of {length:.3g} s is too short for {rail.name} of {self.meter.name}{pace}: it takes at least "
                    f"{math.ceil(needs_s * 10) / 10:g} s.",
                    needs_s,
                )


def _idle_energy(idle: tuple[tuple[float, float], tuple[float, float]], length_s: float) -> tuple[float, float]:
    """Return the idle energy of a window, and half its interval.

    If the power at rest before and after differs by more than the errors of both, it drifts; then the interval spans both.
    """
    (first_w, first_half_w), (last_w, last_half_w) = idle
    half_w = max(math.hypot(first_half_w, last_half_w) / 2, abs(first_w - last_w) / 2)
    return (first_w + last_w) / 2 * length_s, half_w * length_s


def _noise(parts: Sequence[RailEnergy]) -> np.ndarray:
    """Return the blocks whose differences show how noisy a sum of rails is; counters have no noise."""
    noisy = [part.noise_j for part in parts if len(part.noise_j)]
    if noisy and len({len(blocks) for blocks in noisy}) == 1:
        return np.asarray(np.sum(noisy, axis=0))
    return np.concatenate([np.empty(0), *noisy[:1]])


def _extremes(parts: Sequence[RailEnergy], length_s: float) -> tuple[float, float]:
    """Return the least and the most power of a sum of rails."""
    if len(parts) == 1:
        return parts[0].min_w, parts[0].max_w
    if len({len(part.blocks_j) for part in parts}) > 1:  # sensors of different speed: the sum lies within these
        return sum(part.min_w for part in parts), sum(part.max_w for part in parts)
    powers = np.sum([part.blocks_j for part in parts], axis=0) * len(parts[0].blocks_j) / length_s
    return float(powers.min()), float(powers.max())


def _do_nothing() -> None:
    """End a recording that was never started."""
