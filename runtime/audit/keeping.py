"""The thread beside a network that compares picked inputs with the last exit, counts them, and raises the alarm."""

import atexit
import contextlib
import math
import os
import queue
import warnings
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from threading import RLock, Thread, current_thread
from time import monotonic
from typing import Any
from weakref import WeakSet

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...errors import AuditWarning, OfframpError, printable
from ..notices import warn_caller
from .collecting import Collector
from .figures import FieldAudit, describe_alarm, find_alarms, summarise
from .states import AuditState, open_place, write_state

__all__ = ["Alarm", "Keeper", "Picked"]

MOST_WAITING = 8
"""So many picked inputs wait at most."""

WRITE_EVERY_S = 60.0
"""Counts are written so often at most: a kill loses what came since. When that is does not depend on what is counted."""

LOOK_EVERY = 8
"""Alarms are looked for after a disagreement and after so many picked inputs: agreements alone raise none of disagreement."""

WAITS_S = 1.0
"""At the end of the program or of the network the thread is waited for at most so long, and before a fork."""

MOST_PROBLEMS = 4
"""The last problems that are told of."""

LOST = "What is counted is lost with this process"

LIVING: "WeakSet[Keeper]" = WeakSet()


class Alarm(Struct, frozen=True):
    """What `on_alarm` is called with.

    Attributes:
        name: `disagreement`, by audited inputs, `shares`, by where inputs leave, or `scores`, by how sure the first exit is.
        words: what it means.
        audit: all that the field shows.

    Example:
        >>> from offramp.runtime import Alarm, load
        >>> def tell(alarm: Alarm) -> None:
        ...     print(alarm.name, alarm.words)
        >>> net = load("digits.offramp", audit=0.01, on_alarm=tell)
    """

    name: str
    words: str
    audit: FieldAudit


class Picked(Struct, frozen=True):
    """An input that was picked, after it was answered.

    Attributes:
        exit: the number of the exit where it left; None of a call with a deadline, which is judged as if it had none.
        label: the label that was given, if the exit is known.
        sample: the input, one array with a batch axis of 1 for each of the network's; None if nobody needs it.
        disagreement: what it is, 0 to 1, if it is known already; None if the input is to run on.
        score: of the first exit that is taken; None if it is not known.
    """

    exit: int | None
    label: int
    sample: tuple[np.ndarray, ...] | None
    disagreement: float | None
    score: float | None = None


