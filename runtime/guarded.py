"""A network that answers in spite of faults: with an earlier exit, or on the fallback device. Such answers are marked."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from numbers import Real
from time import perf_counter_ns
from typing import Any, NoReturn

import numpy as np
from msgspec.structs import replace

from ..bundle import Tensor
from .chain.checked_runs import GuardedMemory
from .chain.faults import Guard, StageFault
from .chain.lazy import LazyStage
from .chain.memory import Bound, Memory
from .chain.net import Net
from .chain.parts import copy_parts
from .chain.results import BatchResult, EveryExit, Result
from .chain.runner import NO_ENTRY, Setup
from .chain.samples import Samples, check_samples
from .chain.stats import Stats
from .request import LoadOptions, NetworkParts

__all__ = ["GuardedNet", "make_guard"]

LEAST_LEFT_S = 1e-9
"""What a call has left whose deadline has passed: the fallback device's first exit answers, and is late."""


class GuardedNet(Net):
    """A network whose stages are watched; made by `load(..., on_fault=..., stage_limit_s=...)`.

    Args:
        guard: what it shares with its clones.
        arguments, options: as for `Net`.
    """

    passes_over_faults = True
    """An audit leaves out inputs whose comparison fails."""

    _stand_in: Net | None = None
    """What answers on the fallback device; None until it is needed, and once the first devices are back."""

    def __init__(self, *arguments: Any, guard: Guard, **options: Any) -> None:
        self._guard = guard
        super().__init__(*arguments, **options)

    def __copy__(self) -> "GuardedNet":
        other = super().__copy__()
        assert isinstance(other, GuardedNet)
        other._stand_in = None
        return other

    def __call__(self, x: Any, deadline_s: float | None = None) -> Result:
        """Run one sample, as `Net` does; with `Result.fault` where something failed."""
        start, guard = perf_counter_ns(), self._guard
        if self._lock._is_owned():  # a call within a call is the inner network's, with its faults
            return super().__call__(x, deadline_s)
        if words := guard.standing_in():
            return self._answer_elsewhere(x, deadline_s, start, words)
        try:
            result = super().__call__(x, deadline_s)
        except StageFault as fault:
            guard.note(fault)
            if fault.answer is not None:
                late = deadline_s is not None and perf_counter_ns() - start > deadline_s * 1e9
                return self._mark(fault.answer, start, fault.words, late=late)
            if guard.on_fault != "fallback":
                self._raise(fault)
            words = fault.words
        else:
            if not result.reused:  # else no later stage has run
                self._note_run(result.exit)
            return result
        result = self._answer_elsewhere(x, deadline_s, start, words)
        guard.pause()  # if it cannot run there either, the sample is to blame
        return result

    def anytime(self, x: Any) -> Generator[Result, None, None]:
        """Run one sample through every exit, as `Net.anytime` does.

        After a fault the last answer comes once more, marked, or those of the later exits come from the fallback device.
        """
        start, guard = perf_counter_ns(), self._guard
        if self._lock._is_owned():
            yield from super().anytime(x)
            return
        last, words = None, guard.standing_in()
        if not words:
            try:
                with closing(super().anytime(x)) as answers:
                    for last in answers:
                        yield last
                if last is not None:
                    self._note_run(last.exit)
                return
            except StageFault as fault:
                guard.note(fault)
                if guard.on_fault == "raise" or (guard.on_fault == "last_exit" and last is None):
                    self._raise(fault)
                words = fault.words
            if guard.on_fault == "last_exit":
                assert last is not None
                guard.count("marked")
                yield replace(last, latency_s=(perf_counter_ns() - start) * 1e-9, fault=words)
                return
        yield from self._continue_elsewhere(x, last, start, words)

    def batch(self, x: Any) -> BatchResult:
        """Run many samples, as `Net.batch` does; one by one after a fault, so that one that fails spoils no other."""
        start, guard = perf_counter_ns(), self._guard
        if self._lock._is_owned():
            return super().batch(x)
        if not guard.standing_in():
            try:
                result = super().batch(x)
            except StageFault as fault:
                guard.note(fault)
                if guard.on_fault == "raise":
                    self._raise(fault)
            else:
                self._note_run(int(result.exit.max()))
                return result
        results = [self(sample) for sample in check_samples(x, self._inputs)]
        return self._gather(results, start)

    def run_every_exit(self, x: Any, *, size: int, refuses_nan: bool = True) -> EveryExit:
        """Run samples as `Net.every_exit` does. A fault is raised, since no other exit can answer."""
        try:
            return super().run_every_exit(x, size=size, refuses_nan=refuses_nan)
        except StageFault as fault:
            self._guard.note(fault)
            self._raise(fault)

    def stats(self, *, reset: bool = False) -> Stats:
        """Return what `Net.stats` does, with what has failed."""
        stats = replace(super().stats(reset=reset), faults=self._guard.counts())
        if reset:
            self._guard.reset()
        return stats

    def close(self) -> None:
        """Let go of the engine's memory, as `Net.close` does."""
        super().close()
        self._stand_in = None

    def _put(self, x: Any, row: int | None = None) -> Setup:
        self._leave_memory()
        return super()._put(x, row)

    def _check_batch(self, x: Any) -> tuple[Samples, Memory]:
        self._leave_memory()
        return super()._check_batch(x)

    def _tie(self, setup: Setup) -> Setup:
        """Tie as `Net` does, without a way into the memory that does not lead through `_put`."""
        return replace(super()._tie(setup), entry=NO_ENTRY)

    def _leave_memory(self) -> None:
        """Take new memory if a run that hangs may still write into the old one."""
        if any(memory.left for memory in self._memories.values() if isinstance(memory, GuardedMemory)):
            self._take_memory()

    def _note_run(self, exit_: int) -> None:
        """Note that the first devices have run a sample up to an exit."""
        guard = self._guard
        if guard.away is not None:
            guard.note_run(exit_ - self._first_exit)
        if guard.away is None:
            self._stand_in = None

    def _answer_elsewhere(self, x: Any, deadline_s: float | None, start: int, words: str) -> Result:
        """Run one sample on the fallback device."""
        stand_in = self._take_stand_in()
        if isinstance(deadline_s, Real) and deadline_s > 0:
            deadline_s = max(LEAST_LEFT_S, float(deadline_s) - (perf_counter_ns() - start) * 1e-9)
        return self._mark(stand_in(x, deadline_s), start, words)

    def _continue_elsewhere(self, x: Any, last: Result | None, start: int, words: str) -> Generator[Result, None, None]:
        """Yield the answers of the exits behind the last one on the fallback device."""
        tally, result = self._tally, last
        try:
            with closing(self._take_stand_in().anytime(x)) as answers:
                for answer in answers:
                    if last is None or answer.exit > last.exit:
                        if result is last:
                            self._guard.count("marked")
                            self._guard.pause()
                        result = replace(answer, latency_s=(perf_counter_ns() - start) * 1e-9, fault=words)
                        yield result
        finally:
            if result is not None and result is not last:
                with self._lock:
                    tally.counts[result.exit] += 1
                    if last is None:
                        tally.untimed += 1
                    else:  # the call has been counted there
                        tally.counts[last.exit] -= 1

    def _take_stand_in(self) -> Net:
        """Return the network on the fallback device, set as this one is."""
        self._check_open()
        stand_in = self._stand_in
        if stand_in is None:
            stand_in = self._stand_in = self._guard.open_stand_in()
        stand_in.stops_stages = self.stops_stages
        if stand_in.thresholds != self.thresholds:
            stand_in.thresholds = self.thresholds
        return stand_in

    def _mark(self, result: Result, start: int, words: str, *, late: bool = False) -> Result:
        """Return an answer with its mark and its latency, and count it."""
        spent, tally = perf_counter_ns() - start, self._tally
        result = replace(result, latency_s=spent * 1e-9, late=result.late or late, fault=words)
        self._guard.count("marked")
        with self._lock:
            tally.counts[result.exit] += 1
            tally.recent.append(spent)
            tally.recent_exits.append(result.exit)
            tally.cut += result.cut
            tally.late += result.late
        return result

    def _raise(self, fault: StageFault) -> NoReturn:
        """Raise the error of a fault that nothing else can answer for."""
        with self._lock:
            memory = self._setup.memory
            if memory is not None:
                super()._explain(fault.error, fault.exit, memory.single)
        raise fault.error

    def _explain(self, error: Exception, k: int, bound: Bound) -> NoReturn:
        """Raise the fault of stage k, with the answer of the exit before it."""
        if not isinstance(error, StageFault):
            super()._explain(error, k, bound)
        first = next((first for (first, _), link in self._joined.items() if link is error.link), k)
        error.exit = k
        if self._guard.on_fault == "last_exit" and first > 0:
            _, score, label, parts = bound.steps[first - 1]
            answer = None if parts is None else {name: part[0, ...] for name, part in parts.items()}
            logits, answer = (None, None) if answer is None else copy_parts(answer)
            exit_ = self._first_exit + first - 1
            error.answer = Result(int(label[0]), float(score[0]), exit_, 0.0, logits, answer)
        raise error

    def _make_memory(self, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> Memory:
        return GuardedMemory(self._guard, self._classes, self._links, inputs, others, self._joined)

    def _learn_shapes(self, inputs: dict[str, np.ndarray]) -> list[Tensor]:
        """Run the chain once for the shapes of named axes; a fault has no exit before it."""
        learn, guard, where, shapes = super()._learn_shapes, self._guard, self._where[0], list[Tensor]()
        try:
            if guard.limit_s is None:
                return learn(inputs)
            for link in self._links:
                if isinstance(link.compiled, LazyStage):
                    link.compiled.load()  # which has no limit
            guard.run(lambda: shapes.extend(learn(inputs)), None, where, [])
        except StageFault:
            raise
        except Exception as error:
            raise StageFault("error", error, where, "failed with a new length") from error
        return shapes

    def _gather(self, results: Sequence[Result], start: int) -> BatchResult:
        """Return the answers to single samples as those of a batch."""
        answers = [{"logits": r.logits} if r.answer is None and r.logits is not None else r.answer for r in results]
        parts = {}
        for name in answers[0] or {}:
            values = [answer[name] for answer in answers if answer is not None]
            forms = {(t.dtype, t.shape) for t in (link.parts[name] for link in self._links)}
            if len(forms) == 1 and len({value.shape for value in values}) == 1:
                parts[name] = np.stack(values)
            else:
                parts[name] = np.empty(len(values), object)
                for i, value in enumerate(values):
                    parts[name][i] = value
        faults = np.array([result.fault for result in results], object)
        return BatchResult(
            np.array([result.label for result in results], np.int64),
            np.array([result.score for result in results], np.float32),
            np.array([result.exit for result in results], np.int64),
            (perf_counter_ns() - start) * 1e-9,
            parts.get("logits"),
            None if self._classes or not parts else parts,
            faults if any(faults) else None,
        )


def make_guard(parts: NetworkParts, options: LoadOptions, open_network: Callable[..., Net]) -> Guard:
    """Return what watches the stages of a network.

    Args:
        parts: the stages and exits.
        options: how they are loaded.
        open_network: opens parts on a device with options, at the network's operating point.
    """
    if options.on_fault != "fallback":
        return Guard(options.on_fault, options.stage_limit_s)
    bundle = replace(
        parts.bundle, path=parts.bundle.path.absolute()
    )  # it is opened wherever the program has gone meanwhile
    quiet = replace(options, on_fault="raise", fallback=None, meter=None, progress=None)
    open_stand_in = partial(open_network, replace(parts, bundle=bundle), options.fallback, quiet)
    return Guard(options.on_fault, options.stage_limit_s, open_stand_in)
