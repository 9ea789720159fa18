"""Runs of stages that are watched for faults, and the memory that they run in.

CheckedRun() --> the engine's run --> its scores, labels and boundaries are looked at --> StageFault if no exit gives them
                 in a thread, if there is a limit: it is waited for so long, then left alone with its memory
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...bundle import Tensor
from ...errors import OfframpError
from .checks import LEAST_SCORE, MOST_SCORE, are_answers, refuse_answer
from .faults import Guard, StageFault, StageThread
from .lazy import LazyRun, LazyStage
from .memory import Link, Memory, Span, Step

__all__ = ["CheckedRun", "GuardedMemory"]


class CheckedRun:
    """Runs a stage from memory into memory, and looks at what it gives.

    Args:
        guard: knows the limit.
        link: the stage.
        step: what runs it, and its answers.
        classes: the network's number of classes.
        floats: what else the stage writes, as far as it can be seen.
        left: as in `GuardedMemory`.

    Raises:
        StageFault: the engine fails, the run takes too long, or gives what no exit can.
    """

    __slots__ = ("_classes", "_floats", "_guard", "_label", "_left", "_link", "_one", "_run", "_score")

    def __init__(
        self,
        guard: Guard,
        link: Link,
        step: Step,
        classes: int,
        floats: Sequence[np.ndarray],
        left: list[StageThread],
    ) -> None:
        self._guard, self._link, self._classes, self._left = guard, link, classes, left
        self._run, self._score, self._label, _ = step
        self._one = (memoryview(self._score), memoryview(self._label)) if len(self._score) == 1 else None
        self._floats = [_mark_nan(array) for array in floats]

    @property
    def stop(self) -> Callable[[bool], object] | None:
        """What stops the run under way, if the engine can be told. One that was left alone stays stopped."""
        stop = getattr(self._run, "stop", None)
        return stop and (lambda stops: stop(stops) if stops or not self._left else None)

    def __call__(self) -> None:
        """Run the stage."""
        link, guard = self._link, self._guard
        try:
            if guard.limit_s is None:
                self._run()
            else:
                if isinstance(link.compiled, LazyStage):
                    link.compiled.load()  # which has no limit
                    if isinstance(self._run, LazyRun) and self._run.run is None:
                        self._run.open()  # here: the other thread would wait for a lock that a call beneath this one holds
                guard.run(self._run, link.compiled, link.where, self._left)
        except StageFault as fault:
            fault.link = link
            raise
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StageFault("error", error, link.where, f"failed: {line}", link) from error
        if guard.on_fault == "raise":
            return  # what is wrong with the answer is found where it is taken
        if not self._is_answer():
            self._refuse(float(self._score[0]))
        for array, flags, marks in self._floats:
            np.isnan(array, flags)
            if 1 in marks:
                self._refuse(float("nan"))

    def _is_answer(self) -> bool:
        if self._one is None:
            return bool(are_answers(self._label, self._score, self._classes).all())
        score, label = self._one
        return LEAST_SCORE <= score[0] <= MOST_SCORE and (not self._classes or 0 <= label[0] < self._classes)

    def _refuse(self, score: float) -> None:
        what = "gave NaN" if score != score else "gave an answer that no exit can give"
        try:
            refuse_answer(int(self._label[0]), score, self._classes, self._link.where)
        except OfframpError as error:
            raise StageFault("answer", error, self._link.where, what, self._link) from None


def _mark_nan(array: np.ndarray) -> tuple[np.ndarray, np.ndarray, bytearray]:
    """Return an array, and the same bytes twice, in which `np.isnan` writes a 1 for each NaN; see `values.py`."""
    marks = bytearray(array.size)
    return array, np.frombuffer(marks, np.bool_).reshape(array.shape), marks


class GuardedMemory(Memory):
    """The memory of a chain whose runs are checked.

    Args:
        guard: knows the limit.
        classes: the network's number of classes.
        links, inputs, others, joined: as for `Memory`.

    Attributes:
        left: the threads that were left alone with this memory, which is not used any more if there are any.
    """

    def __init__(
        self,
        guard: Guard,
        classes: int,
        links: Sequence[Link],
        inputs: Sequence[Tensor],
        others: Sequence[Tensor],
        joined: Mapping[Span, Link],
    ) -> None:
        self._guard, self._classes = guard, classes
        self.left: list[StageThread] = []
        super().__init__(links, inputs, others, joined)

    def _tie(self, links: Sequence[Link], views: dict[str, np.ndarray], places: dict[str, Any]) -> list[Step]:
        steps: list[Step] = []
        for link, step in zip(links, super()._tie(links, views, places), strict=True):
            written = [views[name] for name in link.writes.values() if name in views and name != link.exit.score]
            floats = [array for array in written if array.dtype.kind == "f"]
            steps.append((CheckedRun(self._guard, link, step, self._classes, floats, self.left), *step[1:]))
        return steps
