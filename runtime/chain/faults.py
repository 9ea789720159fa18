"""Runs of stages that are watched for faults, and what a network and its clones know of them.

CheckedRun() --> the engine's run --> its scores, labels and boundaries are looked at --> StageFault if no exit gives them
                 in a thread, if there is a limit: it is waited for so long, then left alone with its memory
"""

import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from ...errors import EngineWarning, MissingError, UsageError, quoted
from ..engines import Compiled, Run
from ..notices import warn_caller
from .checks import Where
from .forks import FOLLOWERS, members
from .memory import Link
from .results import Result

if TYPE_CHECKING:
    from .net import Net

__all__ = ["FaultCounts", "Guard", "StageFault", "StageThread"]

Kind = Literal["error", "answer", "hang"]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""The first devices are tried again after so long, which doubles with each try that fails up to the second."""

MOST_WORDS = 400
"""What failed is said in so many characters."""


class FaultCounts(Struct, frozen=True, kw_only=True):
    """What has failed since a network was loaded, or since the last reset; of a network and its clones together.

    Attributes:
        errors: how often an engine failed.
        answers: how often a stage gave what no exit can: NaN, a score that is not from 0 to 1, a label beyond the classes.
        hangs: how often a stage did not end within its limit, or was needed while it still hung.
        marked: how many answers carry a mark, `Result.fault`.
        returns: how often what had failed ran again.
        away: what failed and has not run since; empty if nothing has.

    Example:
        >>> from offramp.runtime import load_uncalibrated
        >>> load_uncalibrated("digits.offramp", on_fault="last_exit").stats().faults.marked
        0
    """

    errors: int
    answers: int
    hangs: int
    marked: int
    returns: int
    away: str


class StageFault(Exception):
    """A fault of a stage, on its way to the network that knows what to do.

    Attributes:
        kind: what the stage did.
        error: what a call raises if nothing else can answer.
        words: what failed, in short.
        link: the stage; None if it is not known which.
        exit: the index of the exit at which the stage ends.
        answer: that of the last exit before the fault; None if there is none.
    """

    def __init__(self, kind: Kind, error: Exception, where: Where, what: str, link: Link | None = None) -> None:
        super().__init__(str(error))
        device, stage = where
        self.kind, self.error, self.link = kind, error, link
        self.words = quoted(f"{stage}{f' on {device}' if device else ''} {what}", MOST_WORDS)
        self.exit = 0
        self.answer: Result | None = None


class StageThread(Thread):
    """A thread that runs what it is given, one after the other."""

    def __init__(self) -> None:
        super().__init__(name="offramp-stage", daemon=True)
        self._given: SimpleQueue[Run | None] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(self) -> None:
        """Run until the end."""
        while (run := self._given.get()) is not None:
            error = None
            try:
                run()
            except BaseException as raised:
                error = raised
            del run  # its memory goes, if it was left alone with it
            self._done.put(error)
            del error

    def give(self, run: Run) -> None:
        """Begin a run."""
        self._given.put(run)

    def wait(self, limit_s: float) -> BaseException | None:
        """Wait for the end of a run; return what it raised.

        Raises:
            Empty: it did not end in time.
        """
        return self._done.get(timeout=limit_s)

    def end(self) -> None:
        """End the thread with the run that it is at."""
        self._given.put(None)


class Guard:
    """What a network and its clones share of faults.

    Args:
        on_fault: what happens: as for `load`.
        limit_s: how long a run of a stage may take; None has no limit, and needs no threads.
        open_stand_in: opens the network that answers on the fallback device.

    Attributes:
        on_fault: as it was given, once the network is loaded; "raise" until then.
        now: the clock, in seconds.
        wait: waits for a thread; raises `Empty` if it does not end in time.
        away: what failed and has not run since, in words, and the index of the exit behind it; None if nothing has.
    """

    def __init__(
        self, on_fault: str, limit_s: float | None = None, open_stand_in: "Callable[[], Net] | None" = None
    ) -> None:
        self.on_fault, self._on_fault = "raise", on_fault
        self.limit_s, self._open_stand_in = limit_s, open_stand_in
        self.now: Callable[[], float] = monotonic
        self.wait: Callable[[StageThread, float], BaseException | None] = StageThread.wait
        self.away: tuple[str, int] | None = None
        self._lock = RLock()
        self._until_s, self._pause_s = 0.0, FIRST_PAUSE_S
        self._has_warned = False
        self._hanging: list[tuple[Compiled | None, StageThread]] = []
        self._idle: list[StageThread] = []
        self._threads: weakref.WeakSet[StageThread] = weakref.WeakSet()
        weakref.finalize(self, _end_all, self._threads).atexit = False
        self._stand_ins: weakref.WeakSet[Net] = weakref.WeakSet()
        self.reset()
        FOLLOWERS.add(self)

    def follow_fork(self) -> None:
        """Start with a new lock in a child: a thread that is not there may hold the parent's."""
        self._lock = RLock()

    def begin(self) -> None:
        """Begin to answer in spite of faults. The network on the fallback device is opened once, to see that it can be."""
        if self._open_stand_in is not None:
            self._open_stand_in().close()
        self.on_fault = self._on_fault

    def reset(self) -> None:
        """Set every count to 0."""
        self._counts = {"error": 0, "answer": 0, "hang": 0, "marked": 0, "returns": 0}

    def counts(self) -> FaultCounts:
        """Return what has failed."""
        counts, away = self._counts, self.away
        return FaultCounts(
            errors=counts["error"],
            answers=counts["answer"],
            hangs=counts["hang"],
            marked=counts["marked"],
            returns=counts["returns"],
            away=away[0] if away else "",
        )

    def count(self, what: str) -> None:
        """Count a fault, a mark or a return."""
        with self._lock:
            self._counts[what] += 1

    def standing_in(self) -> str:
        """Return what failed while the first devices are given a pause, and the fallback device answers; else an empty text."""
        away = self.away
        return away[0] if away is not None and self.now() < self._until_s else ""

    def note(self, fault: StageFault) -> None:
        """Note a fault, and warn of the first."""
        with self._lock:
            self._counts[fault.kind] += 1
            self.away = fault.words, fault.exit
            warns, self._has_warned = not self._has_warned and self.on_fault != "raise", True
        if warns:
            end = "" if fault.words.endswith((".", "?")) else "."
            warn_caller(
                f"{fault.words}{end} Answers are marked from here on (Result.fault) where something failed, and counted in "
                f"stats().faults; further faults raise no warning. on_fault is {self.on_fault!r}.",
                EngineWarning,
            )

    def pause(self) -> None:
        """Leave the first devices alone for a while, since the fallback device has run what they could not."""
        with self._lock:
            if self.now() < self._until_s:
                return  # as another thread has done meanwhile
            self._until_s = self.now() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def note_run(self, exit_: int) -> None:
        """Note that all stages up to an exit, by its index, have run."""
        with self._lock:
            if self.away is not None and exit_ >= self.away[1]:
                self.away, self._pause_s = None, FIRST_PAUSE_S
                self._counts["returns"] += 1

    def open_stand_in(self) -> "Net":
        """Return a network on the fallback device, with memory of its own."""
        assert self._open_stand_in is not None
        made = None
        for other in members(self._stand_ins):
            with suppress(UsageError):  # it is closed, or its engine shares nothing
                made = other.clone()
                break
        made = made or self._open_stand_in()
        self._stand_ins.add(made)
        return made

    def hangs(self, compiled: Compiled | None) -> bool:
        """Tell whether a run of a stage, or of any for None, was left alone and has not ended."""
        for pair in [pair for pair in self._hanging if not pair[1].is_alive()]:
            with suppress(ValueError):  # another thread removed it
                self._hanging.remove(pair)
        return any(compiled is None or stage is None or stage is compiled for stage, _ in self._hanging)

    def run(self, run: Run, compiled: Compiled | None, where: Where, left: list[StageThread]) -> None:
        """Run a stage within the limit.

        Args:
            run: what runs it.
            compiled: the stage; None for all of them.
            where: as the fault says.
            left: takes a thread that is left alone with the memory that it runs in.

        Raises:
            StageFault: it did not end in time, or one before has not ended yet.
        """
        assert self.limit_s is not None
        if self._hanging and self.hangs(compiled):
            raise _make_hang(where, self.limit_s, again=True)
        thread = self._take_thread()
        has_ended = False
        try:
            thread.give(run)
            error = self.wait(thread, self.limit_s)
            has_ended = True
        except Empty:
            if stop := getattr(run, "stop", None):
                stop(True)
            raise _make_hang(where, self.limit_s) from None
        except BaseException:  # an interruption: the run must not go on in memory that the next call uses
            thread.end()
            thread.join(self.limit_s)
            raise
        finally:
            if has_ended:
                self._idle.append(thread)
            else:
                thread.end()
                left.append(thread)  # though it may have ended: its run may stay stopped
                if thread.is_alive():
                    self._hanging.append((compiled, thread))
        if error is not None:
            try:
                raise error
            finally:
                del error  # else it keeps itself

    def _take_thread(self) -> StageThread:
        while self._idle:
            with suppress(IndexError):  # another thread took it
                if (thread := self._idle.pop()).is_alive():  # in a forked child it is not
                    return thread
        thread = StageThread()
        self._threads.add(thread)
        thread.start()
        return thread


def _make_hang(where: Where, limit_s: float, *, again: bool = False) -> StageFault:
    """Return the fault of a stage that hangs, or of one that is needed again while it does."""
    device, stage = where
    name = f"{stage} on {device}" if device else stage
    words = f"{name} did not end within {limit_s:g} s (stage_limit_s). It is tried again when its run has ended."
    if again:
        words = f"{name} still hangs: it is tried again when its run has ended, which took more than {limit_s:g} s."
    what = "still hangs" if again else f"did not end within {limit_s:g} s"
    return StageFault("hang", MissingError(words, device=device, stage=stage), where, what)


def _end_all(threads: Iterable[StageThread]) -> None:
    """End the threads of a network that goes."""
    for thread in list(threads):
        thread.end()
