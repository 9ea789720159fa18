"""The chain: stages run one after the other until an exit is sure enough."""

from collections.abc import Sequence
from time import perf_counter_ns
from types import TracebackType
from typing import Any

import numpy as np
from msgspec import Struct

from ..errors import DataError, UsageError
from ..schema import NEVER, Exit, OperatingPoint, Stage, Tensor
from .buffers import Buffers, batch_axis, shape_at
from .checks import check_range
from .engines import Arrays, Compiled, Run

CHUNK = 16
"""The most samples that `Net.batch` sends through a stage at once; bounds its memory."""


CLOSED = "The network is closed. Load it again."


class Result(Struct, frozen=True, gc=False):
    """What the network says of one sample.

    Attributes:
        label: index of the class.
        score: how sure the exit is, 0 to 1.
        exit: where the sample left, from 0.
        latency_s: time from the call to the result.
        logits: float array (classes,) of that exit, if the network was loaded with `logits=True`.
    """

    label: int
    score: float
    exit: int
    latency_s: float
    logits: np.ndarray | None = None


class BatchResult(Struct, frozen=True):
    """What the network says of many samples: `label` int64 (N,), `score` float32 (N,), `exit` int64 (N,).

    `latency_s` is the time of the whole batch. `logits` as in `Result`, (N, classes).
    """

    label: np.ndarray
    score: np.ndarray
    exit: np.ndarray
    latency_s: float
    logits: np.ndarray | None = None


class EveryExit(Struct, frozen=True):
    """What every exit says of every sample: `label` int64 (N, exits), `score` float32 (N, exits), `logits` (N, exits, C)."""

    label: np.ndarray
    score: np.ndarray
    logits: np.ndarray | None = None


class _Bound(Struct):
    """The whole chain tied to memory for one batch size; `steps[k]` is (run, score, label, logits) of stage k."""

    views: dict[str, np.ndarray]
    steps: list[tuple[Run, Any, Any, Any]]


