"""The stages of a chain tied to memory for the samples at hand, and how one sample or a batch goes through them."""

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from ...bundle import Exit, Stage, Tensor
from ...bundle.manifest import NEVER
from ...errors import UsageError
from ..engines import Compiled
from .checks import CLOSED, raise_explained, refuse_nan, run_stage
from .memory import Bound, Memory, keep_rows, learn_shapes, link_stages, live_after, resize
from .results import EveryExit
from .samples import Samples, check_samples, fill_input, prepare_single, split_inputs

__all__ = ["Answers", "Runner"]

MOST_LENGTHS = 8
"""A network with named axes keeps memory for so many sizes. The size that was not used for longest goes first."""

Answers = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
"""Arrays to be filled for a chunk of samples: labels, scores, exits and, if wanted, logits."""


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
        thresholds: Sequence[float] | None,
    ) -> None:
        self.exits = tuple(exit_.name for exit_ in exits)
        self.inputs = tuple(tensor.name for tensor in inputs)
        self._links = link_stages(compiled, stages, exits, logits, devices or (None,) * len(stages))
        self._where = [link.where for link in self._links]
        self._stages = list(stages)
        self._inputs = tuple(inputs)
        self._live = live_after(stages)
        self._classes = classes if logits else None
        heads = [Tensor(name=e.score, dtype="float32", shape=(None,)) for e in exits]
        heads += [Tensor(name=e.label, dtype="int64", shape=(None,)) for e in exits]
        heads += [Tensor(name=e.logits, dtype="float32", shape=(None, classes)) for e in exits if logits]
        self._heads = heads
        self._thresholds = (NEVER,) * (len(exits) - 1) if thresholds is None else tuple(thresholds)
        self._batches = all(stage.batches for stage in compiled)
        self._together = None if self._batches else False
        self._named = not all(tensor.is_sized for tensor in inputs)
        self._take_memory()

    def _take_memory(self) -> None:
        """Start with new memory. A network with named axes gets its memory with the first sample."""
        self._memories: dict[tuple[tuple[int, ...], ...], Memory] = {}
        self._memory: Memory | None = None
        self._places: list[tuple[np.ndarray, tuple[Any, ...]]] = []
        # For a network with one input: a sample of such a shape is copied in without any other check.
        self._alone: tuple[Any, ...] = ()
        self._steps: tuple[tuple[Any, ...], ...] = ()
        if not self._named:
            self._turn_to([np.empty(tensor.at(1), tensor.dtype) for tensor in self._inputs])

    def _set_steps(self) -> None:
        """Join the memory in use and the thresholds to what the loop over the stages reads."""
        if self._memory is not None:
            ends = (*self._thresholds, 0.0)
            self._steps = tuple((k, *h, t) for k, (h, t) in enumerate(zip(self._memory.heads, ends, strict=True)))

    def _check_open(self) -> None:
        if not self._links:
            raise UsageError(CLOSED)

    def _put(self, x: Any) -> None:
        """Copy a sample into the inputs' memory."""
        parts = split_inputs(x, self._inputs)
        if not self._fits(parts):
            self._check_open()
            self._turn_to(prepare_single(parts, self._inputs))
        for part, (place, _), tensor in zip(parts, self._places, self._inputs, strict=True):
            fill_input(place, part, tensor)

    def _fits(self, parts: Sequence[np.ndarray]) -> bool:
        """Return True if the memory in use is for samples of these shapes."""
        pairs = zip(parts, self._places, strict=False)
        return bool(self._places) and all(part.shape in shapes for part, (_, shapes) in pairs)

    def _turn_to(self, singles: Sequence[np.ndarray]) -> None:
        """Use the memory for samples of these shapes. For new shapes it is made, and named axes inside the network are learnt."""
        key = tuple(single.shape for single in singles)
        memory = self._memories.pop(key, None)
        if memory is None:
            boundaries = [tensor for stage in self._stages for tensor in stage.outputs]
            if self._named:
                boundaries = learn_shapes(self._links, self._stages, dict(zip(self.inputs, singles, strict=True)))
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
                run_stage(run, self._where[k])
                label[first : first + size, k], score[first : first + size, k] = labels, scores
                if logits is not None:
                    logits[first : first + size, k] = values
        refuse_nan(score)
        return EveryExit(label, score, logits)

    def _is_faster_together(self, memory: Memory, samples: Samples, into: Answers) -> bool:
        """Run a chunk both ways. Together wins unless it takes 5 % longer, which is more than a machine's noise."""
        start = perf_counter_ns()
        self._run_alone(samples, into)
        middle = perf_counter_ns()
        self._run_together(memory, samples, into)
        return perf_counter_ns() - middle < 1.05 * (middle - start)

    def _run_alone(self, samples: Samples, into: Answers) -> None:
        """Run each sample of a chunk through the chain by itself."""
        label, score, exit_, logits = into
        for i, sample in enumerate(samples):
            self._put(sample)
            try:
                for k, run, sure, best, values, threshold in self._steps:
                    run()
                    if sure[0] >= threshold:
                        break
            except Exception as error:
                raise_explained(error, self._where[k])
            label[i], score[i], exit_[i] = best[0], sure[0], k
            if logits is not None:
                logits[i] = values

    def _run_together(self, memory: Memory, samples: Samples, into: Answers) -> None:
        """Run one chunk. Samples that leave at an exit are written into the given arrays and dropped from later stages."""
        label, score, exit_, logits = into
        rows, side = np.arange(len(samples)), 0
        bound = memory.at(len(samples), side)
        self._fill(bound, samples)
        for k, threshold in enumerate((*self._thresholds, 0.0)):
            run, scores, labels, values = bound.steps[k]
            run_stage(run, self._where[k])
            stay = ~(scores >= threshold)
            if k == len(self.exits) - 1:
                stay[:] = False
            leaving = rows[~stay]
            label[leaving], score[leaving], exit_[leaving] = labels[~stay], scores[~stay], k
            if logits is not None and values is not None:
                logits[leaving] = values[~stay]
            if not stay.any():
                return
            if len(leaving):
                rows, side = rows[stay], 1 - side
                smaller = memory.at(len(rows), side)
                for tensor in self._live[k]:
                    keep_rows(bound.views[tensor.name], smaller.views[tensor.name], stay, tensor.batch_axis)
                bound = smaller
