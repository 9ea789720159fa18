"""The energy of a `with` block.

    without idle   [ block ]
    with idle      [ settle | idle_s ] [ block ] [ settle | idle_s ]

`settle` is the time that the sensor may lag behind. The energy that it shows there after the block belongs to the block.
"""

import math
from collections.abc import Sequence
from types import TracebackType

from ..errors import MeasurementError, OfframpError, UsageError
from .recording import Energy, RailSource, Recording
from .state import State


class Window:
    """Measures one `with` block; `Meter.window` makes it. The result is in `energy` when the block has ended."""

    def __init__(self, meter: RailSource, *, idle_s: float, rails: Sequence[str]) -> None:
        if not 0 <= idle_s < math.inf:
            raise UsageError(f"idle_s is a time in seconds, 0 or more, not {idle_s}.")
        self._meter, self._idle_s = meter, idle_s
        self._recording = Recording(meter, rails)
        self._settle_s = settle_s(self._recording)
        self._begun = False
        self._energy: Energy | OfframpError = UsageError("The energy is known when the block has ended.")

    @property
    def energy(self) -> Energy:
        """The energy of the block.

        Raises:
            MeasurementError: the window was too short for its sensor (the message has the length it needs), or too many reads
                failed.
            UsageError: the block has not ended.
        """
        if isinstance(self._energy, OfframpError):
            raise self._energy
        return self._energy

    def __enter__(self) -> "Window":
        """Start reading; with `idle_s`, measure the board at rest first."""
        if self._begun:
            raise UsageError("A window measures one block: make another with meter.window().")
        self._begun = True
        clock = self._meter.clock
        self._recording.start()
        try:
            if self._idle_s:
                clock.sleep(self._settle_s + self._idle_s)
                self._recording.poll_now()
            self._before = self._meter.state()
            self._recording.poll_now()
        except BaseException:
            self._recording.stop()
            raise
        self._start_s = clock.now_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading; with `idle_s`, measure the board at rest again. An error of the block passes through."""
        clock, recording = self._meter.clock, self._recording
        end_s = clock.now_s()
        try:
            recording.poll_now()
            after = self._meter.state()
            if error is not None:
                self._energy = MeasurementError(
                    f"The block that was measured ended with {type(error).__name__}: {error}"
                )
                return
            self._energy = self._measure(end_s, after)
        except OfframpError as problem:
            self._energy = problem
        finally:
            recording.stop()

    def _measure(self, end_s: float, after: State) -> Energy:
        """Return the energy of the block, after the board was measured at rest if that was asked for."""
        clock, recording, start_s = self._meter.clock, self._recording, self._start_s
        if not self._idle_s:
            return recording.energy(start_s, end_s, before=self._before, after=after)
        clock.sleep(self._settle_s + self._idle_s)
        recording.poll_now()
        try:
            first = recording.mean_w(start_s - self._idle_s, start_s)
            last = recording.mean_w(clock.now_s() - self._idle_s, clock.now_s())
        except MeasurementError as error:
            gross = recording.energy(start_s, end_s, before=self._before, after=after)
            raise MeasurementError(
                f"The rest beside the block was not measured (idle_s): {error} The block: {gross}"
            ) from error
        return recording.energy(
            start_s, end_s, before=self._before, after=after, idle=(first, last), tail_s=self._settle_s
        )


def settle_s(recording: Recording) -> float:
    """Return for how long after a change of load a meter's readings may still show the load before."""
    meter = recording.meter
    return max(2 * max(meter.poll_s, rail.period_s or 0.1) + rail.lag_s for rail in recording.chosen)
