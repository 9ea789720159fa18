"""Stages that are loaded at their first use, and let go again after a time without use.

One stands in the chain where a compiled stage stands. What is tied to memory waits for the first run:

    LazyStage.bind() ---> LazyRun() ---> LazyRun: the stage is here?   yes -> run
                                                                       no  -> open it again, tie it to the same memory, run
"""

import contextlib
import ctypes
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from math import inf
from threading import Event, RLock, Thread
from time import monotonic
from typing import Any
from weakref import WeakSet

import numpy as np
from msgspec import Struct

from ..engines import Compiled, Run

__all__ = ["DeferredStage", "LazyRun", "LazyStage", "Loads", "count_loads", "return_memory"]


class Loads(Struct, frozen=True, kw_only=True):
    """What stages that are loaded when they are used have done since the network was loaded, or since the last reset.

    Clones that share a stage count together, and what an audit runs on counts, too. A call that waited for a load has the wait in
    its latency.

    Attributes:
        here: how many files of stages are in memory.
        loads: how often one was loaded.
        releases: how often one was let go.
        failures: how often one could not be loaded.
        total_s, longest_s: the time that calls waited for loads, and the longest wait.

    Example:
        >>> from offramp.runtime import load_uncalibrated
        >>> load_uncalibrated("digits.offramp", lazy=True).stats().lazy.loads
        0
    """

    here: int
    loads: int
    releases: int
    failures: int
    total_s: float
    longest_s: float


