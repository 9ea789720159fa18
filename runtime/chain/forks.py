"""What a fork leaves of networks: the child has only the thread that forked, and no other one ever ends its call there."""

import os
from threading import RLock
from typing import TYPE_CHECKING
from weakref import WeakSet

from .lazy import LazyStage

if TYPE_CHECKING:
    from .net import Net

__all__ = ["LIVING"]

FORKED = (
    "This process was forked while another thread ran the network, and has half a call of it. Load the bundle here."
)

LIVING: "WeakSet[Net]" = WeakSet()
"""The networks of this process."""

LEFT_BEHIND: list[object] = []
"""In a child the stages that its parent compiled. ONNX Runtime would wait for threads that are not here to free them."""


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


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_follow_fork)
