"""What leaving at each exit costs in joules.

    round 0:  idle | exit 2 ######## | mixed ######## | exit 0 ######## | exit 1 ######## | idle
    round 1:  idle | exit 0 ######## | exit 1 ######## | mixed ######## | exit 2 ######## | idle      order drawn anew
    ...                  ^ ^      ^ ^
                         | window | the load goes on before and behind a window, for as long as the sensor lags behind

No sensor sees one inference. Within a window every sample leaves at one exit, and its joules are shared among them. A window
during which the board throttled is discarded and repeated after a pause. Intervals are Student's t over the rounds. Everything is
then fitted at once: idle power, and what each stage takes whenever it runs. In the mixed windows the exits are drawn at random:
that they fit too is what tells that stages add up.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct

from ...devices.integration import LEAST_PERIODS, student95
from ...devices.meter import Meter
from ...devices.rail import Grade
from ...devices.recording import Recording, WindowTooShortError
from ...devices.window import settle_s
from ...errors import MeasurementError, UsageError
from ...progress import Progress, no_progress
from ...runtime import Net
from ...runtime.chain.samples import Samples
from .energy_fit import Window, fit_stages, predict
from .latency import leave_at_each

LEAST_TRIALS = 10
"""Rounds below which a Student interval says little."""

WINDOW_S, WINDOW_PERIODS = 5.0, 200
"""A window's length by default: the longer of both."""

RETRIES = 3
"""How often a throttled window is repeated, after a pause of 1, 2, 4, ... `PAUSE_S`."""

MOST_RETRIES = 10
"""Windows that are repeated in all: a board that always throttles is not waited for."""

OUTAGE_S = 5.0
"""A round that fails is repeated after a pause of 2, 4 and 8 times this."""

PAUSE_S = 2.0

Run = Callable[[], object]
"""One inference."""


class ExitEnergy(Struct, frozen=True, kw_only=True):
    """What leaving at one exit costs.

    Attributes:
        energy_j: of one inference, the board's rest included, with its 95 % interval.
        net_j: beyond rest, with its interval; None where it was modelled.
        latency_s: mean time of one inference meanwhile.
        throttled: windows that are kept although the board throttled in each repetition.
    """

    exit: int
    energy_j: float
    interval_j: tuple[float, float] | None
    net_j: float | None
    net_interval_j: tuple[float, float] | None
    latency_s: float
    throttled: int


