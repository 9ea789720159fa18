"""Calls that must answer in time, and calls that answer at every exit.

deadline ------------------------------------------------------------------------> |
stage 0, always   | stage 1: its limit still fits -> runs | stage 2: its limit no longer fits -> exit 1 answers, marked
"""

import contextlib
from collections.abc import Generator, Sequence
from math import exp
from numbers import Real
from threading import TIMEOUT_MAX, Event, Timer
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ...bundle.calibration import Chain, Latency
from ...errors import UsageError
from ..engines import Run
from .checks import LEAST_SCORE, MOST_SCORE, refuse_answer
from .lazy import DeferredStage
from .parts import copy_parts
from .results import Provenance, Result
from .runner import Runner

if TYPE_CHECKING:
    from .net import Net
    from .reuse import LastAnswer
    from .stats import Tally

__all__ = ["DeadlineRunner", "StageLimits"]

MOST_OVERRUNS = 0.005
"""Of the times that a stage could have run, so large a share may take longer than its limit. It is half of 1 %: two stages of a
call may do so."""

STEP = 0.2
"""By so much an overrun raises the logarithm of a limit. The other times together lower it by as much, if overruns are as rare
as they may be."""

UP, DOWN = exp(STEP * (1 - MOST_OVERRUNS)), exp(-STEP * MOST_OVERRUNS)

MOST_DEADLINE_S = 1e9
"""A later deadline is none."""

LEARNING_RUNS = 20
"""Runs of a stage without a calibration, until it has a limit. The first of them is slow, and does not count."""


class StageLimits:
    """How long each stage takes at most, but for one run in 200.

    A limit starts with what the calibration makes of the stage's 99th percentile, or with the longest of its first runs. Then an
    overrun raises it by 22 %, and each other time that the stage could have run, whether it did or had no time, lowers it by
    0.1 %. So whatever the times are like, in the long run one in 200 is an overrun, and a stage that was given up is tried again.

    Args:
        stages: how many there are.
        latencies: of leaving at each exit, as calibrated; empty if that is unknown.
    """

    def __init__(self, stages: int, latencies: Sequence[Latency] = ()) -> None:
        self._limits = [0.0] * stages
        self._first: list[list[int]] = [[] for _ in range(stages)]
        for k in range(1, len(latencies)):
            self._limits[k] = max(0.0, latencies[k].p99_s - latencies[k - 1].p50_s) * 1e9

    def limit_ns(self, k: int) -> float:
        """Return the limit of stage k; 0 while it is unknown, so that the stage is tried."""
        return self._limits[k]

    def note(self, k: int, spent_ns: int) -> None:
        """Learn from a run of stage k."""
        limit = self._limits[k]
        if limit:
            self._limits[k] = limit * (UP if spent_ns > limit else DOWN)
            return
        first = self._first[k]
        first.append(spent_ns)
        if len(first) == LEARNING_RUNS:
            self._limits[k] = float(max(first[1:]))

    def pass_over(self, k: int) -> None:
        """Learn that stage k had no time."""
        self._limits[k] *= DOWN


def _run_until(run: Run, end_ns: float) -> bool:
    """Run a stage, and tell it to stop when the time is over. Return whether it ran to its end."""
    stop, going, stopped = getattr(run, "stop", None), [True], Event()
    if stop is None:
        run()
        return True

    def tell() -> None:
        if going:
            stopped.set()
            stop(True)

    timer = Timer(min(max(0.0, end_ns - perf_counter_ns()) * 1e-9, TIMEOUT_MAX), tell)
    timer.daemon = True
    try:
        with contextlib.suppress(RuntimeError):  # no thread is left: the stage runs to its end
            timer.start()
        run()
    except Exception:
        if not stopped.is_set():
            raise
        return False
    finally:
        going.clear()  # whatever interrupts the rest, no later run is stopped
        try:
            timer.cancel()
            if timer.ident is not None:
                timer.join()
        finally:
            stop(False)
    return True