class Net:
    """A loaded network. Made by `load`; serves one thread at a time.

    Attributes:
        exits: the names of the exits, first to last.
        point: the operating point in use, or None when the network runs to its last exit.
    """

    def __init__(
        self,
        compiled: Sequence[Compiled],
        stages: Sequence[Stage],
        exits: Sequence[Exit],
        *,
        inputs: Tensor,
        classes: int,
        logits: bool,
        point: OperatingPoint | None = None,
    ) -> None:
        self.exits = tuple(exit_.name for exit_ in exits)
        self.point = point
        self._compiled = list(compiled)
        self._stages = list(stages)
        self._outputs = list(exits)
        self._logits = logits
        self._input = inputs
        self._live = _live_after(stages)
        heads = [Tensor(name=e.score, dtype="float32", shape=(None,)) for e in exits]
        heads += [Tensor(name=e.label, dtype="int64", shape=(None,)) for e in exits]
        heads += [Tensor(name=e.logits, dtype="float32", shape=(None, classes)) for e in exits if logits]
        boundaries = [tensor for stage in stages for tensor in stage.outputs]
        self._tensors = list({tensor.name: tensor for tensor in [inputs, *boundaries, *heads]}.values())
        single = self._bind(Buffers(self._tensors, batch=1), 1)
        self._single = single
        self._place = single.views[inputs.name]
        self._shapes = (shape_at(inputs, 1), tuple(axis for axis in inputs.shape if axis is not None))
        # A sample's class and score are read through memory views: half the time of indexing an array.
        self._heads: Any = [
            (run, memoryview(score), memoryview(label), values[0] if values is not None else None)
            for run, score, label, values in single.steps
        ]
        self._sides: list[Buffers] = []
        self._bound: dict[tuple[int, int], _Bound] = {}
        self.thresholds = point.thresholds if point else (NEVER,) * (len(exits) - 1)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One threshold for each exit but the last, which always accepts. 2.0 means never; set it to change all at once."""
        return self._thresholds

    @thresholds.setter
    def thresholds(self, values: Sequence[float]) -> None:
        if not self._compiled:
            raise UsageError(CLOSED)
        if len(values) != len(self.exits) - 1:
            raise UsageError(f"{len(self.exits)} exits take {len(self.exits) - 1} thresholds, not {len(values)}.")
        if not all(0 <= value <= NEVER for value in values):
            raise UsageError(f"Thresholds lie between 0 and 2.0 (never), not {list(values)}.")
        self._thresholds = tuple(float(np.float32(value)) for value in values)
        self._steps = tuple(
            (k, *head, threshold)
            for k, (head, threshold) in enumerate(zip(self._heads, (*self._thresholds, 0.0), strict=True))
        )

    def __call__(self, x: np.ndarray) -> Result:
        """Run one sample.

        Args:
            x: the sample, with or without its batch axis of 1, of the network's dtype (other floats are converted).

        Raises:
            DataError: `x` has another shape or kind of dtype, or the network's answer is not a number.
            UsageError: the network is closed.
        """
        start = perf_counter_ns()
        self._put(x)
        for k, run, score, label, logits, threshold in self._steps:
            run()
            sure = score[0]
            if sure >= threshold:
                break
        if sure != sure:
            raise _not_a_number(0)
        if logits is not None:
            logits = logits.copy()
        return Result(label[0], sure, k, (perf_counter_ns() - start) * 1e-9, logits)

    def batch(self, x: np.ndarray) -> BatchResult:
        """Run many samples; those that leave at an exit are dropped from the rest of the chain.

        Args:
            x: (N, ...), the batch on the input's batch axis, of the network's dtype.

        Raises:
            DataError: `x` has another shape or kind of dtype, holds no sample, or an answer is not a number.
        """
        start = perf_counter_ns()
        x = self._check_batch(x)
        n = x.shape[0]
        label, exit_ = np.empty(n, np.int64), np.empty(n, np.int64)
        score = np.empty(n, np.float32)
        logits = (
            np.empty((n, *self._single.views[self._outputs[0].logits].shape[1:]), np.float32) if self._logits else None
        )
        for first in range(0, n, CHUNK):
            part = slice(first, first + CHUNK)
            self._leave(x[part], label[part], score[part], exit_[part], None if logits is None else logits[part])
        _refuse_nan(score)
        return BatchResult(label, score, exit_, (perf_counter_ns() - start) * 1e-9, logits)

    def every_exit(self, x: np.ndarray, *, size: int = 1) -> EveryExit:
        """Run many samples through every exit, whatever the thresholds.

        Args:
            x: as for `batch`.
            size: how many samples go through a stage at once, up to `CHUNK`; at 1 the numbers are those that `net(x)` sees.

        Raises:
            DataError: as for `batch`.
            UsageError: `size` is out of range, or the network is closed.
        """
        if not 1 <= size <= CHUNK:
            raise UsageError(f"size is from 1 to {CHUNK}, not {size}.")
        x = self._check_batch(x)
        n, exits = x.shape[0], len(self.exits)
        label, score = np.empty((n, exits), np.int64), np.empty((n, exits), np.float32)
        classes = self._single.views[self._outputs[0].logits].shape[1:] if self._logits else ()
        logits = np.empty((n, exits, *classes), np.float32) if self._logits else None
        for first in range(0, n, size):
            part = x[first : first + size]
            bound = self._single if len(part) == 1 else self._bound_at(len(part), 0)
            _fill(bound.views[self._input.name], part, batch_axis(self._input))
            for k, (run, scores, labels, values) in enumerate(bound.steps):
                run()
                label[first : first + size, k], score[first : first + size, k] = labels, scores
                if logits is not None:
                    logits[first : first + size, k] = values
        _refuse_nan(score)
        return EveryExit(label, score, logits)

    def close(self) -> None:
        """Let go of the engine's memory; the network cannot be called afterwards."""
        self._steps = ((0, _closed, [0.0], [0], None, 0.0),)
        self._heads = []
        self._compiled.clear()
        self._bound.clear()
        self._sides.clear()
        self._single.steps.clear()

    def __enter__(self) -> "Net":
        """Return the network itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the network."""
        self.close()

    def _put(self, x: np.ndarray) -> None:
        if not isinstance(x, np.ndarray):
            x = np.asarray(x)
        if x.shape not in self._shapes:
            raise DataError(
                f"The network takes a sample of shape {self._shapes[1]} (or {self._shapes[0]}), not {x.shape}."
            )
        if x.dtype != self._place.dtype:
            self._check_kind(x)
        self._place[...] = x.reshape(self._shapes[0])

    def _check_batch(self, x: np.ndarray) -> np.ndarray:
        """Return the samples with the batch axis first."""
        if not self._compiled:
            raise UsageError(CLOSED)
        x = np.asarray(x)
        sample, axis = self._shapes[1], batch_axis(self._input) or 0
        if x.ndim != len(sample) + 1 or x.shape[:axis] + x.shape[axis + 1 :] != sample:
            raise DataError(f"The network takes samples of shape {sample} behind a batch axis {axis}, not {x.shape}.")
        if x.shape[axis] == 0:
            raise DataError("There are no samples: the batch axis is 0 long.")
        self._check_kind(x)
        return np.moveaxis(x, axis, 0)

    def _check_kind(self, x: np.ndarray) -> None:
        if x.dtype.kind != self._place.dtype.kind:
            raise DataError(
                f"The network takes {self._place.dtype}, not {x.dtype}. "
                "Prepare samples as in training (scale, normalise) before they are passed."
            )
        check_range(x, self._place.dtype)

    def _bind(self, buffers: Buffers, batch: int) -> _Bound:
        views = buffers.views(batch)
        steps = []
        for compiled, stage, exit_ in zip(self._compiled, self._stages, self._outputs, strict=True):
            head = [exit_.score, exit_.label, *([exit_.logits] if self._logits else [])]
            inputs: Arrays = {tensor.name: views[tensor.name] for tensor in stage.inputs}
            outputs = {name: views[name] for name in [*(tensor.name for tensor in stage.outputs), *head]}
            run = compiled.bind(inputs, outputs)
            steps.append((run, views[exit_.score], views[exit_.label], views[exit_.logits] if self._logits else None))
        return _Bound(views, steps)

    def _bound_at(self, batch: int, side: int) -> _Bound:
        """Return the chain tied to one of two memories, so that a batch can be compacted from one into the other."""
        if not self._sides:
            self._sides = [Buffers(self._tensors, batch=CHUNK) for _ in range(2)]
        if (batch, side) not in self._bound:
            self._bound[batch, side] = self._bind(self._sides[side], batch)
        return self._bound[batch, side]

    def _leave(
        self, x: np.ndarray, label: np.ndarray, score: np.ndarray, exit_: np.ndarray, logits: np.ndarray | None
    ) -> None:
        """Run one chunk, batch axis first, and write each sample's answer into the given arrays."""
        rows, side = np.arange(len(x)), 0
        bound = self._bound_at(len(x), side)
        _fill(bound.views[self._input.name], x, batch_axis(self._input))
        for k, threshold in enumerate((*self._thresholds, 0.0)):
            run, scores, labels, values = bound.steps[k]
            run()
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
                smaller = self._bound_at(len(rows), side)
                for tensor in self._live[k]:
                    _keep(bound.views[tensor.name], smaller.views[tensor.name], stay, batch_axis(tensor))
                bound = smaller


