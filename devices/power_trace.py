"""A meter whose readings are kept, and the picture of the power over time that they make."""

import contextlib
import os
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from ..errors import printable
from ..pictures import COLOURS, GREY, check_picture, style_axes, write_caption, written_figure
from .integration import LEAST_UPDATES, estimate_half_interval, integrate, power_over_time
from .meter import Meter
from .rail import Probe, Rail
from .recording import Energy
from .watch import Power

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Phase", "PowerTrace", "draw_power"]

MOST_POINTS = 1500
"""A line of more points is drawn as the means of so many parts of the time, in a band from the least to the most."""

MOST_PHASE = 40
"""A phase's name has room for so many characters; of a path only its end is written."""

LINES = "-", "--", ":"
"""Lines of rails beyond the colours that there are."""


class Phase(Struct, frozen=True):
    """A part of the time that a trace names, from when to when in seconds of the meter's clock.

    Example:
        >>> from offramp.devices import PowerTrace, SimulatedBoard
        >>> board = SimulatedBoard()
        >>> trace = PowerTrace(board.meter())
        >>> with trace.meter.window(), trace.phase("infer"):
        ...     board.work(5.0, power_w=9.0)
        >>> (phase,) = trace.phases
        >>> phase.name, round(phase.end_s - phase.start_s, 3)
        ('infer', 5.0)
    """

    name: str
    start_s: float
    end_s: float


class PowerTrace:
    """Keeps every reading of a meter, so that `draw_power` can draw them. About 6 MB an hour and rail at 100 reads a second.

    Args:
        meter: the meter. Measure with the trace's own `meter`, which reads the same rails.

    Example:
        >>> from offramp.devices import PowerTrace, SimulatedBoard, draw_power
        >>> board = SimulatedBoard(idle_w=4.0)
        >>> trace = PowerTrace(board.meter())
        >>> with trace.meter.window(idle_s=3) as window:
        ...     with trace.phase("load"):
        ...         board.work(3.0, power_w=6.0)
        ...     with trace.phase("infer"):
        ...         board.work(5.0, power_w=9.0)
        >>> draw_power(trace, "power.svg", energy=window.energy)
        >>> [phase.name for phase in trace.phases]
        ['load', 'infer']
    """

    def __init__(self, meter: Meter) -> None:
        self.phases: list[Phase] = []
        self._readings = {rail.name: array("d") for rail in meter.rails}
        self.meter = Meter(
            meter.name,
            [Probe(probe.rails, partial(self._read, probe)) for probe in meter.probes],
            scope=meter.scope,
            grade=meter.grade,
            poll_s=meter.poll_s,
            clock=meter.clock,
            state=meter.state,
            problems=meter.problems,
        )

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name what runs within a `with` block."""
        start_s = self.meter.clock.now_s()
        try:
            yield
        finally:
            self.phases.append(Phase(name, start_s, self.meter.clock.now_s()))

    def power_w(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return of each rail when it drew which power: seconds of the meter's clock and W, float64 (M,), NaN in a gap."""
        return {
            rail.name: power_over_time(*self._columns(rail), rail, poll_s=self._poll_s(rail)) for rail in self.rails
        }

    @property
    def rails(self) -> list[Rail]:
        """The rails that were read, those of the meter's total first."""
        read = [rail for rail in self.meter.rails if len(self._readings[rail.name]) > 2]
        return sorted(read, key=lambda rail: ("total", "part", "other").index(rail.role))

    def describe_phase(self, phase: Phase) -> str:
        """Say what a phase took, by the meter's total; where it was too short for its sensor only how long it was."""
        length_s = phase.end_s - phase.start_s
        parts = [
            integrate(*self._columns(rail), rail, phase.start_s, phase.end_s, poll_s=self.meter.poll_s)
            for rail in self.rails
            if rail.role == "total"
        ]
        if not parts or any(part.updates < LEAST_UPDATES or not length_s >= part.needs_s for part in parts):
            return f"{phase.name}: {length_s:.2f} s, too short to measure by itself"
        joules = sum(part.energy_j for part in parts)
        half_j = sum(estimate_half_interval(part.noise_j, part.bias_j) for part in parts)
        return f"{phase.name}: {joules:.4g} J +- {half_j:.2g} J in {length_s:.2f} s, mean {joules / length_s:.4g} W"

    def _read(self, probe: Probe) -> Sequence[float]:
        start_s = self.meter.clock.now_s()
        values = probe.read_all()
        at = (start_s + self.meter.clock.now_s()) / 2
        for rail, value in zip(probe.rails, values, strict=True):
            self._readings[rail.name].extend((at, value))
        return values

    def _columns(self, rail: Rail) -> tuple[np.ndarray, np.ndarray]:
        readings = np.array(self._readings[rail.name])
        return readings[::2], readings[1::2]

    def _poll_s(self, rail: Rail) -> float:
        at, _ = self._columns(rail)
        return float(np.median(np.diff(at)))