class DeadlineRunner(Runner):
    """Answers by a deadline, or at every exit. `Net` is its public face.

    Attributes:
        stops_stages: True if a stage that still runs when the deadline comes is told to stop, where its engine can be: ONNX
            Runtime ends after the operator at hand, the wait for a server at once, and the exit before answers. It takes a
            thread for each stage but the first.
    """

    stops_stages = False

    _lock: Any
    _tally: "Tally"
    _latencies: Sequence[Latency] = ()
    _limits: StageLimits | None = None
    _end_ns = 0
    """What a call with a deadline takes behind its last stage."""

    def know_latencies(self, chains: Sequence[Chain]) -> None:
        """Take the calibrated latencies of this network, if they are among those of a calibration's chains."""
        point, devices = self._setup.point, self.provenance.devices
        if point is not None and point.static is None:
            fitting = (chain.exits for chain in chains if (chain.variant, chain.placement) == (point.variant, devices))
            self._latencies = next(fitting, ())

    def _answer_by(self, x: Any, deadline_s: float) -> Result:
        """Run one sample until it leaves or has no time for another stage; with a `ReuseDeadline`, or to the last answer."""
        start = perf_counter_ns()
        if not isinstance(deadline_s, Real) or not deadline_s > 0:
            raise UsageError(f"deadline_s is a number of seconds above 0, not {deadline_s!r:.30}.")
        end = start + float(min(deadline_s, MOST_DEADLINE_S)) * 1e9
        if self._lock._is_owned():
            return self._apart()(x, max(1.0, end - perf_counter_ns()) * 1e-9)
        with self._lock:
            setup = self._put(x)
            assert setup.memory is not None
            limits = self._limits or self._take_limits()
            last_answer: LastAnswer | None = getattr(deadline_s, "last_answer", None)
            k, cut = 0, False
            now = perf_counter_ns()
            try:
                for k, (threshold, head) in enumerate(zip((*setup.thresholds, 0.0), setup.memory.heads, strict=True)):
                    wait_s = self._wait_s(k)
                    if k and now + limits.limit_ns(k) + wait_s * 1e9 + self._end_ns > end:
                        if not wait_s:  # else its load has no time, which says nothing of its run
                            limits.pass_over(k)
                        k, cut = k - 1, True
                        break
                    ends = True
                    if k and self.stops_stages:
                        ends = _run_until(head[0], end)
                    else:
                        head[0]()
                    before, now = now, perf_counter_ns()
                    if not wait_s:
                        limits.note(k, now - before)
                    if not ends:
                        k, cut = k - 1, True
                        break
                    if head[1][0] >= threshold:
                        break
                    if last_answer is not None and k == 0 and (last := last_answer.find(setup)) is not None:
                        now = perf_counter_ns()
                        return replace(last, latency_s=(now - start) * 1e-9, late=now > end, reused=True)
            except Exception as error:
                self._explain(error, k, setup.memory.single)
            result = self._answer(setup.memory.heads, k, start, end, cut=cut)
            if last_answer is not None:
                last_answer.keep(setup, result)
            tally, spent = self._tally, round(result.latency_s * 1e9)
            self._end_ns = min(start + spent - now, 2 * self._end_ns + 1000)  # one long pause there is chance
            tally.counts[result.exit] += 1
            tally.recent.append(spent)
            tally.recent_exits.append(result.exit)
            tally.cut += cut
            tally.late += result.late
            return result

    def anytime(self, x: Any) -> Generator[Result, None, None]:
        """Run one sample through every exit, without regard to thresholds, and yield each answer as it comes.

        The network is this call's until the iterator ends or is closed, in the thread that began it: other threads wait. Leave
        the loop to stop, or call `close()` on an iterator that you keep. The call counts as one inference, at the exit of the
        last answer; its time is not in `stats()`, since it depends on who reads.

        Args:
            x: as for a call.

        Yields:
            The answer of each exit, first to last. `latency_s` is the time since the first was asked for.

        Raises:
            DataError, BundleError, UsageError: as for a call.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp")
            >>> for result in net.anytime(np.load("test.npz")["x"][0]):
            ...     if result.score > 0.5:
            ...         break
        """
        start = perf_counter_ns()
        if self._lock._is_owned():
            yield from self._apart().anytime(x)
            return
        with self._lock:
            memory = self._put(x).memory
            assert memory is not None
            left = None
            try:
                for k, (run, *_) in enumerate(memory.heads):
                    try:
                        run()
                    except Exception as error:
                        self._explain(error, k, memory.single)
                    result = self._answer(memory.heads, k, start)
                    left = result.exit
                    yield result
            finally:
                if left is not None:
                    self._tally.counts[left] += 1
                    self._tally.untimed += 1

    def _answer(self, heads: Sequence[Any], k: int, start: int, end: float = 0.0, *, cut: bool = False) -> Result:
        """Return the answer of exit k to a call that began at `start` and should end by `end`, if that is not 0."""
        _, score, label, parts = heads[k]
        best, sure = label[0], score[0]
        if not LEAST_SCORE <= sure <= MOST_SCORE or (self._classes and not 0 <= best < self._classes):
            refuse_answer(best, sure, self._classes, self._where[k])
        logits, answer = (None, None) if parts is None else copy_parts(parts)
        now = perf_counter_ns()
        late = 0 < end < now
        return Result(best, sure, self._first_exit + k, (now - start) * 1e-9, logits, answer, cut, late)

    def _take_limits(self) -> StageLimits:
        for link in self._links:  # else the wait for a stage that was never needed would end each call before it
            if isinstance(link.compiled, DeferredStage):
                link.compiled.load()
        self._limits = StageLimits(len(self.exits), self._latencies)
        return self._limits

    def _wait_s(self, k: int) -> float:
        """Return how long a run of stage k would wait for the stage to load."""
        return getattr(self._links[k].compiled, "wait_s", 0.0)

    if TYPE_CHECKING:
        provenance: Provenance

        def _apart(self, *, threads: bool = False) -> "Net": ...