def _closed() -> None:
    raise UsageError(CLOSED)


def _live_after(stages: Sequence[Stage]) -> list[list[Tensor]]:
    """For each stage, the tensors that later stages still read."""
    live: list[list[Tensor]] = []
    for k in range(len(stages)):
        later = {tensor.name: tensor for stage in stages[k + 1 :] for tensor in stage.inputs}
        made = {tensor.name for stage in stages[k + 1 :] for tensor in stage.outputs}
        live.append([tensor for name, tensor in later.items() if name not in made])
    return live


def _fill(place: np.ndarray, x: np.ndarray, axis: int | None) -> None:
    place[...] = np.moveaxis(x, 0, axis or 0)


def _keep(source: np.ndarray, place: np.ndarray, stay: np.ndarray, axis: int | None) -> None:
    if axis is None:
        place[...] = source
    else:
        # mode='clip' spares the bounds check, a third of the time
        source.take(np.flatnonzero(stay), axis, place, "clip")


def _refuse_nan(score: np.ndarray) -> None:
    wrong = np.isnan(score)
    if wrong.any():
        raise _not_a_number(int(np.argwhere(wrong)[0][0]))


def _not_a_number(row: int) -> DataError:
    return DataError(f"The network's answer to sample {row} is not a number: the input holds NaN or infinity.")
