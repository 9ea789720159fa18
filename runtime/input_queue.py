"""The inputs of a stream that wait to be answered: threads, tasks and signal handlers give them, one thread takes them."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np

from ..bundle import Tensor
from ..errors import DataError, UsageError
from .chain.forks import FOLLOWERS
from .chain.samples import split_inputs

__all__ = ["WAITS_FOR_ITSELF", "InputQueue", "WhenFull"]

WhenFull = Literal["drop_oldest", "drop_newest", "leave_earlier", "block"]

ENDED = "The stream has ended: it takes no more inputs."
FORKED = "This process was forked: inputs of the stream come and are answered in its parent. Make a Stream here."
WAITS_FOR_ITSELF = (
    "The queue is full, and the thread that answers its inputs cannot wait for room: give inputs from another thread, by "
    "put_async, or with when_full='drop_oldest'."
)


class InputQueue:
    """Keeps inputs in their order, at most so many. An interruption breaks nothing, even by a signal handler that gives one.

    Args:
        tensors: the network's inputs.
        most: how many may wait.
        when_full: what happens if more come.
    """

    _is_answering = _listens = False
    _reader: threading.Thread | None = None
    """The thread that iterates. Numbers of threads are used again."""

    def __init__(self, tensors: Sequence[Tensor], most: int, when_full: WhenFull) -> None:
        self._tensors, self._most, self._when_full = tensors, most, when_full
        self._came, self._ended, self._why_ended = 0, False, ENDED
        self._error: Exception | None = None
        self._take_locks()
        FOLLOWERS.add(self)

    def _take_locks(self) -> None:
        """Start with an empty queue, and locks that nobody holds."""
        self._lock: Any = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._bell: SimpleQueue[None] = SimpleQueue()  # a signal handler may ring it before it is listened to
        self._waiters: WeakKeyDictionary[asyncio.Event, asyncio.AbstractEventLoop] = WeakKeyDictionary()
        self._inputs: deque[tuple[int, float, Any]] = deque()
        self._inside: deque[Any] = deque()  # what signal handlers gave while their thread held the lock

    def follow_fork(self) -> None:
        """End in a child: the threads that give inputs are not there, and the parent answers those that wait."""
        self._take_locks()
        self._is_answering = False
        self._ended, self._why_ended, self._error = True, FORKED, UsageError(FORKED)

    def _check_going(self) -> None:
        if self._ended:
            raise UsageError(self._why_ended)

    def _must_wait(self) -> bool:
        """Return True if inputs that come wait for room; the lock is held."""
        return self._when_full == "block" and len(self._inputs) >= self._most and not self._ended

    def _take_inside(self) -> None:
        """Put what signal handlers gave into the queue; the lock is held."""
        while self._inside and not self._must_wait():
            self._take_in(self._inside.popleft())

    def _take_in(self, x: Any) -> bool:
        """Put an input into the queue; the lock is held."""
        number, self._came = self._came, self._came + 1
        if self._ended or (self._when_full == "drop_newest" and len(self._inputs) >= self._most):
            return False
        kept = self._keep(x)
        if len(self._inputs) >= self._most:
            self._inputs.popleft()
        self._ring()  # whoever it wakes waits for the lock
        self._inputs.append((number, perf_counter(), kept))
        return True

    def _keep(self, x: Any) -> Any:
        """Copy an input that its source may overwrite. One that the network would refuse stays, to be refused at its turn."""
        try:
            parts = tuple(map(np.array, split_inputs(x, self._tensors)))
        except DataError:
            return x
        return parts if len(parts) > 1 else parts[0]

    def _take_out(self) -> tuple[tuple[int, float, Any], bool]:
        """Take the oldest input out of the queue, and tell whether it leaves at the first exit; the lock is held."""
        hurries = self._when_full == "leave_earlier" and 2 * len(self._inputs) > self._most
        entry, self._is_answering = self._inputs.popleft(), True
        self._room.notify()
        self._wake()
        return entry, hurries

    def _fail(self, error: Exception) -> None:
        """Remember an error of the source, to be raised after its inputs; an end meanwhile is none."""
        with self._lock:
            if not self._ended:
                self._error = error

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _tell_all(self) -> None:
        """Wake all that wait; the lock is held."""
        self._room.notify_all()
        self._ring()

    def _ring(self) -> None:
        """Wake the thread or the tasks that wait for an input."""
        if self._listens and self._bell.empty():
            self._bell.put(None)
        self._wake()

    def _wake(self) -> None:
        """Wake the tasks that wait for a change of the queue."""
        with contextlib.suppress(KeyError):  # a signal handler was first
            while self._waiters:
                waiter, loop = self._waiters.popitem()
                if not loop.is_closed():
                    loop.call_soon_threadsafe(waiter.set)

    def _wait_async(self) -> asyncio.Event:
        """Return what is set with the next change of the queue; the lock is held."""
        waiter = asyncio.Event()
        self._waiters[waiter] = asyncio.get_running_loop()  # it goes with the task that waits
        return waiter