class ExitEnergies(Struct, frozen=True, kw_only=True):
    """What leaving at each exit costs, and how that splits up.

    Attributes:
        exits: by exit.
        idle_w: power at rest, with its 95 % interval.
        stage_j: what running each stage takes beyond rest, as fitted, with its interval; empty where it was modelled.
        residual: root mean square of what the fit leaves over, as a fraction of a window's joules.
        mixed_error: how far the fit is from what the mixed windows took, as a fraction.
        trials, window_s: rounds, and the length of a window.
        discarded: windows that were thrown away since the board throttled or the sensor failed.
        meter, scope, grade: as in `Energy`; `modelled` joules are time by a stated power, and nothing was measured.
        fingerprint: of the device.
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
    fingerprint: dict[str, str]


def measure_energy(
    net: Net,
    x: Samples,
    meter: Meter,
    *,
    trials: int = LEAST_TRIALS,
    window_s: float | None = None,
    seed: int = 0,
    fingerprint: dict[str, str],
    progress: Progress = no_progress,
) -> ExitEnergies:
    """Measure what leaving at each exit costs.

    Args:
        net: the network.
        x: samples that fit it; which ones matters little, since every one is made to leave at a given exit.
        meter: what measures.
        trials, window_s, seed, progress: as for `measure_runs`.
        fingerprint: of the device, to be stored.

    Raises:
        UsageError, MeasurementError: as for `measure_runs`.
    """
    samples = itertools.cycle(x)

    def leave_at(chain: Net) -> Run:
        return lambda: chain(next(samples))

    runs = [leave_at(chain) for chain in leave_at_each(net)]
    return measure_runs(
        runs, meter, trials=trials, window_s=window_s, seed=seed, fingerprint=fingerprint, progress=progress
    )


def measure_runs(
    runs: Sequence[Run],
    meter: Meter,
    *,
    trials: int = LEAST_TRIALS,
    window_s: float | None = None,
    seed: int = 0,
    fingerprint: dict[str, str] | None = None,
    progress: Progress = no_progress,
) -> ExitEnergies:
    """Measure what each kind of inference costs, given a function for each that runs one and returns when it is done.

    Args:
        runs: by exit; exit k runs the stages 0 to k.
        meter: what measures.
        trials: how many rounds.
        window_s: how long a window is; by default five seconds, or 200 updates of the sensor if that is longer.
        seed: draws the order within the rounds, and the exits of the mixed windows.
        fingerprint: of the device, to be stored.
        progress: called with what is being done, how much is done, and how much there is.

    Raises:
        UsageError: fewer than ten trials, or a meter that measures nothing.
        MeasurementError: the sensor failed from the first round on, or again and again, or `window_s` is too short for it.
    """
    if trials < LEAST_TRIALS:
        raise UsageError(f"An interval takes at least {LEAST_TRIALS} trials, not {trials}.")
    if not runs:
        raise UsageError("There is nothing to measure: give a function for each exit.")
    if window_s is not None and not 0 < window_s < math.inf:
        raise UsageError(f"window_s is a time in seconds above 0, not {window_s}.")
    if meter.grade == "modelled":
        raise UsageError("A modelled meter measures nothing: use model_energy.")
    rng = np.random.default_rng(seed)
    rounds: list[list[Window]] = []
    rests: list[tuple[float, float]] = []
    discarded = failed = 0
    is_given = window_s is not None
    while len(rounds) < trials:
        kinds = [None if k == len(runs) else int(k) for k in rng.permutation(len(runs) + 1)]
        try:
            windows, rest, lost, window_s = _measure_round(runs, kinds, meter, window_s, rng, discarded)
        except WindowTooShortError as error:
            if is_given or rounds:
                raise
            window_s, is_given = 1.1 * error.needs_s, True  # at rest the sensor seemed faster than it is
            continue
        except MeasurementError:  # the rounds that are done are worth another try
            failed += 1
            if failed > RETRIES or not rounds:
                raise
            meter.clock.sleep(OUTAGE_S * 2**failed)
            continue
        rounds.append(windows)
        rests.append(rest)
        discarded += lost
        progress("measuring energy", len(rounds), trials)
    exits = tuple(_summarise(k, rounds, rests) for k in range(len(runs)))
    fits = [fit_stages(windows, [rest]) for windows, rest in zip(rounds, rests, strict=True)]
    idle_w, idle_half = _mean([sum(rest) / 2 for rest in rests])
    stages = [_mean([fit[i] for fit in fits]) for i in range(len(runs))]
    everything = [window for windows in rounds for window in windows]
    whole = fit_stages(everything, rests)
    misfits = np.array([predict(whole, window) / window.energy.energy_j - 1 for window in everything])
    mixed = [window for window in everything if window.exit is None]
    return ExitEnergies(
        exits=exits,
        idle_w=idle_w,
        idle_interval_w=(idle_w - idle_half, idle_w + idle_half),
        stage_j=tuple(middle for middle, _ in stages),
        stage_interval_j=tuple((middle - half, middle + half) for middle, half in stages),
        residual=float(np.sqrt(np.mean(misfits**2))),
        mixed_error=sum(predict(whole, w) for w in mixed) / sum(w.energy.energy_j for w in mixed) - 1,
        trials=trials,
        window_s=window_s or 0.0,
        discarded=discarded,
        meter=meter.name,
        scope=meter.scope,
        grade=meter.grade,
        fingerprint=fingerprint or {},
    )


def model_energy(
    latency_s: Sequence[float], power_w: float, *, fingerprint: dict[str, str] | None = None
) -> ExitEnergies:
    """Make up what leaving at each exit costs where no meter is at hand: time by a stated power. Nothing is measured.

    Args:
        latency_s: of leaving at each exit.
        power_w: of the board while it works, as its user states it.
        fingerprint: of the device, to be stored.

    Raises:
        UsageError: the power is not above 0.
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
        fingerprint=fingerprint or {},
    )


