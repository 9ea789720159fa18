"""The loaded network: call it with samples, switch its operating point, ask for its statistics."""

import weakref
from collections.abc import Mapping, Sequence
from numbers import Integral
from threading import RLock
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy import isfinite, ndarray

from ...bundle import Exit, OperatingPoint, Stage, Tensor
from ...bundle.across import Source
from ...errors import UsageError, unknown_name
from ..engines import Compiled
from .checks import LEAST_SCORE, MOST_SCORE, are_answers, check_thresholds, refuse_answer
from .deadlines import DeadlineRunner
from .forks import LIVING
from .lazy import count_loads
from .memory import CHUNK_SAMPLES, Span, share_stages
from .parts import copy_parts, make_room
from .results import BatchResult, EveryExit, Provenance, Result
from .runner import CLOSED
from .stats import Family, Stats, Tally, make_stats
from .values import refuse_infinite

if TYPE_CHECKING:
    from ...devices.watch import Watch

__all__ = ["Net"]


class Net(DeadlineRunner):
    """A loaded network. Made by `load`; may be called from any thread, and runs one call at a time.

    Make a `clone` for each thread that shall run at the same time. A network with named axes (a sequence length) runs the first
    sample of a new length twice, since it learns the shapes inside it.

    A call from within a call, as a signal handler or a finaliser may make it, runs in memory of its own. A network cannot be
    pickled. In a forked process it goes on, unless another thread ran it when the process was forked.

    Attributes:
        exits: the names of the exits, first to last. A static network has one.
        inputs: the names of the inputs.
        points: the operating points of its calibration, by name, between which `use` switches.
        provenance: what runs each stage, as the engines report it.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime import load_uncalibrated
        >>> x = np.load("test.npz")["x"]
        >>> with load_uncalibrated("digits.offramp") as net:
        ...     net.thresholds = (0.75, 0.75)
        ...     print(net.thresholds, net.batch(x).label.shape)
        (0.75, 0.75) (200,)
    """

    def __init__(
        self,
        compiled: Sequence[Compiled],
        stages: Sequence[Stage],
        exits: Sequence[Exit],
        *,
        inputs: Sequence[Tensor],
        classes: int,
        logits: bool,
        point: OperatingPoint | None = None,
        points: Mapping[str, OperatingPoint] | None = None,
        provenance: Provenance | None = None,
        watch: "Watch | None" = None,
        first_exit: int = 0,
        table_rows: Mapping[str, int] | None = None,
        joined: Mapping[Span, Compiled] | None = None,
        sources: Sequence[Source] | None = None,
    ) -> None:
        self._lock: Any = RLock()
        self.provenance = provenance or Provenance(())
        self.points = dict(points or {})
        self._watch = watch
        super().__init__(
            compiled,
            stages,
            exits,
            inputs=inputs,
            classes=classes,
            logits=logits,
            devices=self.provenance.devices,
            point=point,
            first_exit=first_exit,
            table_rows=table_rows or {},
            joined=joined or {},
            sources=sources,
        )
        self._count_anew(Family())
        LIVING.add(self)

    def _count_anew(self, family: Family) -> None:
        """Start to count at 0, and have the meter read as long as this network lives."""
        self._tally = Tally(self._first_exit + len(self.exits), family)
        weakref.finalize(self, family.forget, self._tally).atexit = False
        self._counts, self._note = self._tally.counts, self._tally.recent.append
        self._note_exit = self._tally.recent_exits.append
        self._let_go = _do_nothing
        if self._watch is not None:
            self._watch.acquire()
            self._let_go = weakref.finalize(self, self._watch.release)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One threshold for each exit but the last, which always accepts. 2.0 means never. Assign a tuple to change all at once.

        Example:
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp")
            >>> net.thresholds = (0.5, 2.0)
            >>> net.thresholds
            (0.5, 2.0)
        """
        return self._setup.thresholds

    @thresholds.setter
    def thresholds(self, values: Sequence[float] | ndarray) -> None:
        with self._lock:
            self._check_open()
            self._change(thresholds=check_thresholds(values, len(self.exits)))

    @property
    def point(self) -> OperatingPoint | None:
        """The operating point in use; None if the network was loaded without a calibration.

        Example:
            >>> from offramp.runtime import load
            >>> load("digits.offramp").point.met
            True
        """
        return self._setup.point

    def use(self, point: str) -> None:
        """Switch to another operating point, between two inferences. Its thresholds hold from the next call on.

        Raises:
            UsageError: the calibration has no such point, or the point runs on other engines than this network.

        Example:
            >>> from offramp.runtime import load
            >>> net = load("digits.offramp")
            >>> net.use(net.point.name)
        """
        if not isinstance(point, str) or point not in self.points:
            raise unknown_name("operating point", str(point), self.points)
        chosen = self.points[point]
        if self.point is not None and chosen.engines != self.point.engines:
            raise UsageError(
                f"The operating point {point} is for {chosen.engines}, and this network was loaded for {self.point.engines}. "
                f"Load it anew with point={point!r}."
            )
        with self._lock:
            self._check_open()
            check_thresholds(chosen.thresholds, len(self.exits))
            self._change(thresholds=chosen.thresholds, point=chosen)  # unrounded, as when it is loaded

    def __call__(self, x: Any, deadline_s: float | None = None) -> Result:  # by keyword only it takes 20 ns more
        """Run one sample.

        Args:
            x: the sample, with or without its batch axis of 1, of the network's dtype (other floats are converted). For a
                network with several inputs a tuple of arrays, or a dict by name.
            deadline_s: time from call to answer. A stage that may end later is not started: the exit before it answers, and the
                result is `cut`. The first stage always runs, so a result may be `late`.

        Raises:
            DataError: `x` has another shape or kind of dtype, holds NaN or infinity, or a value that the network cannot take.
            BundleError: a stage runs for no sample, or answers what no exit can.
            UsageError: the network is closed.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp", logits=True)
            >>> result = net(np.load("test.npz")["x"][0])
            >>> result.exit, result.logits.shape
            (2, (10,))
        """
        if deadline_s is not None:
            return self._answer_by(x, deadline_s)
        start = perf_counter_ns()
        lock = self._lock
        if lock._is_owned():
            return self._apart()(x)
        try:  # the same as `with lock`, which takes a tenth of a microsecond more
            lock.acquire()
            setup = self._setup
            views, dtype, place, flags, marks = setup.entry
            if x.__class__ is ndarray and x.dtype is dtype and (view := views.get(x.shape)) is not None:
                view[...] = x
                if marks is not None:
                    isfinite(place, flags)
                    if 0 in marks:
                        refuse_infinite([place], self._inputs, None)
            else:
                setup = self._put(x)
            try:
                for k, run, score, label, parts, threshold in setup.steps:
                    run()
                    sure = score[0]
                    if sure >= threshold:
                        break
            except Exception as error:
                self._explain(error, k - self._first_exit, setup.memory.single)  # type: ignore[union-attr]
            best = label[0]
            if not (0 <= best < self._classes and LEAST_SCORE <= sure <= MOST_SCORE) and (
                self._classes or not LEAST_SCORE <= sure <= MOST_SCORE
            ):
                refuse_answer(best, sure, self._classes, self._where[k - self._first_exit])
            if parts is not None:
                parts = copy_parts(parts)
            spent = perf_counter_ns() - start
            self._counts[k] += 1
            self._note(spent)
            self._note_exit(k)
            if parts is None:
                return Result(best, sure, k, spent * 1e-9)
            return Result(best, sure, k, spent * 1e-9, *parts)
        finally:
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:  # it was interrupted before it had the lock
                pass

    def batch(self, x: Any) -> BatchResult:
        """Run many samples.

        There are two ways. Together: 16 samples go through a stage at once, and those that leave are dropped from the stages that
        follow. Alone: each sample goes through the chain by itself. The first call with at least 32 samples tries both ways; the
        faster one is used from then on.

        Args:
            x: the samples, of the network's dtype, the batch on the input's batch axis. For several inputs a tuple or dict.

        Raises:
            DataError: `x` holds no sample; or as for a call with one sample.
            BundleError: as for a call with one sample.
            UsageError: the network is closed.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp")
            >>> results = net.batch(np.load("test.npz")["x"])
            >>> results.label.shape, set(results.exit.tolist())
            ((200,), {2})
        """
        start = perf_counter_ns()
        if self._lock._is_owned():
            return self._apart().batch(x)
        with self._lock:
            samples, memory = self._check_batch(x)
            n = len(samples)
            label, exit_ = np.empty(n, np.int64), np.empty(n, np.int64)
            score = np.empty(n, np.float32)
            room = make_room(n, [parts for *_, parts in memory.single.steps])
            for first in range(0, n, CHUNK_SAMPLES):
                part = slice(first, first + CHUNK_SAMPLES)
                own = room and {name: place[part] for name, place in room.items()}
                into = label[part], score[part], exit_[part], own
                if self._together is None and first > 0 and first + CHUNK_SAMPLES <= n:
                    self._together = self._is_faster_together(memory, samples[part], into, first)
                elif self._together is False:
                    self._run_alone(samples[part], into, first)
                else:
                    self._run_together(memory, samples[part], into, first)
            self._check_taken(label, score, exit_)
            self._tally.add(exit_)
            logits = room.get("logits") if room else None
            answer = None if self._classes else room
            return BatchResult(label, score, exit_, (perf_counter_ns() - start) * 1e-9, logits, answer)

    def every_exit(self, x: Any, *, size: int = 1) -> EveryExit:
        """Run many samples through every exit, without regard to thresholds.

        Args:
            x: as for `batch`.
            size: how many samples go through a stage at once, up to 16. At 1 the numbers are those that `net(x)` sees: exactly,
                or to rounding where stages are joined, since an exit of an operating point is never taken.

        Raises:
            DataError, BundleError: as for `batch`.
            UsageError: `size` is out of range, or the network is closed.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp")
            >>> net.every_exit(np.load("test.npz")["x"]).score.shape
            (200, 3)
        """
        if not isinstance(size, Integral) or not 1 <= size <= CHUNK_SAMPLES:
            raise UsageError(f"size is a whole number from 1 to {CHUNK_SAMPLES}, not {size!r:.30}.")
        if self._lock._is_owned():
            return self._apart().every_exit(x, size=size)
        with self._lock:
            answers = self.run_every_exit(x, size=size)
            self._check_every(answers, are_answers(answers.label, answers.score, self._classes))
            return answers

    def clone(self) -> "Net":
        """Make a second chain for another thread, with memory of its own. OpenVINO's CPU compiles its stages once more for it.

        Raises:
            UsageError: the network is closed, or an engine does not allow it.
            MissingError: memory is too small for it.

        Example:
            >>> from offramp.runtime import load_uncalibrated
            >>> first = load_uncalibrated("digits.offramp")
            >>> second = first.clone()
            >>> first.close()  # the clone goes on
        """
        other = self._apart(threads=True)
        other._count_anew(self._tally.family)
        LIVING.add(other)
        return other

    def _apart(self, *, threads: bool = False) -> "Net":
        """Return a network that counts with this one and has memory and lock of its own. True if both shall run at once."""
        with self._lock:
            self._check_open()
            links = self._links
        other = self.__copy__()
        other._links = share_stages(links, threads=threads)
        other._lock = RLock()
        other._take_memory()
        return other

    def __copy__(self) -> "Net":
        """Return a network with thresholds of its own that shares memory and lock with this one."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        LIVING.add(other)
        return other

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied deeply.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "A loaded network cannot be pickled, sent to another process or copied deeply: load the bundle there. For another "
            "thread of this process make a clone()."
        )

    def stats(self, *, reset: bool = False) -> Stats:
        """Return how often each exit was taken, how long calls took and, if loaded with a meter, what power the board drew.

        Args:
            reset: True starts all counts again, those of this network's clones too.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp")
            >>> result = net.batch(np.load("test.npz")["x"])
            >>> net.stats().exit_counts
            (0, 0, 200)
        """
        with self._lock:
            tally = self._tally
            counts, recent, recent_exits = tuple(tally.counts), list(tally.recent), list(tally.recent_exits)
        point, lazy, expected_s = self.point, self.lazy_stages, tuple[float, ...]()  # no inference waits for it
        if point is not None and self.joins_stages == point.joined:  # else other stages were measured
            expected_s = ((0.0,) * self._first_exit + point.exit_latency_s)[: self._first_exit + self._eager]
        stats = make_stats(counts, recent, recent_exits, tally, self._watch, expected_s, count_loads(lazy))
        if reset:
            with self._lock:
                self._tally.family.clear()
            for stage in lazy:
                stage.reset()
            if self._watch is not None:
                self._watch.reset()
        return stats

    def close(self) -> None:
        """Let go of the engine's memory. The network cannot be called afterwards; its clones can."""
        self._let_go()
        with self._lock:
            self._close(CLOSED)

    def __enter__(self) -> "Net":
        """Return the network itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the network."""
        self.close()


def _do_nothing() -> None:
    """Stand in for the release of a meter that the network has not."""
