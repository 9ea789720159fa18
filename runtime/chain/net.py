"""The loaded network: call it with samples, switch its operating point, ask for its statistics."""

import copy
import weakref
from collections.abc import Mapping, Sequence
from threading import RLock
from time import perf_counter_ns
from types import TracebackType
from typing import Any

import numpy as np
from numpy import ndarray

from ...bundle import Exit, OperatingPoint, Stage, Tensor
from ...devices.watch import Watch
from ...errors import UsageError, unknown_name
from ..engines import Compiled
from .checks import check_thresholds, nan_error, raise_explained, refuse_closed, refuse_nan
from .memory import CHUNK_SAMPLES
from .results import BatchResult, EveryExit, Provenance, Result
from .runner import Runner
from .stats import Family, Stats, Tally, make_stats

__all__ = ["Net"]


class Net(Runner):
    """A loaded network. Made by `load`; may be called from any thread, and runs one call at a time.

    Make a `clone` for each thread that shall run at the same time. A network with named axes (a sequence length) runs the first
    sample of a new length twice, since it learns the shapes inside it.

    Attributes:
        exits: the names of the exits, first to last.
        inputs: the names of the inputs.
        point: the operating point in use; None if the network runs to its last exit.
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
        watch: Watch | None = None,
    ) -> None:
        self._lock = RLock()
        self.provenance = provenance or Provenance(())
        self.point, self.points = point, dict(points or {})
        self._watch = watch
        super().__init__(
            compiled,
            stages,
            exits,
            inputs=inputs,
            classes=classes,
            logits=logits,
            devices=self.provenance.devices,
            thresholds=point.thresholds if point else None,
        )
        self._count_anew(Family())

    def _count_anew(self, family: Family) -> None:
        """Start to count at 0, and have the meter read as long as this network lives."""
        self._tally = Tally(len(self.exits), family)
        weakref.finalize(self, family.forget, self._tally).atexit = False
        self._counts, self._note = self._tally.counts, self._tally.recent.append
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
        return self._thresholds

    @thresholds.setter
    def thresholds(self, values: Sequence[float]) -> None:
        with self._lock:
            self._check_open()
            self._thresholds = check_thresholds(values, len(self.exits))
            self._set_steps()

    def use(self, point: str) -> None:
        """Switch to another operating point, between two inferences. Its thresholds hold from the next call on.

        Raises:
            UsageError: the calibration has no such point, or the point runs on other engines than this network.

        Example:
            >>> from offramp.runtime import load
            >>> net = load("digits.offramp")
            >>> name = next(name for name, point in net.points.items() if point is net.point)
            >>> net.use(name)
        """
        if point not in self.points:
            raise unknown_name("operating point", str(point), self.points)
        chosen = self.points[point]
        if self.point is not None and chosen.engines != self.point.engines:
            raise UsageError(
                f"The operating point {point} is for {chosen.engines}, and this network was loaded for {self.point.engines}. "
                f"Load it anew with point={point!r}."
            )
        with self._lock:
            self.thresholds = chosen.thresholds
            self.point = chosen

    def __call__(self, x: Any) -> Result:
        """Run one sample.

        Args:
            x: the sample, with or without its batch axis of 1, of the network's dtype (other floats are converted). For a
                network with several inputs a tuple of arrays, or a dict by name.

        Raises:
            DataError: `x` has another shape or kind of dtype, or the network's answer is not a number. Some engines, OpenVINO
                among them, often answer an input that is not a number with a number.
            UsageError: the network is closed.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp", logits=True)
            >>> result = net(np.load("test.npz")["x"][0])
            >>> result.exit, result.logits.shape
            (2, (10,))
        """
        start = perf_counter_ns()
        with self._lock:
            if x.__class__ is ndarray and x.shape in self._alone and x.dtype is self._dtype:
                self._place[...] = x
            else:
                self._put(x)
            try:
                for k, run, score, label, logits, threshold in self._steps:
                    run()
                    sure = score[0]
                    if sure >= threshold:
                        break
            except Exception as error:
                raise_explained(error, self._where[k])
            if sure != sure:
                raise nan_error(0)
            if logits is not None:
                logits = logits.copy()
            spent = perf_counter_ns() - start
            self._counts[k] += 1
            self._note(spent)
            return Result(label[0], sure, k, spent * 1e-9, logits)

    def batch(self, x: Any) -> BatchResult:
        """Run many samples.

        There are two ways. Together: 16 samples go through a stage at once, and those that leave are dropped from the stages that
        follow. Alone: each sample goes through the chain by itself. The first call with at least 32 samples tries both ways; the
        faster one is used from then on.

        Args:
            x: the samples, of the network's dtype, the batch on the input's batch axis. For several inputs a tuple or dict.

        Raises:
            DataError: `x` has another shape or kind of dtype, holds no sample, or an answer is not a number.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp")
            >>> results = net.batch(np.load("test.npz")["x"])
            >>> results.label.shape, set(results.exit.tolist())
            ((200,), {2})
        """
        start = perf_counter_ns()
        with self._lock:
            samples, memory = self._check_batch(x)
            n = len(samples)
            label, exit_ = np.empty(n, np.int64), np.empty(n, np.int64)
            score = np.empty(n, np.float32)
            logits = None if self._classes is None else np.empty((n, self._classes), np.float32)
            for first in range(0, n, CHUNK_SAMPLES):
                part = slice(first, first + CHUNK_SAMPLES)
                into = label[part], score[part], exit_[part], None if logits is None else logits[part]
                if self._together is None and first > 0 and first + CHUNK_SAMPLES <= n:
                    self._together = self._is_faster_together(memory, samples[part], into)
                elif self._together is False:
                    self._run_alone(samples[part], into)
                else:
                    self._run_together(memory, samples[part], into)
            refuse_nan(score)
            self._tally.add(exit_)
            return BatchResult(label, score, exit_, (perf_counter_ns() - start) * 1e-9, logits)

    def every_exit(self, x: Any, *, size: int = 1) -> EveryExit:
        """Run many samples through every exit, without regard to thresholds.

        Args:
            x: as for `batch`.
            size: how many samples go through a stage at once, up to 16. At 1 the numbers are exactly those that `net(x)` sees.

        Raises:
            DataError: as for `batch`.
            UsageError: `size` is out of range, or the network is closed.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import load_uncalibrated
            >>> net = load_uncalibrated("digits.offramp")
            >>> net.every_exit(np.load("test.npz")["x"]).score.shape
            (200, 3)
        """
        if not 1 <= size <= CHUNK_SAMPLES:
            raise UsageError(f"size is from 1 to {CHUNK_SAMPLES}, not {size}.")
        with self._lock:
            return self._every_exit(x, size)

    def clone(self) -> "Net":
        """Make a second chain over the same compiled stages, with memory of its own, for another thread.

        Raises:
            UsageError: the network is closed, or an engine does not allow it.

        Example:
            >>> from offramp.runtime import load_uncalibrated
            >>> first = load_uncalibrated("digits.offramp")
            >>> second = first.clone()
            >>> first.close()  # the clone goes on
        """
        with self._lock:
            self._check_open()
            for k, link in enumerate(self._links):
                if not link.compiled.clones:
                    device, file = self._where[k]
                    raise UsageError(
                        f"Chains cannot share stage {k} on {link.compiled.runs_on}: load the bundle once for each thread.",
                        device=device,
                        stage=file,
                    )
            other = copy.copy(self)
        other._lock = RLock()
        other._count_anew(self._tally.family)
        other._take_memory()
        return other

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
            counts, recent = tuple(self._tally.counts), list(self._tally.recent)
        # Without the lock, so that no inference waits.
        expected_s = () if self.point is None else self.point.exit_latency_s
        stats = make_stats(counts, recent, self._tally.family, self._watch, expected_s)
        if reset:
            with self._lock:
                self._tally.family.clear()
            if self._watch is not None:
                self._watch.reset()
        return stats

    def close(self) -> None:
        """Let go of the engine's memory. The network cannot be called afterwards; its clones can."""
        self._let_go()
        with self._lock:
            self._links, self._places, self._alone = [], [], ()
            self._steps = ((0, refuse_closed, [0.0], [0], None, 0.0),)
            self._memories, self._memory = {}, None

    def __enter__(self) -> "Net":
        """Return the network itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the network."""
        self.close()


def _do_nothing() -> None:
    """Stand in for the release of a meter that the network has not."""