def _measure_round(
    runs: Sequence[Run],
    kinds: Sequence[int | None],
    meter: Meter,
    window_s: float | None,
    rng: np.random.Generator,
    before: int,
) -> tuple[list[Window], tuple[float, float], int, float]:
    """Measure one window of each kind between two rests; return them, power at both rests, discarded windows, and the length."""
    recording = Recording(meter, meter.choose_rails(None))
    recording.start()
    try:
        first, period_s = _rest(recording)
        window_s = window_s or max(WINDOW_S, WINDOW_PERIODS * period_s)
        windows, discarded = [], 0
        for kind in kinds:
            left = min(RETRIES, MOST_RETRIES - before - discarded)
            window, lost = _measure_until_calm(runs, kind, recording, window_s, rng, max(0, left))
            windows.append(window)
            discarded += lost
        last, _ = _rest(recording)
    finally:
        recording.stop()
    return windows, (first, last), discarded, window_s


def _rest(recording: Recording) -> tuple[float, float]:
    """Measure the board at rest, for as long as its sensor needs; return the power, and the sensor's period."""
    clock, rails = recording.meter.clock, recording.chosen
    clock.sleep(settle_s(recording))
    start_s = clock.now_s()
    clock.sleep(2.1)
    recording.poll_now()
    period_s = max(recording.integrate_rail(rail, start_s, clock.now_s()).period_s for rail in rails)
    if period_s == period_s:  # not a number where nothing could be read
        clock.sleep(1.1 * LEAST_PERIODS * period_s - 2.1)
    recording.poll_now()
    mean_w, _ = recording.mean_w(start_s, clock.now_s())
    return mean_w, max(recording.integrate_rail(rail, start_s, clock.now_s()).period_s for rail in rails)


def _measure_until_calm(
    runs: Sequence[Run], kind: int | None, recording: Recording, window_s: float, rng: np.random.Generator, retries: int
) -> tuple[Window, int]:
    """Measure a window, again where the board throttled or the sensor failed; return it and how many were discarded.

    Where every repetition throttled, the last one is kept, and says so: a board that always throttles has energies too.
    """
    for attempt in range(retries + 1):
        try:
            window = _measure_window(runs, kind, recording, window_s, rng)
        except WindowTooShortError:
            raise
        except MeasurementError:
            if attempt == retries:
                raise
        else:
            if not window.energy.throttled or attempt == retries:
                return window, attempt
        recording.meter.clock.sleep(PAUSE_S * 2**attempt)
    raise AssertionError


def _measure_window(
    runs: Sequence[Run], kind: int | None, recording: Recording, window_s: float, rng: np.random.Generator
) -> Window:
    clock, lag_s = recording.meter.clock, settle_s(recording)
    drawn = rng.integers(len(runs), size=1024).tolist() if kind is None else [kind]

    def work(seconds: float) -> tuple[float, float, list[int]]:
        counts, done, start_s = [0] * len(runs), 0, clock.now_s()
        while clock.now_s() - start_s < seconds or not done:
            k = drawn[done % len(drawn)]
            runs[k]()
            counts[k] += 1
            done += 1
        return start_s, clock.now_s(), counts

    work(lag_s)
    before = recording.meter.state()
    start_s, end_s, counts = work(window_s)
    after = recording.meter.state()
    work(lag_s)
    recording.poll_now()
    return Window(kind, tuple(counts), recording.energy(start_s, end_s, before=before, after=after))


def _summarise(k: int, rounds: Sequence[Sequence[Window]], rests: Sequence[tuple[float, float]]) -> ExitEnergy:
    gross, net, latency, throttled = [], [], [], 0
    for windows, rest in zip(rounds, rests, strict=True):
        (window,) = (window for window in windows if window.exit == k)
        energy, n = window.energy, sum(window.counts)
        gross.append(energy.energy_j / n)
        net.append((energy.energy_j - sum(rest) / 2 * energy.duration_s) / n)
        latency.append(energy.duration_s / n)
        throttled += bool(energy.throttled)
    (energy_j, half), (net_j, net_half) = _mean(gross), _mean(net)
    return ExitEnergy(
        exit=k,
        energy_j=energy_j,
        interval_j=(energy_j - half, energy_j + half),
        net_j=net_j,
        net_interval_j=(net_j - net_half, net_j + net_half),
        latency_s=float(np.mean(latency)),
        throttled=throttled,
    )


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of independent trials, and half its Student 95 % interval."""
    n = len(values)
    return float(np.mean(values)), student95(n - 1) * float(np.std(values, ddof=1)) / n**0.5
