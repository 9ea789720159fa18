"""Streams: inputs from a source that does not wait, answered one after the other in the order in which they came."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, Iterable
from contextlib import closing
from numbers import Real
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
from msgspec.structs import replace

from ..bundle import Reuse
from ..errors import DataError, UsageError
from .chain.net import Net
from .chain.reuse import Reuser
from .chain.samples import split_inputs
from .replies import Reply, StreamStats
from .smoothing import Votes, check_count

__all__ = ["Stream"]

WhenFull = Literal["drop_oldest", "drop_newest", "leave_earlier", "block"]

MOST_WAITING = 1_000_000
"""The longest queue that can be asked for."""

LEAST_LEFT_S = 1e-9
"""What an input that has waited too long has left: the first exit answers, and is late."""


class Stream:
    """Answers inputs that come when they like: from one thread or many, or from an asyncio program.

    Inputs wait in a queue of bounded length, and are answered in the thread that iterates. They are copied when they come, so
    that a camera may use its memory again. If inputs come faster than answers, the queue is full in the end. What then happens
    is said by `when_full`:

    - `drop_oldest`: the input that has waited longest is dropped. Answers are of fresh inputs.
    - `drop_newest`: the input that comes is dropped.
    - `leave_earlier`: as long as more than half of the queue is full, inputs leave at the first exit, whatever its threshold.
      The calibration promises nothing of them; their replies are marked, and their time is not in the network's `stats()`. If the
      queue is full even so, the oldest is dropped.
    - `block`: `put` waits until there is room. Nothing is dropped, and the source waits.

    With a `window` each reply has a label that is smoothed over time: the label so far stays until another one has at least
    `lead` votes more among the last `window` answers. What a calibration promises holds for the single answer, `result.label`,
    and not for the smoothed one. That one is right more often while the scene stays, and late when it changes: if every answer
    is right, a new label holds from its input number (window + lead) / 2 on. `smooth_labels` shows what it does to labels that
    were recorded.

    With `reuse` an input of which the first stage says hardly anything new gets the last answer again, `result.reused`, and later
    stages do not run. `calibrate_reuse` finds for each operating point how little that is, and promises what it costs at most. An
    answer that is cut or hurried is never given again. The network's `stats()` do not count answers that are given again.

    Args:
        net: the network. Others may go on calling it.
        source: where inputs come from: anything that can be iterated, in a thread of its own, until it ends. An asynchronous
            one is read by the event loop that iterates. None if `put` gives them.
        most_waiting: how many inputs may wait.
        when_full: what happens if more do.
        deadline_s: time from an input's coming to its answer; what it waited is taken from it, and `result.cut` and `result.late`
            say what became of it (see `Net.__call__`). None sets none.
        window: how many answers a label is smoothed over; 1 smooths nothing.
        lead: by how many votes another label must lead.
        reuse: True takes the rules that were made for the network's operating points; a `Reuse` is one for all of them.

    Raises:
        UsageError: an argument does not make sense; the network has one exit only, so that no input can leave earlier, does not
            classify, so that there is no label to smooth, or has no operating point with a rule.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime import Stream, load_uncalibrated
        >>> net = load_uncalibrated("digits.offramp")
        >>> camera = iter(np.load("test.npz")["x"][:5])
        >>> with Stream(net, camera, when_full="block") as stream:
        ...     print([reply.number for reply in stream])
        [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        net: Net,
        source: Iterable[Any] | AsyncIterable[Any] | None = None,
        *,
        most_waiting: int = 8,
        when_full: WhenFull = "drop_oldest",
        deadline_s: float | None = None,
        window: int = 1,
        lead: int = 1,
        reuse: bool | Reuse = False,
    ) -> None:
        check_count("most_waiting", most_waiting, MOST_WAITING)
        if when_full not in get_args(WhenFull):
            raise UsageError(f"when_full is {', '.join(get_args(WhenFull)[:-1])} or block, not {when_full!r:.30}.")
        self._net, self._when_full = net, when_full
        if when_full == "leave_earlier" and len(net.exits) == 1:
            raise UsageError("A network with one exit cannot leave earlier. Use when_full='drop_oldest' or another.")
        if deadline_s is not None and (not isinstance(deadline_s, Real) or not deadline_s > 0):
            raise UsageError(f"deadline_s is a number of seconds above 0, not {deadline_s!r:.30}.")
        self._deadline_s = deadline_s
        self._votes = Votes(window, lead)
        if window > 1 and not net._classes:
            raise UsageError("This network does not classify: there is no label to smooth. Leave window out.")
        self._reuser = _make_reuser(net, reuse)
        self._most = int(most_waiting)
        self._inputs: deque[tuple[int, float, Any]] = deque()
        self._lock = threading.Lock()
        self._filled, self._room = threading.Condition(self._lock), threading.Condition(self._lock)
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._came = self._answered = self._hurried = self._dropped = self._refused = 0
        self._ended = False
        self._error: Exception | None = None
        self._running: asyncio.Future[Reply] | None = None
        self._source = source
        self._feeding: asyncio.Task[None] | None = None
        if source is not None and not isinstance(source, AsyncIterable):
            inputs = iter(source)
            threading.Thread(target=self._feed, args=(inputs,), name="offramp stream", daemon=True).start()

    def put(self, x: Any) -> bool:
        """Give the stream an input; any thread may. It is copied.

        Returns:
            False if it was dropped because the queue is full, or because the stream has ended while `put` waited for room.

        Raises:
            UsageError: the stream has ended.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import Stream, load_uncalibrated
            >>> stream = Stream(load_uncalibrated("digits.offramp"))
            >>> stream.put(np.load("test.npz")["x"][0])
            True
            >>> next(stream).number
            0
        """
        with self._lock:
            self._check_going()
            while self._when_full == "block" and len(self._inputs) >= self._most and not self._ended:
                self._room.wait()
            return self._take_in(x)

    async def put_async(self, x: Any) -> bool:
        """Give the stream an input, as `put` does, from an asyncio program: if it waits for room, other tasks run.

        Raises:
            UsageError: the stream has ended.

        Example:
            >>> import asyncio
            >>> import numpy as np
            >>> from offramp.runtime import Stream, load_uncalibrated
            >>> stream = Stream(load_uncalibrated("digits.offramp"), when_full="block")
            >>> asyncio.run(stream.put_async(np.load("test.npz")["x"][0]))
            True
        """
        self._check_going()
        while True:
            with self._lock:
                if self._when_full != "block" or len(self._inputs) < self._most or self._ended:
                    return self._take_in(x)
                waiting = self._wait_async()
            await waiting.wait()

    def end(self) -> None:
        """Take no more inputs. Those that wait are still answered, then iterating ends."""
        with self._lock:
            self._ended = True
            self._tell_all()

    def close(self) -> None:
        """Take no more inputs, and drop those that wait. The network stays open.

        A thread that reads the source ends with the source's next input.
        """
        with self._lock:
            self._ended = True
            self._dropped += len(self._inputs)
            self._inputs.clear()
            self._tell_all()
        if self._feeding is not None:
            self._feeding.cancel()

    def stats(self) -> StreamStats:
        """Return what became of the inputs."""
        with self._lock:
            done = self._answered + self._dropped + self._refused
            return StreamStats(
                came=self._came,
                answered=self._answered,
                hurried=self._hurried,
                dropped=self._dropped,
                refused=self._refused,
                reused=0 if self._reuser is None else self._reuser.reused,
                waiting=self._came - done,
            )

    def __enter__(self) -> "Stream":
        """Return the stream itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the stream."""
        self.close()

    def __iter__(self) -> "Stream":
        """Return the stream itself. One thread or task iterates at a time."""
        return self

    def __next__(self) -> Reply:
        """Wait for an input, and answer it.

        An input that the network refuses raises its error when its turn comes; the stream can be iterated on afterwards. So does
        an error of the source, after all its inputs.
        """
        if isinstance(self._source, AsyncIterable):
            raise UsageError("The source of this stream is asynchronous: iterate with async for.")
        with self._lock:
            while not self._inputs and not self._ended:
                self._filled.wait()
            if not self._inputs:
                self._raise_error()
                raise StopIteration
            entry, hurries = self._take_out()
        return self._answer(*entry, hurries)

    def __aiter__(self) -> "Stream":
        """Return the stream itself. An asynchronous source is read from now on, by a task of this event loop."""
        if isinstance(self._source, AsyncIterable) and self._feeding is None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed_async(self._source))
        return self

    async def __anext__(self) -> Reply:
        """Wait for an input, and answer it in a thread, so that other tasks run meanwhile. A cancelled wait loses no answer."""
        while self._running is None:
            with self._lock:
                if self._inputs:
                    entry, hurries = self._take_out()
                    loop = asyncio.get_running_loop()
                    self._running = loop.run_in_executor(None, self._answer, *entry, hurries)
                    break
                if self._ended:
                    self._raise_error()
                    raise StopAsyncIteration
                waiting = self._wait_async()
            await waiting.wait()
        running = self._running
        await asyncio.wait([running])  # which cancels nothing: the next turn would get the answer
        self._running = None
        return running.result()

    def _check_going(self) -> None:
        if self._ended:
            raise UsageError("The stream has ended: it takes no more inputs.")

    def _take_in(self, x: Any) -> bool:
        """Put an input into the queue; the lock is held."""
        number, self._came = self._came, self._came + 1
        if self._ended or (self._when_full == "drop_newest" and len(self._inputs) >= self._most):
            self._dropped += 1
            return False
        kept = self._keep(x)
        if len(self._inputs) >= self._most:
            self._inputs.popleft()
            self._dropped += 1
        self._inputs.append((number, perf_counter(), kept))
        self._filled.notify()
        self._wake()
        return True

    def _keep(self, x: Any) -> Any:
        """Copy an input that its source may overwrite. One that the network would refuse stays, to be refused at its turn."""
        try:
            parts = tuple(map(np.array, split_inputs(x, self._net._inputs)))
        except DataError:
            return x
        return parts if len(parts) > 1 else parts[0]

    def _take_out(self) -> tuple[tuple[int, float, Any], bool]:
        """Take the oldest input out of the queue, and tell whether it leaves at the first exit; the lock is held."""
        hurries = self._when_full == "leave_earlier" and 2 * len(self._inputs) > self._most
        entry = self._inputs.popleft()
        self._room.notify()
        self._wake()
        return entry, hurries

    def _answer(self, number: int, came_s: float, x: Any, hurries: bool) -> Reply:
        waited_s = perf_counter() - came_s
        try:
            if hurries:
                with closing(self._net.anytime(x)) as answers:
                    result = next(answers)
                if self._deadline_s is not None and perf_counter() - came_s > self._deadline_s:
                    result = replace(result, late=True)
            else:
                left_s = None if self._deadline_s is None else max(LEAST_LEFT_S, self._deadline_s - waited_s)
                result = (self._reuser or self._net)(x, left_s)
        except BaseException:
            with self._lock:
                self._refused += 1
            raise
        with self._lock:
            self._answered += 1
            self._hurried += hurries
        return Reply(number, result, self._votes.count(result.label), waited_s, hurries)

    def _feed(self, inputs: Any) -> None:
        try:
            for x in inputs:
                if not self._ended:
                    self.put(x)
                if self._ended:
                    return
        except Exception as error:
            self._fail(error)
        finally:
            self.end()

    async def _feed_async(self, source: AsyncIterable[Any]) -> None:
        try:
            async for x in source:
                await self.put_async(x)
        except Exception as error:
            self._fail(error)
        finally:
            self.end()

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
        self._filled.notify_all()
        self._room.notify_all()
        self._wake()

    def _wake(self) -> None:
        """Wake the tasks that wait for a change of the queue; the lock is held."""
        for loop, waiter in self._waiters:
            if not loop.is_closed():
                loop.call_soon_threadsafe(waiter.set)
        self._waiters.clear()

    def _wait_async(self) -> asyncio.Event:
        """Return what is set with the next change of the queue; the lock is held."""
        waiter = asyncio.Event()
        self._waiters.append((asyncio.get_running_loop(), waiter))
        return waiter


def _make_reuser(net: Net, reuse: bool | Reuse) -> Reuser | None:
    """Return what gives answers again; None if nothing does.

    Raises:
        UsageError: there is no rule.
    """
    if isinstance(reuse, Reuse):
        return Reuser(net, reuse)
    if reuse is not True and reuse is not False:
        raise UsageError(f"reuse is True, False or a Reuse, not {reuse!r:.30}.")
    if reuse and not any(point.reuse for point in net.points.values()):
        raise UsageError(
            "No operating point of this network has a rule for reuse. Run: offramp reuse, or give a Reuse."
        )
    return Reuser(net) if reuse else None