class LazyStage:
    """A compiled stage that can be let go and opened again. Clones whose engine lets them share it.

    Args:
        compiled: the stage, which is here until it is let go.
        open_again: compiles it anew, or reads its build.
        load_s: how long the stage took to load.
        release_after_s: a time without use after which a stage that was opened again is let go; None keeps it.
        now: the clock, in seconds.

    Attributes:
        runs_on, memory, allocate, batches, clones, half: those of the compiled stage.
        loads, releases, failures, total_s, longest_s: as in `Loads`.
    """

    def __init__(
        self,
        compiled: Compiled,
        open_again: Callable[[], Compiled],
        *,
        load_s: float,
        release_after_s: float | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self.runs_on, self.half, self.batches = compiled.runs_on, compiled.half, compiled.batches
        self.memory, self.allocate, self.clones = compiled.memory, compiled.allocate, compiled.clones
        self.used_s = now()
        self._is_shared = False
        self._compiled: Compiled | None = compiled
        self._open_again, self._load_s, self._release_after_s, self._now = open_again, load_s, release_after_s, now
        self._runs: WeakSet[LazyRun] = WeakSet()
        self._end: weakref.finalize[[], LazyStage] | None = None
        self.take_locks()
        self.reset()
        LIVING.add(self)

    def take_locks(self) -> None:
        """Start with new locks. In a forked child other threads, which are not there, may hold those of the parent."""
        self._lock: Any = RLock()  # a signal handler may load what the call that it interrupts is loading
        self._gone = Event()
        if self._end is not None:
            self._end.detach()
        self._end = weakref.finalize(self, self._gone.set)
        self._end.atexit = False

    def reset(self) -> None:
        """Set every count to 0."""
        self.loads = self.releases = self.failures = 0
        self.total_s = self.longest_s = 0.0

    @property
    def is_here(self) -> bool:
        """Whether the stage is in memory."""
        return self._compiled is not None

    @property
    def wait_s(self) -> float:
        """How long a run would wait for the stage to load: as long as it took at most. 0 if it is here."""
        return 0.0 if self._compiled is not None else self._load_s

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Return what ties the stage to memory at its first run."""
        run = LazyRun(self, inputs, outputs)
        with self._lock:
            self._runs.add(run)
        return run

    def infer(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the stage once into new arrays."""
        return self.load().infer(inputs, outputs)

    def clone(self) -> "LazyStage | None":
        """Return the stage for a chain in another thread, as its engine does; it is opened once to learn that."""
        if self._is_shared:
            return self
        compiled = self._compiled or self._open_again()
        other = compiled.clone()
        self._is_shared = other is compiled
        if other is None or self._is_shared:
            return None if other is None else self
        again = LazyStage(
            other, self._open_again, load_s=self._load_s, release_after_s=self._release_after_s, now=self._now
        )
        again.let_go()
        return again

    def load(self) -> Compiled:
        """Return the compiled stage, which is opened if it is not here.

        Raises:
            BundleError: a file is not what it was when the network was loaded.
            MissingError: memory is too small, or a file is gone.
        """
        with self._lock:
            self.used_s = start = self._now()
            if self._compiled is not None:
                return self._compiled
            try:
                compiled = self._open_again()
            except BaseException:
                self.failures += 1
                raise
            return_memory()
            self.used_s = self._now()
            spent_s = self.used_s - start
            self.loads += 1
            self.total_s += spent_s
            self.longest_s, self._load_s = max(self.longest_s, spent_s), max(self._load_s, spent_s)
            self._compiled = compiled
            if self._release_after_s is not None:
                args = weakref.ref(self), self._gone, self._release_after_s
                with contextlib.suppress(RuntimeError):  # no thread is left, or the program ends: then the stage stays
                    Thread(target=_watch, args=args, name="offramp-release", daemon=True).start()
            return compiled

    def let_go(self) -> None:
        """Let go of the stage. Whatever runs it at this moment ends its run first."""
        with self._lock:
            if self._compiled is None:
                return
            self._compiled = None
            for run in list(self._runs):
                run.run = None
        return_memory()

    def let_go_if_idle(self) -> float:
        """Let go of the stage if it was not used for long; return for how many seconds more it stays, 0 if it is not here."""
        with self._lock:
            if self._compiled is None or self._release_after_s is None:
                return 0.0
            left_s = self.used_s + self._release_after_s - self._now()
            if left_s <= 0:
                self.let_go()
                self.releases += 1
            return min(max(0.0, left_s), self._release_after_s)


class DeferredStage(LazyStage):
    """A stage that the operating point in use does not run. It is opened when it is first needed, and stays.

    Args:
        like: a compiled stage of the same engine.
        open_again: compiles the stage.
    """

    def __init__(self, like: Compiled, open_again: Callable[[], Compiled]) -> None:
        super().__init__(like, open_again, load_s=0.0)
        self._compiled = None

    def load(self) -> Compiled:
        """Return the compiled stage, as a lazy one does. What it is made of is needed only once."""
        compiled = super().load()
        self._open_again = lambda: compiled
        return compiled

    def clone(self) -> Compiled | None:  # type: ignore[override]
        """Return the stage for a chain in another thread."""
        return self.load().clone()


class LazyRun:
    """Runs a lazy stage from memory into memory.

    Attributes:
        run: what runs the stage; None while the stage is not here.
    """

    __slots__ = ("__weakref__", "_inputs", "_outputs", "_stage", "run")

    def __init__(self, stage: LazyStage, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self._stage, self._inputs, self._outputs = stage, inputs, outputs
        self.run: Run | None = None

    @property
    def stop(self) -> Callable[[bool], object] | None:
        """What stops the run under way; None if the stage is not here, or its engine cannot be told."""
        return getattr(self.run, "stop", None)

    @property
    def stays(self) -> bool:
        """True if the stage is never let go once it is here."""
        return isinstance(self._stage, DeferredStage)

    def open(self) -> Run:
        """Return what runs the stage, which is loaded if it is not here."""
        with self._stage._lock:  # else the stage could go between
            self.run = run = self._stage.load().bind(self._inputs, self._outputs)
            return run

    def __call__(self) -> None:
        """Run the stage, and note when."""
        stage, run = self._stage, self.run or self.open()
        stage.used_s = inf  # while it runs
        try:
            run()
        finally:
            stage.used_s = stage._now()


LIVING: "WeakSet[LazyStage]" = WeakSet()
"""The lazy stages of this process."""

LEFT_BEHIND: list[object] = []
"""In a child what its parent had loaded, which cannot be freed there, nor when it ends; see `forks.py`."""

ctypes.pythonapi.Py_IncRef(ctypes.py_object(LEFT_BEHIND))


def _watch(stage: "weakref.ref[LazyStage]", gone: Event, left_s: float) -> None:
    """Let go of a stage once it was not used for long, in a thread that ends with that or with the stage."""
    while not gone.wait(left_s):
        living = stage()
        if living is None or (left_s := living.let_go_if_idle()) == 0:
            return
        del living  # the stage goes with its network, not with this thread


def count_loads(stages: Iterable[LazyStage]) -> Loads | None:
    """Return what lazy stages have done; None if there are none."""
    stages = list(stages)
    if not stages:
        return None
    return Loads(
        here=sum(stage.is_here for stage in stages),
        loads=sum(stage.loads for stage in stages),
        releases=sum(stage.releases for stage in stages),
        failures=sum(stage.failures for stage in stages),
        total_s=sum(stage.total_s for stage in stages),
        longest_s=max(stage.longest_s for stage in stages),
    )


def return_memory() -> None:
    """Give the system back the memory that engines have freed, which glibc keeps."""
    _find_trim()(0)


@cache
def _find_trim() -> Callable[[int], object]:
    """Return glibc's function, which is looked up once: ctypes keeps something of each time."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        return ctypes.CDLL(None).malloc_trim
    return bool  # which does nothing


def _follow_fork() -> None:
    """In a child keep what the parent had loaded; the threads that would let it go are not here."""
    for stage in list(LIVING):
        stage.take_locks()
        if stage._compiled is not None:
            LEFT_BEHIND.append((stage._compiled, [run.run for run in stage._runs]))


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_follow_fork)
