"""Rounds of windows in which every sample leaves at one exit, between two rests of the board.

    round 0:  idle | exit 2 ######## | mixed ######## | exit 0 ######## | exit 1 ######## | idle
    round 1:  idle | exit 0 ######## | exit 1 ######## | mixed ######## | exit 2 ######## | idle      order drawn anew
    ...                  ^ ^      ^ ^
                         | window | the load goes on before and behind a window, for as long as the sensor lags behind

A window during which the board throttled is discarded and repeated after a pause. A round whose sensor failed is repeated too. In
the mixed windows the exits are drawn at random.
"""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct

from ...devices.integration import LEAST_PERIODS
from ...devices.meter import Meter
from ...devices.recording import Energy, Recording, WindowTooShortError
from ...devices.window import settle_s
from ...errors import MeasurementError
from ...progress import Progress
from ..pace import Pace

__all__ = ["ExitWindow", "Round", "Run", "measure_rounds"]

WINDOW_S, WINDOW_PERIODS = 5.0, 200
"""The default length of a window: 5 seconds or 200 updates of the sensor, whichever is longer."""

WINDOW_CALLS = 50
"""A window holds at least so many inferences at a pace."""

RETRIES = 3
"""How often a throttled window, or a round whose sensor failed, is repeated."""

MOST_RETRIES = 10
"""Windows that are repeated in all: nobody waits for a board that always throttles."""

PAUSE_S = 2.0
"""Pause before the first repetition of a window; each further pause is twice as long."""

OUTAGE_S = 5.0
"""A round whose sensor failed is repeated after a pause of 2, 4 and 8 times this."""

LEAST_REST_S = 2.1
"""Rest before the sensor's period is known."""

Run = Callable[[], object]
"""Runs one inference and returns when it is done."""


class ExitWindow(Struct, frozen=True):
    """One window.

    Attributes:
        exit: the exit that all its samples took; None in a mixed window.
        counts: how many samples took each exit.
        energy: its joules.
        busy_s: the time of its inferences, without the pauses of a pace.
    """

    exit: int | None
    counts: tuple[int, ...]
    energy: Energy
    busy_s: float


class Round(Struct, frozen=True):
    """One window for each exit and a mixed one, between two rests.

    Attributes:
        windows: in the order in which they were measured.
        rest_w: power at the first and at the last rest.
        discarded: windows that were measured again.
        window_s: the length of a window.
    """

    windows: tuple[ExitWindow, ...]
    rest_w: tuple[float, float]
    discarded: int
    window_s: float

    @property
    def mean_rest_w(self) -> float:
        """Mean power at rest."""
        return sum(self.rest_w) / 2


def measure_rounds(
    runs: Sequence[Run],
    meter: Meter,
    *,
    trials: int,
    window_s: float | None,
    pace: Pace,
    seed: int,
    progress: Progress,
) -> list[Round]:
    """Measure rounds, each in an order drawn anew, at a pace; the other arguments are those of `measure_runs`.

    Raises:
        MeasurementError: the sensor failed in the first round, or again and again, or `window_s` is too short for it.
    """
    rng = np.random.default_rng(seed)
    rounds: list[Round] = []
    failed = 0
    is_given = window_s is not None
    while len(rounds) < trials:
        kinds = [None if k == len(runs) else int(k) for k in rng.permutation(len(runs) + 1)]
        discarded = sum(each.discarded for each in rounds)
        try:
            rounds.append(_measure_round(runs, kinds, meter, window_s, pace, rng, max(0, MOST_RETRIES - discarded)))
        except WindowTooShortError as error:
            if is_given or rounds:
                raise
            window_s, is_given = 1.1 * error.needs_s, True  # at rest the sensor seemed faster than it is
        except MeasurementError:  # the rounds that are done are worth another try
            failed += 1
            if failed > RETRIES or not rounds:
                raise
            meter.clock.sleep(OUTAGE_S * 2**failed)
        else:
            window_s = rounds[-1].window_s
            progress("measuring energy", len(rounds), trials)
    return rounds


def _measure_round(
    runs: Sequence[Run],
    kinds: Sequence[int | None],
    meter: Meter,
    window_s: float | None,
    pace: Pace,
    rng: np.random.Generator,
    retries: int,
) -> Round:
    """Measure one window of each kind between two rests; at most `retries` windows are repeated."""
    recording = Recording(meter, meter.choose_rails(None))
    recording.start()
    try:
        first_w, period_s = _rest(recording)
        window_s = window_s or max(WINDOW_S, WINDOW_PERIODS * period_s, WINDOW_CALLS * (pace.every_s or 0.0))
        windows, discarded = [], 0
        for kind in kinds:
            left = max(0, min(RETRIES, retries - discarded))
            window, repeated = _measure_until_calm(runs, kind, recording, window_s, pace, rng, left)
            windows.append(window)
            discarded += repeated
        last_w, _ = _rest(recording)
    finally:
        recording.stop()
    return Round(tuple(windows), (first_w, last_w), discarded, window_s)


def _rest(recording: Recording) -> tuple[float, float]:
    """Measure the board at rest, for as long as its sensor needs; return the power, and the sensor's period."""
    clock, rails = recording.meter.clock, recording.chosen
    clock.sleep(settle_s(recording))
    start_s = clock.now_s()
    clock.sleep(LEAST_REST_S)
    recording.poll_now()
    period_s = max(recording.integrate_rail(rail, start_s, clock.now_s()).period_s for rail in rails)
    if period_s == period_s:  # it is NaN if nothing could be read
        clock.sleep(1.1 * LEAST_PERIODS * period_s - LEAST_REST_S)
    recording.poll_now()
    mean_w, _ = recording.mean_w(start_s, clock.now_s())
    return mean_w, max(recording.integrate_rail(rail, start_s, clock.now_s()).period_s for rail in rails)


def _measure_until_calm(
    runs: Sequence[Run],
    kind: int | None,
    recording: Recording,
    window_s: float,
    pace: Pace,
    rng: np.random.Generator,
    retries: int,
) -> tuple[ExitWindow, int]:
    """Measure a window, again if the board throttled or the sensor failed; return it and how many were discarded.

    If every repetition throttled, the last one stays and says so: a board that always throttles has energies too.
    """
    for attempt in range(retries + 1):
        try:
            window = _measure_window(runs, kind, recording, window_s, pace, rng)
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
    runs: Sequence[Run],
    kind: int | None,
    recording: Recording,
    window_s: float,
    pace: Pace,
    rng: np.random.Generator,
) -> ExitWindow:
    clock, lag_s = recording.meter.clock, settle_s(recording)
    drawn = rng.integers(len(runs), size=1024).tolist() if kind is None else [kind]

    def work(seconds: float) -> tuple[float, float, list[int], float]:
        counts, done, paused_s, start_s = [0] * len(runs), 0, 0.0, clock.now_s()
        while clock.now_s() - start_s < seconds or not done:
            k = drawn[done % len(drawn)]
            runs[k]()
            counts[k] += 1
            done += 1
            if pace.every_s is not None:
                before_s = clock.now_s()
                pace.wait()
                paused_s += clock.now_s() - before_s
        end_s = clock.now_s()
        return start_s, end_s, counts, end_s - start_s - paused_s

    work(lag_s)
    before = recording.meter.state()
    start_s, end_s, counts, busy_s = work(window_s)
    after = recording.meter.state()
    work(lag_s)
    recording.poll_now()
    return ExitWindow(kind, tuple(counts), recording.energy(start_s, end_s, before=before, after=after), busy_s)
