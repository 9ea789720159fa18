"""The stages of a chain tied to memory for the samples at hand, and how one sample or a batch goes through them."""

from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Exit, OperatingPoint, Stage, Tensor
from ...bundle.across import Source
from ...bundle.manifest import NEVER
from ...errors import UsageError
from ..engines import Compiled, Run
from .checks import Where, are_answers, check_answers, raise_explained
from .lazy import DeferredStage, LazyRun, LazyStage
from .memory import (
    Bound,
    Memory,
    Place,
    Span,
    keep_rows,
    learn_shapes,
    link_joined,
    link_stages,
    live_after,
    resize,
)
from .parts import Parts, make_room, put_one, put_rows
from .results import EveryExit
from .samples import Samples, check_samples, fill_input, prepare_single, split_inputs
from .values import refuse_indices, refuse_infinite

if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = ["Answers", "Runner", "Setup"]

CLOSED = "The network is closed. Load it again."

MOST_LENGTHS = 8
"""A network with named axes keeps memory for so many sizes. The size that was not used for longest goes first."""

Answers = tuple[np.ndarray, np.ndarray, np.ndarray, Parts | None]
"""Arrays to be filled for a chunk of samples: labels, scores, exits and, if wanted, the parts of the answers."""

Entry = tuple[dict[tuple[int, ...], np.ndarray], Any, np.ndarray, np.ndarray | None, bytearray | None]
"""The `Place` of an only input, for samples that are copied in without more ado; its memory; its `FloatMarks`."""

NO_ENTRY: Entry = ({}, None, np.empty(0), None, None)
"""No sample is copied in so."""


least, most = np.minimum.reduce, np.maximum.reduce
"""As an array's `min` and `max`, in half the time."""


class Setup(Struct, frozen=True):
    """What calls read. It is replaced as a whole, so that whatever interrupts a change leaves all of the old or all of the new.

    Attributes:
        thresholds: one for each exit but the last.
        point: the operating point in use.
        memory: the memory in use; None before the first sample of a network with named axes.
        entry: how a sample gets into the memory without detours.
        steps: (number of the exit, run, score, label, parts of its answer, threshold) of each stage, at batch 1; of joined
            stages one for all.
    """

    thresholds: tuple[float, ...]
    point: OperatingPoint | None = None
    memory: Memory | None = None
    entry: Entry = NO_ENTRY
    steps: tuple[tuple[Any, ...], ...] = ()


