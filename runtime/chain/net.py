"""The chain: stages run one after the other until an exit is sure enough."""

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
from ...bundle.manifest import NEVER
from ...devices.watch import Watch
from ...errors import UsageError, unknown_name
from ..engines import Compiled
from .checks import CLOSED, check_thresholds, closed, not_a_number, raise_explained, refuse_nan, run_stage
from .memory import CHUNK_SAMPLES, Bound, Memory, keep_rows, learn_shapes, link_stages, live_after, resize
from .results import BatchResult, EveryExit, Provenance, Result
from .samples import Samples, check_samples, fill, single_out, split_inputs
from .stats import Family, Stats, Tally, make_stats

MOST_LENGTHS = 8
"""How many sizes of a network's named axes memory is kept for; the one not used for longest goes first."""

Answers = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
"""Labels, scores, exits and logits of a chunk, to be filled."""


class Net:
    """A loaded network. Made by `load`; may be called from any thread, and runs one call at a time.

    For threads that shall run at once make a `clone` for each. A network with named axes (a sequence length) learns the shapes
    inside it whenever a length is new, by running once more.

    Attributes:
        exits: the names of the exits, first to last.
        inputs: the names of the inputs.
        point: the operating point in use, or None when the network runs to its last exit.
        points: the operating points of its calibration, by name, between which `use` switches.
        provenance: what runs each stage, as the engines report it.
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
        self.exits = tuple(exit_.name for exit_ in exits)
        self.inputs = tuple(tensor.name for tensor in inputs)
        self.point, self.points = point, dict(points or {})
        self._links = link_stages(compiled, stages, exits, logits)
        self._stages = list(stages)
        self._inputs = tuple(inputs)
        self._live = live_after(stages)
        self._classes = classes if logits else None
        heads = [Tensor(name=e.score, dtype="float32", shape=(None,)) for e in exits]
        heads += [Tensor(name=e.label, dtype="int64", shape=(None,)) for e in exits]
        heads += [Tensor(name=e.logits, dtype="float32", shape=(None, classes)) for e in exits if logits]
        self._heads = heads
        self._thresholds: tuple[float, ...] = point.thresholds if point else (NEVER,) * (len(exits) - 1)
        self._batches = all(one.batches for one in compiled)
        self._together = None if self._batches else False
        self._named = not all(tensor.is_sized for tensor in inputs)
        self._watch = watch
        self._count_anew(Family())
        self._take_memory()

    def _count_anew(self, family: Family) -> None:
        """Count from nought, and see to it that the meter is read as long as this network lives."""
        self._tally = Tally(len(self.exits), family)
        weakref.finalize(self, family.bury, self._tally).atexit = False
        self._counts, self._note = self._tally.counts, self._tally.recent.append
        self._let_go = _do_nothing
        if self._watch is not None:
            self._watch.acquire()
            self._let_go = weakref.finalize(self, self._watch.release)

    def _take_memory(self) -> None:
        """Start with memory of one's own, and none yet where the lengths are not known."""
        self._memories: dict[tuple[tuple[int, ...], ...], Memory] = {}
        self._memory: Memory | None = None
        self._places: list[tuple[np.ndarray, tuple[Any, ...]]] = []
        self._alone: tuple[Any, ...] = ()  # shapes of an only input that are copied without a look at anything else
        self._steps: tuple[tuple[Any, ...], ...] = ()
        if not self._named:
            self._turn_to([np.empty(tensor.at(1), tensor.dtype) for tensor in self._inputs])

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One threshold for each exit but the last, which always accepts. 2.0 means never; set it to change all at once."""
        return self._thresholds

    @thresholds.setter
    def thresholds(self, values: Sequence[float]) -> None:
        with self._lock:
            self._check_open()
            self._thresholds = check_thresholds(values, len(self.exits))
            self._set_steps()

    def use(self, point: str) -> None:
        """Switch to another operating point, between two inferences: its thresholds hold from the next call on.

        Raises:
            UsageError: the calibration has no such point, or it runs on other engines than this network.
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
            DataError: `x` has another shape or kind of dtype, or the network's answer is not a number; engines may answer an
                input that is not a number, as OpenVINO often does.
            UsageError: the network is closed.
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
                raise_explained(error)
            if sure != sure:
                raise not_a_number(0)
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
            x: the samples, of the network's dtype, the batch on the input's batch axis; for several inputs a tuple or dict.

        Raises:
            DataError: `x` has another shape or kind of dtype, holds no sample, or an answer is not a number.
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
                    self._leave_alone(samples[part], into)
                else:
                    self._leave(memory, samples[part], into)
            refuse_nan(score)
            self._tally.add(exit_)
            return BatchResult(label, score, exit_, (perf_counter_ns() - start) * 1e-9, logits)

    def every_exit(self, x: Any, *, size: int = 1) -> EveryExit:
        """Run many samples through every exit, whatever the thresholds.

        Args:
            x: as for `batch`.
            size: how many samples go through a stage at once, up to 16. At 1 the numbers are exactly those that `net(x)` sees.

        Raises:
            DataError: as for `batch`.
            UsageError: `size` is out of range, or the network is closed.
        """
        if not 1 <= size <= CHUNK_SAMPLES:
            raise UsageError(f"size is from 1 to {CHUNK_SAMPLES}, not {size}.")
        with self._lock:
            return self._every_exit(x, size)

    def _every_exit(self, x: Any, size: int) -> EveryExit:
        samples, memory = self._check_batch(x)
        size = size if self._batches else 1
        n, exits = len(samples), len(self.exits)
        label, score = np.empty((n, exits), np.int64), np.empty((n, exits), np.float32)
        logits = None if self._classes is None else np.empty((n, exits, self._classes), np.float32)
        for first in range(0, n, size):
            part = samples[first : first + size]
            bound = memory.single if len(part) == 1 else memory.at(len(part), 0)
            self._fill(bound, part)
            for k, (run, scores, labels, values) in enumerate(bound.steps):
                run_stage(run)
                label[first : first + size, k], score[first : first + size, k] = labels, scores
                if logits is not None:
                    logits[first : first + size, k] = values
        refuse_nan(score)
        return EveryExit(label, score, logits)

    def clone(self) -> "Net":
        """Make a second chain over the same compiled stages, with memory of its own, for another thread.

        Raises:
            UsageError: the network is closed, or an engine does not allow it.
        """
        with self._lock:
            self._check_open()
            for k, link in enumerate(self._links):
                if not link.compiled.clones:
                    raise UsageError(
                        f"Chains cannot share stage {k} on {link.compiled.runs_on}: load the bundle once for each thread."
                    )
            other = copy.copy(self)
        other._lock = RLock()
        other._count_anew(self._tally.family)
        other._take_memory()
        return other

    def stats(self, *, reset: bool = False) -> Stats:
        """Say how often each exit was taken, how long calls took, and, if loaded with a meter, what power the board drew.

        Args:
            reset: count anew from now on, the clones of this network too.
        """
        with self._lock:
            counts, recent = tuple(self._tally.counts), list(self._tally.recent)
        # Without the lock: no inference waits for it.
        found = make_stats(counts, recent, self._tally.family, self._watch)
        if reset:
            with self._lock:
                self._tally.family.clear()
            if self._watch is not None:
                self._watch.reset()
        return found

    def close(self) -> None:
        """Let go of the engine's memory; the network cannot be called afterwards. Its clones can."""
        self._let_go()
        with self._lock:
            self._links, self._places, self._alone = [], [], ()
            self._steps = ((0, closed, [0.0], [0], None, 0.0),)
            self._memories, self._memory = {}, None

    def __enter__(self) -> "Net":
        """Return the network itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the network."""
        self.close()

    def _put(self, x: Any) -> None:
        """Copy a sample into the inputs' memory."""
        parts = split_inputs(x, self._inputs)
        if not self._fits(parts):
            self._check_open()
            self._turn_to(single_out(parts, self._inputs))
        for part, (place, _), tensor in zip(parts, self._places, self._inputs, strict=True):
            fill(place, part, tensor)

    def _fits(self, parts: Sequence[np.ndarray]) -> bool:
        """Tell whether a sample's inputs have the shapes that the memory in use is for."""
        pairs = zip(parts, self._places, strict=False)
        return bool(self._places) and all(part.shape in shapes for part, (_, shapes) in pairs)

    def _turn_to(self, singles: Sequence[np.ndarray]) -> None:
        """Use the memory for samples of these shapes; where they are new it is made, and the named axes inside are learnt."""
        key = tuple(single.shape for single in singles)
        memory = self._memories.pop(key, None)
        if memory is None:
            boundaries = [tensor for stage in self._stages for tensor in stage.outputs]
            if self._named:
                try:
                    boundaries = learn_shapes(self._links, self._stages, dict(zip(self.inputs, singles, strict=True)))
                except Exception as error:
                    raise_explained(error)
            inputs = [resize(tensor, shape) for tensor, shape in zip(self._inputs, key, strict=True)]
            memory = Memory(self._links, [*inputs, *boundaries, *self._heads])
        self._memories[key] = memory  # the last in the dictionary was used last
        if len(self._memories) > MOST_LENGTHS:
            del self._memories[next(iter(self._memories))]
        if memory is self._memory:
            return
        self._memory = memory
        self._places = []
        for tensor in self._inputs:
            place, axis = memory.single.views[tensor.name], tensor.batch_axis or 0
            self._places.append((place, (place.shape, place.shape[:axis] + place.shape[axis + 1 :])))
        self._place, self._dtype = self._places[0][0], self._places[0][0].dtype
        self._alone = self._places[0][1] if len(self._places) == 1 and self._inputs[0].batch_axis == 0 else ()
        self._set_steps()

    def _set_steps(self) -> None:
        if self._memory is not None:
            ends = (*self._thresholds, 0.0)
            self._steps = tuple((k, *h, t) for k, (h, t) in enumerate(zip(self._memory.heads, ends, strict=True)))

    def _check_open(self) -> None:
        if not self._links:
            raise UsageError(CLOSED)

    def _check_batch(self, x: Any) -> tuple[Samples, Memory]:
        """Return the samples with the batch axis first, and the memory for their shapes."""
        self._check_open()
        samples = check_samples(x, self._inputs)
        parts = zip(samples.arrays, self._inputs, strict=True)
        self._turn_to([np.ascontiguousarray(np.moveaxis(a[:1], 0, t.batch_axis or 0), t.dtype) for a, t in parts])
        assert self._memory is not None
        return samples, self._memory

    def _fill(self, bound: Bound, samples: Samples) -> None:
        for tensor, array in zip(self._inputs, samples.arrays, strict=True):
            bound.views[tensor.name][...] = np.moveaxis(array, 0, tensor.batch_axis or 0)

    def _is_faster_together(self, memory: Memory, x: Samples, into: Answers) -> bool:
        """Run a chunk both ways; a twentieth is what a machine's noise may decide."""
        start = perf_counter_ns()
        self._leave_alone(x, into)
        middle = perf_counter_ns()
        self._leave(memory, x, into)
        return perf_counter_ns() - middle < 1.05 * (middle - start)

    def _leave_alone(self, x: Samples, into: Answers) -> None:
        """Run each sample of a chunk through the chain by itself."""
        label, score, exit_, logits = into
        for i, sample in enumerate(x):
            self._put(sample)
            for k, run, sure, best, values, threshold in self._steps:
                run_stage(run)
                if sure[0] >= threshold:
                    break
            label[i], score[i], exit_[i] = best[0], sure[0], k
            if logits is not None:
                logits[i] = values

    def _leave(self, memory: Memory, x: Samples, into: Answers) -> None:
        """Run one chunk, dropping what leaves, and write each sample's answer into the given arrays."""
        label, score, exit_, logits = into
        rows, side = np.arange(len(x)), 0
        bound = memory.at(len(x), side)
        self._fill(bound, x)
        for k, threshold in enumerate((*self._thresholds, 0.0)):
            run, scores, labels, values = bound.steps[k]
            run_stage(run)
            stay = ~(scores >= threshold)
            if k == len(self.exits) - 1:
                stay[:] = False
            gone = rows[~stay]
            label[gone], score[gone], exit_[gone] = labels[~stay], scores[~stay], k
            if logits is not None and values is not None:
                logits[gone] = values[~stay]
            if not stay.any():
                return
            if len(gone):
                rows, side = rows[stay], 1 - side
                smaller = memory.at(len(rows), side)
                for tensor in self._live[k]:
                    keep_rows(bound.views[tensor.name], smaller.views[tensor.name], stay, tensor.batch_axis)
                bound = smaller


def _do_nothing() -> None:
    """Let go of nothing."""
