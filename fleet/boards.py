"""The boards of a fleet, as the workstation sees them: who is there, of which kind, and what they are asked."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import msgspec
from msgspec import Struct

from .. import __version__
from ..devices.fingerprints import HARD, differences
from ..errors import MeasurementError, MissingError, OfframpError
from .board import BoardTask, identify_board
from .messages import Done, Failure, Identity, decode

__all__ = ["KIND", "Boards", "FleetBoard", "LostError", "Sent"]

KIND = (*HARD, "threads")
"""Fields of a fingerprint that decide what a network answers, to the last bit; the others decide how long it takes."""

PATIENCE_S = 10.0
"""A board that has gone is waited for so long: its process may be started again."""

LOOK_S = 1.0
"""Between two looks whether a board is still there."""

COMES_HOME_S = 120.0
"""A message that takes longer to come home is lost with its board."""

MOST_AT_ONCE = 100
"""So many boards are asked who they are at the same time."""

MOST_TRIES = 3
"""A board that goes each time it is asked the same is not asked again."""


class LostError(MeasurementError):
    """A board has gone, or could not do what it was asked."""


class FleetBoard(Struct, frozen=True):
    """A board: its name among the workers of the scheduler, its fingerprint, and the fields of `KIND`."""

    name: str
    fingerprint: dict[str, str]

    @property
    def kind(self) -> tuple[str, ...]:
        """Boards that agree in it give the same answers."""
        return tuple(self.fingerprint.get(field, "") for field in KIND)

    def is_like(self, other: "FleetBoard") -> bool:
        """Return True if figures measured on the other hold here by its fingerprint, so that one calibration serves both."""
        return not differences(self.fingerprint, other.fingerprint)


class Sent:
    """What was sent to all boards: the value, and Dask's name for its copies there."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.copy: Any = None

    @property
    def is_lost(self) -> bool:
        """True if no board has it."""
        return self.copy is None or self.copy.status != "finished"


class Boards:
    """The boards that are connected to a scheduler.

    Args:
        client: a `distributed.Client`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._seen, self._seen_s, self._lock = dict[str, str](), -math.inf, Lock()
        self._sending = Lock()

    def find(self, task: BoardTask) -> tuple[list[FleetBoard], dict[str, str]]:
        """Return the boards that can do a task, by their names' order, and why others cannot.

        Raises:
            MissingError: none can.
        """
        found, others = list[FleetBoard](), dict[str, str]()
        names = self._names()
        if doubled := [name for name, count in Counter(names.values()).items() if count > 1]:
            others |= dict.fromkeys(
                doubled, "Several boards have this name: start each with a name of its own (--name)."
            )

        def identify(name: str) -> Identity:
            try:
                return decode(self._ask(name, identify_board, (task,)), Identity, name)
            except MeasurementError as error:
                return Identity({}, __version__, str(error))

        single = sorted(set(names.values()) - set(others))
        with ThreadPoolExecutor(max(1, min(len(single), MOST_AT_ONCE))) as pool:
            for name, identity in zip(single, pool.map(identify, single), strict=True):
                if identity.offramp != __version__:
                    others[name] = (
                        f"It has offramp {identity.offramp}, and this is {__version__}: install the same one."
                    )
                elif identity.problem:
                    others[name] = identity.problem
                else:
                    found.append(FleetBoard(name, identity.fingerprint))
        if not found:
            why = "; ".join(f"{name}: {reason}" for name, reason in others.items()) or "none is connected"
            raise MissingError(f"No board can be used ({why}). Start one on each board: offramp worker SCHEDULER")
        return found, others

    def send(self, value: Any) -> "Sent":
        """Send a value to every board once, from one to the next, and return what stands for it in questions."""
        sent = Sent(value)
        self._find_copy(sent)
        return sent

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what was sent on every board: Dask would leave one copy of it, which may go with its board."""
        was_running = self._client.amm.running()
        self._client.amm.stop()
        try:
            yield
        finally:
            with suppress(OSError, RuntimeError):  # the scheduler may have gone
                if was_running:
                    self._client.amm.start()

    def _find_copy(self, sent: "Sent") -> Any:
        """Return Dask's name for what was sent; it is sent again if every board that had it has gone."""
        with self._sending:
            if sent.is_lost:
                sent.copy = self._client.scatter([sent.value], broadcast=True, hash=False)[0]
            return sent.copy

    def ask(self, board: FleetBoard, kind: type, work: Callable[..., bytes], *arguments: Any) -> Any:
        """Let a board do some work, and return its message.

        A board that goes is waited for, and asked again if it comes back under the same name.

        Raises:
            LostError: it has gone, or could not do it.
            MeasurementError: it sent something else.
        """
        content = self._ask(board.name, work, arguments)
        try:
            answer = msgspec.msgpack.decode(content, type=Done | Failure)
        except (msgspec.DecodeError, TypeError) as error:
            raise MeasurementError(f"Board {board.name!r:.100} sent no answer: {error!s:.200}") from None
        if isinstance(answer, Failure):
            raise LostError(answer.reason)
        return decode(answer.content, kind, board.name)

    def _ask(self, name: str, work: Callable[..., bytes], arguments: Sequence[Any]) -> bytes:
        import distributed

        for _ in range(MOST_TRIES):
            address = self._wait_for(name)
            given = [self._find_copy(each) if isinstance(each, Sent) else each for each in arguments]
            future = self._client.submit(
                work, *given, workers=[address], allow_other_workers=False, pure=False, retries=0
            )
            while not _is_done(future, LOOK_S) and address in self._names():
                if any(each.is_lost for each in arguments if isinstance(each, Sent)):
                    break
            if future.status == "finished":
                with suppress(distributed.TimeoutError, asyncio.CancelledError, CancelledError, OSError):
                    result: bytes = future.result(timeout=COMES_HOME_S)
                    return result
            if future.status == "error" and address in self._names():
                raise LostError(f"It failed: {_describe(future.exception())}")
            future.cancel()
        raise LostError(f"It went away {MOST_TRIES} times.")

    def _wait_for(self, name: str) -> str:
        """Return the address of a board."""
        end_s = time.monotonic() + PATIENCE_S
        while True:
            address = next((address for address, each in self._names().items() if each == name), None)
            if address is not None:
                return str(address)
            if time.monotonic() > end_s:
                raise LostError("It went away.")
            time.sleep(0.1)

    def _names(self) -> dict[str, str]:
        """Return the names of all workers by their addresses, as they were a moment ago."""
        with self._lock:
            if time.monotonic() > self._seen_s + LOOK_S / 4:
                try:
                    workers = self._client.scheduler_info(n_workers=-1)["workers"]
                except (OSError, RuntimeError) as error:
                    raise MissingError(f"The scheduler does not answer any more: {error!s:.200}") from None
                self._seen = {address: str(worker["name"]) for address, worker in workers.items()}
                self._seen_s = time.monotonic()
            return self._seen


def _is_done(future: Any, seconds: float) -> bool:
    """Wait for some work, and return True if it is done."""
    import distributed

    wait: Any = distributed.wait
    try:
        wait([future], timeout=seconds)
    except distributed.TimeoutError:
        return False
    except (asyncio.CancelledError, CancelledError):  # the scheduler has forgotten it, or what it needs
        return True
    return True


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, OfframpError) else f"{type(error).__name__}: {error!s:.200}"