class Runner:
    """Runs the stages; `Net` is its public face. Nothing here takes the lock."""

    def __init__(
        self,
        compiled: Sequence[Compiled],
        stages: Sequence[Stage],
        exits: Sequence[Exit],
        *,
        inputs: Sequence[Tensor],
        classes: int,
        logits: bool,
        devices: Sequence[str],
        point: OperatingPoint | None,
        first_exit: int,
        table_rows: Mapping[str, int],
        joined: Mapping[Span, Compiled],
        sources: Sequence[Source] | None,
    ) -> None:
        self.exits = tuple(exit_.name for exit_ in exits)
        self.inputs = tuple(tensor.name for tensor in inputs)
        where = devices or (None,) * len(stages)
        self._links = link_stages(compiled, stages, exits, classes, logits, where, sources)
        self._eager = next((k for k, stage in enumerate(compiled) if _comes_and_goes(stage)), len(compiled))
        self._joined = link_joined(self._links, joined)
        self._where = [link.where for link in self._links]
        self._why_closed = CLOSED
        self._stages = list(stages)
        self._inputs = tuple(inputs)
        self._rows = [table_rows.get(name) for name in self.inputs]
        self._first_exit = first_exit
        self._live = live_after(stages)
        self._classes, self._logits = classes, logits
        heads = [Tensor(name=e.score, dtype="float32", shape=(None,)) for e in exits]
        heads += [Tensor(name=e.label, dtype="int64", shape=(None,)) for e in exits if e.label]
        self._heads = heads
        self._batches = all(stage.batches for stage in compiled)
        self._together = None if self._batches else False
        self._named = not all(tensor.is_sized for tensor in inputs)
        self._setup = Setup((NEVER,) * (len(exits) - 1) if point is None else point.thresholds, point)
        self._take_memory()

    @property
    def joins_stages(self) -> bool:
        """True if some stages run as one, because the exits between them are never taken."""
        return 0 < len(self._setup.steps) < len(self.exits)

    @property
    def runs_together(self) -> bool:
        """True if `Net.batch` has found it faster to run samples together than alone."""
        return self._together is True

    @property
    def lazy_stages(self) -> tuple[LazyStage, ...]:
        """The stages that come and go, each once; joined ones, too."""
        compiled = [link.compiled for link in (*self._links, *self._joined.values())]
        return tuple(dict.fromkeys(stage for stage in compiled if _comes_and_goes(stage)))

    def _take_memory(self) -> None:
        """Start with new memory. A network with named axes gets its memory with the first sample."""
        self._memories: dict[tuple[tuple[int, ...], ...], Memory] = {}
        self._setup = Setup(self._setup.thresholds, self._setup.point)
        if not self._named:
            self._turn_to([np.empty(tensor.at(1), tensor.dtype) for tensor in self._inputs])

    def _change(self, **changes: Any) -> Setup:
        """Replace fields of the setup, and all that follows from them; return the new one."""
        while True:
            before = self._setup
            after = self._tie(replace(before, **changes))
            if self._setup is before:  # else a signal handler has changed it meanwhile, and is not to be overruled
                self._setup = after
                return after

    def _tie(self, setup: Setup) -> Setup:
        """Return a setup with entry and steps that fit its memory and thresholds."""
        memory = setup.memory
        if memory is not None:
            ends, steps, at = (*setup.thresholds, 0.0), [], 0
            while at < len(ends):  # as many stages at once as are joined and end at exits that are never taken
                unused = [k for k in range(at, len(ends)) if (at, k) in memory.joined and min(ends[at:k]) >= NEVER]
                last = max(unused, default=at)
                head = memory.joined[at, last] if unused else memory.heads[at]
                if isinstance(head[0], LazyRun) and head[0].stays:
                    head = (head[0].run or head[0].open(), *head[1:])
                steps.append((self._first_exit + last, *head, ends[last]))
                at = last + 1
            entry = NO_ENTRY
            if self._rows == [None]:
                entry = *memory.places[0], memory.single.inputs[0], *memory.single.marks[0]
            setup = replace(setup, steps=tuple(steps), entry=entry)
        return setup

    def _close(self, reason: str) -> None:
        """Let go of stages and memory; calls are refused with the reason."""
        self._why_closed, setup = reason, self._setup
        self._setup = Setup(setup.thresholds, setup.point, steps=((),) * len(setup.steps))  # statistics count them
        self._links, self._memories, self._joined = [], {}, {}

    def _check_open(self) -> None:
        if not self._links:
            raise UsageError(self._why_closed)

    def _put(self, x: Any, row: int | None = None) -> Setup:
        """Copy a sample into the inputs' memory; return the setup with that memory. `row` is its number in a batch."""
        setup = self._setup
        memory = setup.memory
        if memory is not None and _copy_arrays(x, self.inputs, memory.places):
            self._check_values(memory.single, row)
            return setup
        self._check_open()
        parts = split_inputs(x, self._inputs)
        if memory is None or not all(
            part.shape in views for part, (views, _) in zip(parts, memory.places, strict=False)
        ):
            setup = self._turn_to(prepare_single(parts, self._inputs), row)
            memory = setup.memory
        assert memory is not None
        for part, place, tensor in zip(parts, memory.single.inputs, self._inputs, strict=True):
            fill_input(place, part, tensor)
        self._check_values(memory.single, row)
        return setup

    def _check_values(self, bound: Bound, first: int | None) -> None:
        """Refuse samples in memory that hold NaN, infinity or an index beyond its table.

        `first` is the number of the first of them in its batch; None for a sample alone.
        """
        for place, (flags, marks), rows in zip(bound.inputs, bound.marks, self._rows, strict=True):
            if marks is not None:
                np.isfinite(place, flags)
                if 0 in marks:
                    refuse_infinite(bound.inputs, self._inputs, first)
            elif (
                rows is not None
                and place.size
                and not -rows <= int(least(place, None)) <= int(most(place, None)) < rows
            ):
                refuse_indices(bound.inputs, self._inputs, self._rows, first)

    def _turn_to(self, singles: Sequence[np.ndarray], row: int | None = None) -> Setup:
        """Use the memory for samples of these shapes. For new shapes it is made, and named axes inside the network are learnt.

        `singles` are the sample that is run for that; `row` is its number in a batch.
        """
        key = tuple(single.shape for single in singles)
        memory = self._memories.pop(key, None)
        if memory is None:
            others = [tensor for stage in self._stages for tensor in stage.outputs]
            others += [tensor for link in self._links for tensor in link.parts.values()]
            if self._named:
                refuse_infinite(singles, self._inputs, row)
                refuse_indices(singles, self._inputs, self._rows, row)
                others = self._learn_shapes(dict(zip(self.inputs, singles, strict=True)))
            inputs = [resize(tensor, shape) for tensor, shape in zip(self._inputs, key, strict=True)]
            memory = self._make_memory(inputs, [*others, *self._heads])
        self._memories[key] = memory  # the last in the dictionary was used last
        if len(self._memories) > MOST_LENGTHS:
            del self._memories[next(iter(self._memories))]
        setup = self._setup
        return setup if memory is setup.memory else self._change(memory=memory)

    def _learn_shapes(self, inputs: dict[str, np.ndarray]) -> list[Tensor]:
        return learn_shapes(self._links, self._stages, inputs)

    def _make_memory(self, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> Memory:
        return Memory(self._links, inputs, others, self._joined)

    def _explain(self, error: Exception, k: int, bound: Bound) -> NoReturn:
        """Raise the error for samples that stage k cannot run."""
        raise_explained(
            error,
            self._where[k],
            samples=len(bound.steps[k][1]),
            has_lengths=self._named,
            try_zeros=partial(bound.runs_zeros, k),
        )

    def _run_stage(self, run: Run, k: int, bound: Bound) -> None:
        try:
            run()
        except Exception as error:
            self._explain(error, k, bound)

    def _check_batch(self, x: Any) -> tuple[Samples, Memory]:
        """Return the samples with the batch axis first, and the memory for their shapes."""
        self._check_open()
        samples = check_samples(x, self._inputs)
        parts = zip(samples.arrays, self._inputs, strict=True)
        with np.errstate(over="ignore"):
            memory = self._turn_to(
                [np.ascontiguousarray(np.moveaxis(a[:1], 0, t.batch_axis or 0), t.dtype) for a, t in parts], 0
            ).memory
        assert memory is not None
        return samples, memory

    def _fill(self, bound: Bound, samples: Samples, first: int) -> None:
        """Copy samples into memory; `first` is the number of the first of them in its batch."""
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which is refused
            for tensor, place, array in zip(self._inputs, bound.inputs, samples.arrays, strict=True):
                place[...] = np.moveaxis(array, 0, tensor.batch_axis or 0)
        self._check_values(bound, first)

    def run_every_exit(self, x: Any, *, size: int, refuses_nan: bool = True) -> EveryExit:
        """Run samples as `Net.every_exit` does, whatever their labels and scores; a score that is NaN may be refused."""
        samples, memory = self._check_batch(x)
        size = size if self._batches else 1
        n, exits = len(samples), len(self.exits)
        label, score = np.empty((n, exits), np.int64), np.empty((n, exits), np.float32)
        kept = [make_room(n, [parts]) for *_, parts in memory.single.steps]
        if logits := self._logits and self._classes > 0:
            stacked = np.empty((n, exits, self._classes), np.float32)
            kept = [{"logits": stacked[:, k]} for k in range(exits)]
        for first in range(0, n, size):
            part = samples[first : first + size]
            bound = memory.single if len(part) == 1 else memory.at(len(part), 0)
            self._fill(bound, part, first)
            for k, (run, scores, labels, values) in enumerate(bound.steps):
                self._run_stage(run, k, bound)
                label[first : first + size, k], score[first : first + size, k] = labels, scores
                for name, place in (kept[k] or {}).items():
                    place[first : first + size] = values[name]  # type: ignore[index]
        parts = None if self._classes else tuple(room or {} for room in kept)
        answers = EveryExit(label, score, stacked if logits else None, parts)
        if refuses_nan:
            self._check_every(answers, ~np.isnan(score))
        return answers

    def _check_every(self, answers: EveryExit, is_right: np.ndarray) -> None:
        """Refuse the first answer that is not right; `is_right` is (samples, exits)."""
        check_answers(is_right, answers.label, answers.score, self._classes, lambda index: self._where[index[1]])

    def _check_taken(self, label: np.ndarray, score: np.ndarray, exit_: np.ndarray) -> None:
        """Refuse the first answer of a batch that the exit where its sample left cannot give."""

        def where(index: tuple[int, ...]) -> Where:
            return self._where[int(exit_[index[0]]) - self._first_exit]

        check_answers(are_answers(label, score, self._classes), label, score, self._classes, where)

    def _is_faster_together(self, memory: Memory, samples: Samples, into: Answers, first: int) -> bool:
        """Run a chunk both ways. Together wins unless it takes 5 % longer, which is more than a machine's noise."""
        start = perf_counter_ns()
        self._run_alone(samples, into, first)
        middle = perf_counter_ns()
        self._run_together(memory, samples, into, first)
        return perf_counter_ns() - middle < 1.05 * (middle - start)

    def _run_alone(self, samples: Samples, into: Answers, first: int) -> None:
        """Run each sample of a chunk through the chain by itself; `first` is the number of its first sample in the batch."""
        label, score, exit_, room = into
        for i, sample in enumerate(samples):
            setup = self._put(sample, first + i)
            k = self._first_exit
            try:
                for k, run, sure, best, values, threshold in setup.steps:
                    run()
                    if sure[0] >= threshold:
                        break
            except Exception as error:
                assert setup.memory is not None
                self._explain(error, k - self._first_exit, setup.memory.single)
            label[i], score[i], exit_[i] = best[0], sure[0], k
            if room is not None:
                put_one(room, i, values)

    def _run_together(self, memory: Memory, samples: Samples, into: Answers, first: int) -> None:
        """Run one chunk. Samples that leave at an exit are written into the given arrays and dropped from later stages."""
        label, score, exit_, room = into
        rows, side = np.arange(len(samples)), 0
        bound = memory.at(len(samples), side)
        self._fill(bound, samples, first)
        for k, threshold in enumerate((*self._setup.thresholds, 0.0)):
            run, scores, labels, values = bound.steps[k]
            self._run_stage(run, k, bound)
            stay = ~(scores >= threshold)
            if k == len(self.exits) - 1:
                stay[:] = False
            leaving = rows[~stay]
            label[leaving], score[leaving], exit_[leaving] = labels[~stay], scores[~stay], self._first_exit + k
            if room is not None and values is not None:
                put_rows(room, leaving, values, ~stay)
            if not stay.any():
                return
            if len(leaving):
                rows, side = rows[stay], 1 - side
                smaller = memory.at(len(rows), side)
                for tensor in self._live[k]:
                    keep_rows(bound.views[tensor.name], smaller.views[tensor.name], stay, tensor.batch_axis)
                bound = smaller


def _comes_and_goes(stage: Compiled) -> "TypeGuard[LazyStage]":
    return isinstance(stage, LazyStage) and not isinstance(stage, DeferredStage)


def _copy_arrays(x: Any, names: Sequence[str], places: Sequence[Place]) -> bool:
    """Copy a sample of arrays into the inputs' memory if their shapes and dtypes are the network's; return whether they are.

    Most samples of several inputs are; whatever else programs pass takes ten times as long to be understood.
    """
    kind = x.__class__
    parts = x if kind is tuple or kind is list else tuple(map(x.get, names)) if kind is dict else (x,)
    if len(parts) != len(places) or (kind is dict and len(x) != len(places)):
        return False
    for part, (views, dtype) in zip(parts, places, strict=True):
        if part.__class__ is not np.ndarray or part.dtype is not dtype or (view := views.get(part.shape)) is None:
            return False
        view[...] = part
    return True
