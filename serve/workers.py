"""The threads that answer requests, and the queue before them."""

import threading
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..runtime.chain.memory import CHUNK_SAMPLES
from .tasks import Answered, ServedTensors, Task

__all__ = ["Workers"]

Answers = Callable[[Sequence[Task]], list[Answered]]


class Workers:
    """Threads that answer the tasks of one model, each with a network of its own.

    Args:
        model: the model.
        count: how many threads.

    Raises:
        UsageError: the engine allows no second thread.
    """

    def __init__(self, model: ServedTensors, count: int) -> None:
        self._joins = model.joins
        self._tasks: deque[Task] = deque()
        self._filled = threading.Condition()
        self._ended = False
        self._answers = [model.start(is_first=k == 0) for k in range(count)]
        self._threads: list[threading.Thread] = []

    def start(self, loop: AbstractEventLoop) -> None:
        """Start the threads; answers go to futures of this event loop."""
        self._loop = loop
        for answers in self._answers:
            self._threads.append(
                threading.Thread(target=self._work, args=(answers,), name="offramp serve", daemon=True)
            )
            self._threads[-1].start()

    @property
    def are_alive(self) -> bool:
        """True if every thread runs."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def put(self, task: Task) -> None:
        """Add a task to the queue."""
        with self._filled:
            self._tasks.append(task)
            self._filled.notify()

    def drop(self, task: Task) -> None:
        """Take a task for which nobody waits any more out of the queue, with its samples, unless a thread has taken it."""
        with self._filled, suppress(ValueError):
            self._tasks.remove(task)

    def stop(self, timeout_s: float) -> None:
        """End the threads when the queue is empty, and wait for that."""
        with self._filled:
            self._ended = True
            self._filled.notify_all()
        for thread in self._threads:
            thread.join(timeout_s)

    def _take(self) -> list[Task]:
        """Wait for a task; return it with those behind it that can be answered together. None is left when the work ends."""
        with self._filled:
            while not self._tasks:
                if self._ended:
                    return []
                self._filled.wait()
            group = [self._tasks.popleft()]
            room = CHUNK_SAMPLES - group[0].count
            while self._joins and self._tasks:
                task = self._tasks[0]
                if not (task.joins and group[0].joins and task.count <= room and task.fits(group[0])):
                    break
                room -= task.count
                group.append(self._tasks.popleft())
            return group

    def _work(self, answers: Answers) -> None:
        while group := self._take():
            results = _answer(answers, group)
            self._loop.call_soon_threadsafe(_deliver, group, results)


def _answer(answers: Answers, group: Sequence[Task]) -> list[Answered | Exception]:
    """Return the answer to each task, or its error. If one of several tasks fails, each is answered by itself."""
    try:
        return list(answers(group))
    except Exception as error:
        return [error] if len(group) == 1 else [each for task in group for each in _answer(answers, [task])]


def _deliver(group: Sequence[Task], results: Sequence[Answered | Exception]) -> None:
    for task, result in zip(group, results, strict=True):
        future: Future[Answered] = task.future
        if future.done():  # nobody waits for it any more
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
