"""What a fork leaves of networks: the child has only the thread that forked, and no other one ever ends its call there.

At the end of the program other threads must not be in the midst of a call, either.
"""

import atexit
import contextlib
import ctypes
import os
from threading import RLock, get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from .lazy import LazyStage

if TYPE_CHECKING:
    from .net import Net

__all__ = ["FOLLOWERS", "LIVING", "members"]

Member = TypeVar("Member")

FORKED = (
    "This process was forked while another thread ran the network, and has half a call of it. Load the bundle here."
)

WAITS_S = 1.0
"""At the end of the program calls of other threads are waited for at most so long."""

LIVING: "WeakSet[Net]" = WeakSet()
"""The networks of this process."""

FOLLOWERS: "WeakSet[Any]" = WeakSet()
"""What else of this process has threads or locks, and goes on in a child by its `follow_fork`."""

LEFT_BEHIND: list[object] = []
"""In a child the stages that its parent compiled. Engines would wait for threads that are not here to free them."""

ctypes.pythonapi.Py_IncRef(ctypes.py_object(LEFT_BEHIND))  # else they are freed when the child ends


def members(things: "WeakSet[Member]") -> list[Member]:
    """Return what lives of a weak set, though other threads may add to it meanwhile."""
    while True:
        with contextlib.suppress(RuntimeError):  # it has changed
            return list(things)


def _follow_fork() -> None:
    """In a child close the networks that other threads were running, and those that share their stages."""
    nets = list(LIVING)
    compiled = [link.compiled for net in nets for link in (*net._links, *net._joined.values())]
    LEFT_BEHIND.extend(stage for stage in compiled if not isinstance(stage, LazyStage))  # which see to it themselves
    torn = set()
    for net in nets:
        if net._lock.acquire(blocking=False):
            net._lock.release()
        else:
            torn.add(id(net._tally.family))
    for net in nets:
        if id(net._tally.family) in torn:
            net._lock = RLock()
            net._close(FORKED)
    for other in list(FOLLOWERS):
        other.follow_fork()


class LastLock:
    """The lock of a network while the program ends: the thread that ends it still calls, every other one ends instead."""

    def __init__(self) -> None:
        lock: Any = RLock()
        self._thread, self._lock = get_ident(), lock
        self._is_owned, self.release = lock._is_owned, lock.release

    def acquire(self) -> None:
        """Take the lock."""
        if get_ident() != self._thread:
            raise SystemExit  # which a thread says nothing of
        self._lock.acquire()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


def _end_calls() -> None:
    """Wait for calls of other threads, and let them begin no more: Python aborts a program that ends while an engine runs."""
    end_s = monotonic() + WAITS_S
    for net in members(LIVING):
        if not isinstance(net._lock, LastLock):
            net._lock.acquire(timeout=max(0.0, end_s - monotonic()))
            net._lock = LastLock()


atexit.register(_end_calls)

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_follow_fork)