def draw_power(trace: PowerTrace, output: str | os.PathLike[str], *, energy: Energy | Power | None = None) -> None:
    """Write a picture of the power of each rail over time, with the phases that were named and their joules.

    Args:
        trace: the readings.
        output: the file to write, .svg, .png or .pdf; an existing one is replaced.
        energy: what a window or a watch measured with the trace's meter, for the words below the picture.

    Raises:
        UsageError: the file's ending names no format.
        MissingError: matplotlib is not installed, or the file cannot be written.

    Example:
        >>> from offramp.devices import PowerTrace, SimulatedBoard, draw_power
        >>> board = SimulatedBoard()
        >>> trace = PowerTrace(board.meter())
        >>> with trace.meter.window() as window:
        ...     board.work(10.0, power_w=9.0)
        >>> draw_power(trace, "power.png", energy=window.energy)
    """
    path = check_picture(output)
    curves = trace.power_w()
    begin_s = min((at[0] for at, _ in curves.values() if len(at)), default=0.0)
    with written_figure(path, 8.0, 3.6) as figure:
        axes = figure.add_subplot()
        style_axes(axes, f"Power of {trace.meter.scope}", "seconds", "W")
        for i, rail in enumerate(trace.rails):
            look = COLOURS[i % len(COLOURS)], LINES[i // len(COLOURS) % len(LINES)]
            _draw_rail(axes, rail, *curves[rail.name], begin_s, look)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=axes.get_ylim()[1] * 1.12)
        _mark_phases(axes, trace, begin_s, energy)
        if not curves:
            axes.text(0.5, 0.5, "no readings", transform=axes.transAxes, ha="center", color=GREY)
        else:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        write_caption(figure, _describe(trace, energy))


def _draw_rail(
    axes: "Axes", rail: Rail, at_s: np.ndarray, power_w: np.ndarray, begin_s: float, look: tuple[str, str]
) -> None:
    seen = power_w[np.isfinite(power_w)]
    if not len(seen):
        return
    name = f"{rail.name}{'' if rail.role == 'total' else f' ({rail.role})'}\n{seen.min():.3g} to {seen.max():.3g} W"
    colour, line = look
    at_s, width = at_s - begin_s, 1.6 if rail.role == "total" else 1.0
    if len(at_s) > MOST_POINTS:
        parts = np.array_split(np.arange(len(at_s)), MOST_POINTS)
        low_w, high_w = (np.array([edge(power_w[rows]) for rows in parts]) for edge in (np.min, np.max))  # NaN at a gap
        at_s, power_w = np.array([[at_s[rows].mean(), power_w[rows].mean()] for rows in parts]).T
        axes.fill_between(at_s, low_w, high_w, color=colour, alpha=0.25, linewidth=0)
    axes.plot(at_s, power_w, line, color=colour, linewidth=width, label=name)


def _mark_phases(axes: "Axes", trace: PowerTrace, begin_s: float, energy: Energy | Power | None) -> None:
    """Shade the phases and write their names above the lines; and where the board rested beside them, its power."""
    phases = sorted(trace.phases, key=lambda phase: phase.start_s)
    look: dict[str, Any] = {"ha": "center", "va": "top", "color": GREY, "transform": axes.get_xaxis_transform()}
    for i, phase in enumerate(phases):
        start_s, end_s = phase.start_s - begin_s, phase.end_s - begin_s
        axes.axvspan(start_s, end_s, color="#000000", alpha=0.05 + 0.05 * (i % 2), linewidth=0)
        axes.text((start_s + end_s) / 2, 0.98, printable(Path(phase.name).name, MOST_PHASE), **look)
    if phases and isinstance(energy, Energy) and energy.idle_w is not None:
        low_s, high_s = axes.dataLim.intervalx
        sides = (low_s, phases[0].start_s - begin_s), (phases[-1].end_s - begin_s, high_s)
        for (start_s, end_s), rest_w in zip(sides, energy.idle_w, strict=True):
            axes.text((start_s + end_s) / 2, 0.98, f"rest\n{rest_w:.3g} W", **look)


def _describe(trace: PowerTrace, energy: Energy | Power | None) -> list[str]:
    told = [] if len(trace.phases) < 2 and energy is not None else [trace.describe_phase(each) for each in trace.phases]
    if isinstance(energy, Energy):
        whole = "in all: " if told else ""
        return [*told, *f"{whole}{energy}".splitlines()]
    if energy is not None and energy.mean_w is not None:
        joules = (
            f"{energy.energy_j:.4g} J +- {energy.half_j:.2g} J in {energy.seen_s:.1f} s, mean {energy.mean_w:.4g} W"
        )
        told.append(joules)
    return [*told, f"{trace.meter.grade}, {trace.meter.name}: {trace.meter.scope}"]