class Keeper:
    """Counts for a network and its clones in a thread of its own, which starts with the first picked input.

    Nothing that fails here stops the network: `notice` says what failed.

    Args:
        new: the state to begin with where none is kept.
        folder: where the state is kept; None if nowhere.
        compare: runs an input to the last exit and returns it with the disagreement; None if a stage failed, which ends no audit.
        collector: makes what keeps inputs; None if none are kept.
        on_alarm: is called for each alarm, once in each process.
    """

    def __init__(
        self,
        new: AuditState,
        *,
        folder: Path | None,
        compare: Callable[[Picked], Picked | None] | None,
        collector: Callable[[], Collector] | None,
        on_alarm: Callable[[Alarm], Any] | None,
    ) -> None:
        self._new, self._folder, self._on_alarm = new, folder, on_alarm
        self._compare: Callable[[Picked], Picked | None] | None = compare
        self._make_collector = collector
        self.is_ended = False
        self._problems: list[str] = []
        self._begin()
        if self.note(self._open()):
            warn_caller(self.notice, AuditWarning)
        LIVING.add(self)

    def _begin(self) -> None:
        """Start with nothing. A forked process does it too: it counts for itself."""
        self.queue: queue.SimpleQueue[Picked | None] = queue.SimpleQueue()
        self.busy = RLock()
        self.missed, self._collects, self._is_open = 0, self._make_collector is not None, False
        self._thread: Thread | None = None
        self._starts, self._ends_s = [True], math.inf
        self._told: set[str] = set()
        self._collector: Collector | None = None
        self._path: Path | None = None
        self._lock: int | None = None
        self.state = replace(self._new, device=os.urandom(16).hex())
        self._written, self._written_s = self.state, monotonic()

    def _open(self) -> str:
        """Go on with what is kept of earlier processes; return what is wrong with it, in words."""
        self._is_open, wrong = True, ""
        if self._folder is not None:
            try:
                self._path, self.state, self._lock, wrong = open_place(self._folder, self.state)
                self._written = self.state
            except (OfframpError, OSError) as error:
                wrong = f"{LOST}: {error}"
        return printable(wrong)

    @property
    def notice(self) -> str:
        """All that is wrong, in words; empty if nothing is."""
        return " ".join(self._problems)

    def note(self, words: str) -> bool:
        """Remember what is wrong. Return whether it is news."""
        if not words or words in self._problems:
            return False
        self._problems = [*self._problems, words][-MOST_PROBLEMS:]
        return True

    def _say(self, words: str) -> None:
        """Warn of what is wrong, once. A program that turns warnings into errors is not to fail in the midst of a call."""
        words = printable(words)
        if self.note(words):
            with contextlib.suppress(AuditWarning):
                warnings.warn(words, AuditWarning, stacklevel=2)

    @property
    def has_room(self) -> bool:
        """True if another picked input may wait."""
        return self.queue.qsize() < MOST_WAITING

    @property
    def collects(self) -> bool:
        """True if inputs are kept."""
        return self._collects

    @property
    def runs_on(self) -> bool:
        """True if picked inputs are compared with the last exit, False if exits alone are counted."""
        return self._new.promised is not None

    def put(self, picked: Picked) -> None:
        """Take a picked input; may be called from anywhere, a signal handler too."""
        self.queue.put(picked)
        with contextlib.suppress(IndexError):
            self._starts.pop()  # by whoever is first
            thread = Thread(target=self._run, name="offramp-audit", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        """Count one picked input after the other until the network ends."""
        if not self._is_open:  # in a forked process
            self._say(self._open())
        while (picked := self.queue.get()) is not None and monotonic() < self._ends_s:
            try:
                with self.busy:
                    self._count(picked)
                self._raise_alarms()
            except Exception as error:
                self.stop(error)
        with self.busy:
            self._write()
            self._let_go()

    def _count(self, picked: Picked) -> None:
        state = self.state
        if picked.disagreement is None and self._compare is not None:
            picked = self._compare(picked) or picked
        disagreement = picked.disagreement
        if picked.exit is None:  # nobody knows where it would have left
            self.missed += 1
            return
        exits, scores = list(state.exits), list(state.scores)
        exits[min(picked.exit, len(exits) - 1)] += 1
        if scores and picked.score is not None:
            scores[bisect_right(state.edges, picked.score)] += 1
        known = disagreement is not None
        state = replace(
            state,
            exits=tuple(exits),
            scores=tuple(scores),
            audited=state.audited + known,
            disagreeing=state.disagreeing + (disagreement or 0.0),
        )
        is_due = disagreement or sum(exits) % LOOK_EVERY == 0
        found = [name for name in find_alarms(state) if name not in state.alarms] if is_due else []
        self.state = replace(state, alarms=(*state.alarms, *found)) if found else state
        if self._collects and picked.sample is not None:
            self._collect(picked.sample, disagrees=bool(disagreement))
        if found or monotonic() - self._written_s >= WRITE_EVERY_S:
            self._write()

    def _collect(self, sample: tuple[np.ndarray, ...], *, disagrees: bool) -> None:
        assert self._make_collector is not None
        try:
            if self._collector is None:
                self._collector = self._make_collector()
            self._collector.keep(sample, disagrees=disagrees)
        except (OfframpError, OSError, ValueError, EOFError) as error:
            self._collects = False
            self._say(f"No more inputs are collected: {error}")

    def _raise_alarms(self) -> None:
        """Call the function of the user's, outside the lock, so that it may do whatever it likes."""
        for name in self.state.alarms:
            if name in self._told:
                continue
            self._told.add(name)
            audit = self.audit()
            if self._on_alarm is not None:
                try:
                    self._on_alarm(Alarm(name, describe_alarm(name, audit), audit))
                except (Exception, SystemExit) as error:  # the latter would end this thread without a word
                    self._say(f"on_alarm failed: {type(error).__name__}: {error}")

    def audit(self) -> FieldAudit:
        """Return what the field shows."""
        return summarise([self.state], missed=self.missed, notice=self.notice)

    def _write(self) -> None:
        self._written_s = monotonic()
        if self._path is None or self.state is self._written:
            return
        state = replace(self.state, sequence=self.state.sequence + 1)
        try:
            write_state(self._path, state)
            self.state = self._written = state
            self._problems = [words for words in self._problems if not words.startswith(LOST)]  # there is room again
        except (OfframpError, OSError) as error:
            self._say(f"{LOST}: {error}")

    def stop(self, error: BaseException | None = None) -> None:
        """End the thread, which still has a moment for what waits. An error says why nothing is audited any more."""
        if error is not None:
            self._say(f"Nothing is audited any more: {type(error).__name__}: {error}")
        self.is_ended, self._ends_s = True, monotonic() + (WAITS_S / 2 if error is None else 0.0)
        self.queue.put(None)
        if self._thread is None:
            self._let_go()

    def wait(self) -> None:
        """Wait a moment until the thread has written what it counted."""
        thread = self._thread
        if thread is not None and thread is not current_thread():
            thread.join(WAITS_S)

    def _let_go(self) -> None:
        """Close what is open."""
        if self._collector is not None:
            self._collector.close()
        self._collector = self._compare = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def follow_fork(self) -> None:
        """Go on in a child, which has not this thread and must not count what its parent counts."""
        compare = self._compare
        self._let_go()
        self._begin()
        self._compare = compare


def _end_all() -> None:
    """Write what was counted before the program ends."""
    for keeper in list(LIVING):
        keeper.stop()
    for keeper in list(LIVING):
        keeper.wait()


atexit.register(_end_all)

HELD: list[Keeper] = []
"""Keepers whose threads wait while the process forks."""


def _hold_all() -> None:
    """Let threads end what they are at, so that a child has no half-run stage."""
    HELD[:] = [keeper for keeper in list(LIVING) if keeper.busy.acquire(timeout=WAITS_S)]


def _release_all() -> None:
    while HELD:
        HELD.pop().busy.release()


def _follow_fork() -> None:
    HELD.clear()
    for keeper in list(LIVING):
        keeper.follow_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_hold_all, after_in_parent=_release_all, after_in_child=_follow_fork)
