"""The joules of leaving at each exit.

No sensor sees one inference. In each window every sample leaves at one exit, and the window's joules are shared among the
samples (see `energy_rounds`). Intervals are Student's t over the rounds. Everything is then fitted at once: power at rest, and
the energy of each stage whenever it runs. If the mixed windows fit too, stages add up.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from ...devices.integration import student95
from ...devices.meter import Meter
from ...devices.rail import Grade
from ...errors import UsageError
from ...progress import Progress, no_progress
from ...runtime import Net
from ..pace import Pace
from .energy_fit import fit_stages, predict_joules
from .energy_rounds import Round, Run, measure_rounds
from .latency import leave_at_each

__all__ = [
    "LEAST_ENERGY_ROUNDS",
    "ExitEnergies",
    "ExitEnergy",
    "measure_energy",
    "measure_runs",
    "model_energy",
    "stated_power",
]

LEAST_ENERGY_ROUNDS = 10
"""With fewer rounds a Student interval says little."""


class ExitEnergy(Struct, frozen=True, kw_only=True):
    """The energy of leaving at one exit.

    Attributes:
        exit: the exit's number.
        energy_j, interval_j: of one inference, the board's rest until the next one included, with its 95 % interval.
        net_j, net_interval_j: the part above the board's rest, with its interval; None if modelled.
        latency_s: mean time of one inference in the same windows, the pause behind it left out.
        noise: relative standard error of the mean power in these windows; 0 if modelled.
        throttled: windows that count although the board throttled in each repetition.

    Example:
        >>> from offramp.calibrate import model_energy
        >>> model_energy([0.001, 0.002], power_w=5.0).exits[1].energy_j
        0.01
    """

    exit: int
    energy_j: float
    interval_j: tuple[float, float] | None
    net_j: float | None
    net_interval_j: tuple[float, float] | None
    latency_s: float
    throttled: int
    noise: float = 0.0


class ExitEnergies(Struct, frozen=True, kw_only=True):
    """The energy of leaving at each exit, and of each stage.

    Attributes:
        exits: by exit.
        idle_w, idle_interval_w: power at rest, with its 95 % interval.
        stage_j, stage_interval_j: energy of running each stage, above rest, as fitted, with its interval; empty if modelled.
        residual: root mean square of the fit's errors, as a fraction of a window's joules.
        mixed_error: error of the joules that the fit predicts for the mixed windows, as a fraction.
        trials, window_s: how many rounds were measured, and the length of a window.
        discarded: windows that were thrown away because the board throttled or the sensor failed.
        every_s: the pace, from the start of one inference to the start of the next; None if they were made back to back.
        meter, scope, grade: as in `devices.Energy`; `modelled` joules are time by a stated power, and nothing was measured.
        fingerprint: the device's, if the caller attached it.

    Example:
        >>> from offramp.calibrate import model_energy
        >>> model_energy([0.001, 0.002], power_w=5.0).grade
        'modelled'
    """

    exits: tuple[ExitEnergy, ...]
    idle_w: float | None
    idle_interval_w: tuple[float, float] | None
    stage_j: tuple[float, ...]
    stage_interval_j: tuple[tuple[float, float], ...]
    residual: float | None
    mixed_error: float | None
    trials: int
    window_s: float
    discarded: int
    meter: str
    scope: str
    grade: Grade
    every_s: float | None = None
    fingerprint: dict[str, str] = field(default_factory=dict)


def measure_energy(
    net: Net,
    x: Any,
    meter: Meter,
    *,
    trials: int = LEAST_ENERGY_ROUNDS,
    window_s: float | None = None,
    every_s: float | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> ExitEnergies:
    """Measure the energy of leaving at each exit. It takes minutes.

    Args:
        net: the network.
        x: samples that fit it, which are run round and round. Which samples they are matters little, since every one is made to
            leave at a given exit.
        meter: measures the board's power.
        trials, window_s, every_s, seed, progress: as for `measure_runs`.

    Raises:
        UsageError, MeasurementError: as for `measure_runs`.

    Example:
        >>> from offramp.calibrate import load_samples, measure_energy
        >>> from offramp.devices import choose_meter
        >>> from offramp.runtime import load
        >>> x, _ = load_samples("test.npz")
        >>> with load("digits.offramp") as net:  # doctest: +SKIP
        ...     energies = measure_energy(net, x, choose_meter())
    """
    samples = itertools.cycle(x)

    def leave_at(chain: Net) -> Run:
        return lambda: chain(next(samples))

    runs = [leave_at(chain) for chain in leave_at_each(net)]
    return measure_runs(runs, meter, trials=trials, window_s=window_s, every_s=every_s, seed=seed, progress=progress)


def measure_runs(
    runs: Sequence[Run],
    meter: Meter,
    *,
    trials: int = LEAST_ENERGY_ROUNDS,
    window_s: float | None = None,
    every_s: float | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> ExitEnergies:
    """Measure the energy of each kind of inference, given a function for each that runs one and returns when it is done.

    Args:
        runs: by exit; exit k runs the stages 0 to k.
        meter: measures the board's power.
        trials: how many rounds, at least ten.
        window_s: the length of a window; by default five seconds, or 200 updates of the sensor, or 50 inferences at the pace, if
            that is longer.
        every_s: the pace, from the start of one inference to the start of the next; None makes them back to back.
        seed: for the order within the rounds, and the exits of the mixed windows.
        progress: called with the name of the step, how much of it is done, and how much there is.

    Raises:
        UsageError: fewer than ten trials, or a meter that measures nothing.
        MeasurementError: the sensor failed from the first round on, or again and again, or `window_s` is too short for it.
    """
    if trials < LEAST_ENERGY_ROUNDS:
        raise UsageError(f"An interval takes at least {LEAST_ENERGY_ROUNDS} trials, not {trials}.")
    if not runs:
        raise UsageError("There is nothing to measure: give a function for each exit.")
    if window_s is not None and not 0 < window_s < math.inf:
        raise UsageError(f"window_s is a time in seconds above 0, not {window_s}.")
    if meter.grade == "modelled":
        raise UsageError("A modelled meter measures nothing: use model_energy.")
    pace = Pace(every_s, clock=meter.clock)
    rounds = measure_rounds(runs, meter, trials=trials, window_s=window_s, pace=pace, seed=seed, progress=progress)
    return replace(_summarise(rounds, len(runs), meter), every_s=every_s)


def stated_power(meter: Meter) -> float:
    """Return the watts that a modelled meter states.

    Raises:
        UsageError: it states several, or counts joules: that would be a sensor, and a sensor is measured with.
    """
    if len(meter.rails) != 1 or meter.rails[0].counts != "power":
        raise UsageError(
            f"The meter {meter.name} is modelled, so it states one power in watts. Give it one rail that counts power."
        )
    (power_w,) = meter.probes[0].read()
    return float(power_w)


def model_energy(latency_s: Sequence[float], power_w: float) -> ExitEnergies:
    """Model the energy of leaving at each exit without a meter: time by a stated power. Nothing is measured.

    Args:
        latency_s: of leaving at each exit.
        power_w: power of the board at work, as its user states it.

    Raises:
        UsageError: the power is not above 0.

    Example:
        >>> from offramp.calibrate import model_energy
        >>> energies = model_energy([0.001, 0.002], power_w=5.0)
        >>> energies.exits[1].energy_j
        0.01
    """
    from ...devices.meters import modelled

    meter = modelled(power_w)
    exits = tuple(
        ExitEnergy(
            exit=k,
            energy_j=seconds * power_w,
            interval_j=None,
            net_j=None,
            net_interval_j=None,
            latency_s=seconds,
            throttled=0,
        )
        for k, seconds in enumerate(latency_s)
    )
    return ExitEnergies(
        exits=exits,
        idle_w=None,
        idle_interval_w=None,
        stage_j=(),
        stage_interval_j=(),
        residual=None,
        mixed_error=None,
        trials=0,
        window_s=0.0,
        discarded=0,
        meter=meter.name,
        scope=meter.scope,
        grade=meter.grade,
    )


def _summarise(rounds: Sequence[Round], exits: int, meter: Meter) -> ExitEnergies:
    fits = [fit_stages([each]) for each in rounds]
    idle_w, idle_half_w = _mean([each.mean_rest_w for each in rounds])
    stages = [_mean([fit[k] for fit in fits]) for k in range(exits)]
    whole = fit_stages(rounds)
    windows = [window for each in rounds for window in each.windows]
    misfits = np.array([predict_joules(whole, window) / window.energy.energy_j - 1 for window in windows])
    mixed = [window for window in windows if window.exit is None]
    mixed_j = sum(window.energy.energy_j for window in mixed)
    return ExitEnergies(
        exits=tuple(_summarise_exit(k, rounds) for k in range(exits)),
        idle_w=idle_w,
        idle_interval_w=(idle_w - idle_half_w, idle_w + idle_half_w),
        stage_j=tuple(middle for middle, _ in stages),
        stage_interval_j=tuple((middle - half, middle + half) for middle, half in stages),
        residual=float(np.sqrt(np.mean(misfits**2))),
        mixed_error=sum(predict_joules(whole, window) for window in mixed) / mixed_j - 1,
        trials=len(rounds),
        window_s=rounds[-1].window_s,
        discarded=sum(each.discarded for each in rounds),
        meter=meter.name,
        scope=meter.scope,
        grade=meter.grade,
    )


def _summarise_exit(k: int, rounds: Sequence[Round]) -> ExitEnergy:
    gross, net, latency, powers, throttled = [], [], [], [], 0
    for each in rounds:
        (window,) = (window for window in each.windows if window.exit == k)
        energy, count = window.energy, sum(window.counts)
        gross.append(energy.energy_j / count)
        net.append((energy.energy_j - each.mean_rest_w * energy.duration_s) / count)
        latency.append(window.busy_s / count)
        powers.append(energy.mean_w)
        throttled += bool(energy.throttled)
    (energy_j, half_j), (net_j, net_half_j) = _mean(gross), _mean(net)
    return ExitEnergy(
        exit=k,
        energy_j=energy_j,
        interval_j=(energy_j - half_j, energy_j + half_j),
        net_j=net_j,
        net_interval_j=(net_j - net_half_j, net_j + net_half_j),
        latency_s=float(np.mean(latency)),
        noise=float(np.std(powers, ddof=1) / len(powers) ** 0.5 / np.mean(powers)),
        throttled=throttled,
    )


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of independent trials, and half its Student 95 % interval."""
    count = len(values)
    return float(np.mean(values)), student95(count - 1) * float(np.std(values, ddof=1)) / count**0.5
