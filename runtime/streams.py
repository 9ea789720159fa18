"""Streams: inputs from a source that does not wait, answered one after the other in the order in which they came."""

import asyncio
import threading
from collections.abc import AsyncIterable, Iterable
from concurrent.futures import Future
from contextlib import closing
from numbers import Real
from time import perf_counter
from typing import Any, get_args

from msgspec.structs import replace

from ..bundle import Reuse
from ..errors import UsageError
from .chain.net import Net
from .chain.reuse import Reuser
from .input_queue import WAITS_FOR_ITSELF, InputQueue, WhenFull
from .replies import Reply, StreamStats
from .smoothing import Votes, check_count

__all__ = ["Stream"]

MOST_WAITING = 1_000_000
"""The longest queue that can be asked for."""

LEAST_LEFT_S = 1e-9
"""What an input that has waited too long has left: the first exit answers, and is late."""


class Stream(InputQueue):
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
        self._net = net
        if when_full == "leave_earlier" and len(net.exits) == 1:
            raise UsageError("A network with one exit cannot leave earlier. Use when_full='drop_oldest' or another.")
        if deadline_s is not None and (not isinstance(deadline_s, Real) or not deadline_s > 0):
            raise UsageError(f"deadline_s is a number of seconds above 0, not {deadline_s!r:.30}.")
        self._deadline_s = deadline_s
        self._votes = Votes(window, lead)
        if window > 1 and not net._classes:
            raise UsageError("This network does not classify: there is no label to smooth. Leave window out.")
        self._reuser = _make_reuser(net, reuse)
        super().__init__(net._inputs, int(most_waiting), when_full)
        self._answered = self._hurried = self._refused = 0
        self._running: Future[Reply | BaseException] | None = None
        self._source = source
        self._feeding: asyncio.Task[None] | None = None
        if source is not None and not isinstance(source, AsyncIterable):
            inputs = iter(source)
            threading.Thread(target=self._feed, args=(inputs,), name="offramp stream", daemon=True).start()

    def put(self, x: Any) -> bool:
        """Give the stream an input; any thread may. It is copied.

        Returns:
            False if it was dropped because the queue is full, or because the stream has ended while `put` waited for room.

        A signal handler may, too. It cannot wait for room in the thread that iterates.

        Raises:
            UsageError: the stream has ended; or it would wait for room in the thread that iterates, for ever.

        Example:
            >>> import numpy as np
            >>> from offramp.runtime import Stream, load_uncalibrated
            >>> stream = Stream(load_uncalibrated("digits.offramp"))
            >>> stream.put(np.load("test.npz")["x"][0])
            True
            >>> next(stream).number
            0
        """
        self._check_going()
        if self._lock._is_owned():  # a signal handler, in the midst of the stream's own work
            self._ring()
            self._inside.append(self._keep(x))
            return True
        with self._lock:
            self._take_inside()
            while self._must_wait():
                if self._reader is threading.current_thread():
                    raise UsageError(WAITS_FOR_ITSELF)
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
                self._take_inside()
                if not self._must_wait():
                    return self._take_in(x)
                waiting = self._wait_async()
            await waiting.wait()

    def end(self) -> None:
        """Take no more inputs. Those that wait are still answered, then iterating ends."""
        with self._lock:
            self._take_inside()
            self._tell_all()
            self._ended = True

    def close(self) -> None:
        """Take no more inputs, and drop those that wait. The network stays open.

        A thread that reads the source ends with the source's next input.
        """
        with self._lock:
            self._tell_all()
            self._ended = True
            self._inputs.clear()
        if self._feeding is not None:
            self._feeding.cancel()

    def stats(self) -> StreamStats:
        """Return what became of the inputs."""
        with self._lock:
            self._take_inside()
            waiting = len(self._inputs) + self._is_answering
            return StreamStats(
                came=self._came,
                answered=self._answered,
                hurried=self._hurried,
                dropped=self._came - self._answered - self._refused - waiting,
                refused=self._refused,
                waiting=waiting,
                reused=0 if self._reuser is None else self._reuser.reused,
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
        running, self._running, self._reader = self._running, None, threading.current_thread()
        if running is not None:  # a task that was cancelled has begun it
            return _unpack(running)
        while True:
            with self._lock:
                self._is_answering = self._listens = False  # what an interruption has cut off is dropped
                self._take_inside()
                if self._inputs:
                    entry, hurries = self._take_out()
                    break
                if self._ended:
                    self._bell.put(None)  # whoever else iterates ends, too
                    self._raise_error()
                    raise StopIteration
                self._listens = True
            if not self._inside:
                self._bell.get()
        return self._answer(*entry, hurries)

    def __aiter__(self) -> "Stream":
        """Return the stream itself. An asynchronous source is read from now on, by a task of this event loop."""
        if isinstance(self._source, AsyncIterable) and self._feeding is None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed_async(self._source))
        return self

    async def __anext__(self) -> Reply:
        """Wait for an input, and answer it in a thread, so that other tasks run meanwhile. A cancelled wait loses no answer."""
        self._reader = threading.current_thread()
        while self._running is None:
            with self._lock:
                self._take_inside()
                if self._inputs:
                    entry, hurries = self._take_out()
                    running: Future[Reply | BaseException] = Future()  # another event loop may take the answer
                    asyncio.get_running_loop().run_in_executor(None, self._answer_into, running, *entry, hurries)
                    self._running = running
                    break
                if self._ended:
                    self._raise_error()
                    raise StopAsyncIteration
                waiting = self._wait_async()
            if not self._inside:
                await waiting.wait()
        running = self._running
        await asyncio.wait([asyncio.wrap_future(running)])  # which cancels nothing: the next turn would get the answer
        self._running = None
        return _unpack(running)

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
                self._refused, self._is_answering = self._refused + 1, False
            raise
        with self._lock:
            self._answered, self._is_answering = self._answered + 1, False
            self._hurried += hurries
        return Reply(number, result, self._votes.count(result.label), waited_s, hurries)

    def _answer_into(self, answer: "Future[Reply | BaseException]", *entry: Any) -> None:
        try:
            answer.set_result(self._answer(*entry))
        except BaseException as error:
            answer.set_result(error)

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


def _unpack(answer: "Future[Reply | BaseException]") -> Reply:
    """Return an answer that was got in another thread, or raise its error."""
    result = answer.result()
    if isinstance(result, BaseException):
        raise result
    return result


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
