"""A board that works for a scheduler: one Dask worker with one thread, until it is told to end."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from ..cache import make_cache_folder
from ..errors import MissingError, UsageError, require
from .scheduler import SECONDS_TO_ANSWER, Tls, make_security

__all__ = ["run_worker"]

QUIET = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
}
"""Nothing is written to a board's disk for want of memory, and no profiler looks on while latencies are measured."""


def run_worker(
    scheduler: str, *, name: str | None = None, tls: Tls | None = None, ready: Callable[[str, str], None] | None = None
) -> None:
    """Work for a scheduler until SIGTERM, Ctrl-C, or the end of the scheduler.

    Whoever reaches a port of the scheduler or of this process runs code here: give TLS files, or keep the ports to yourself.

    Args:
        scheduler: its address: `"tcp://10.0.0.2:8786"`, or `"tls://10.0.0.2:8786"` with the files.
        name: of this board; the host's by default.
        tls: the files for an address `tls://`; by default those that Dask's own configuration names.
        ready: is called with the name and the address at which this process listens, once it is connected.

    Raises:
        MissingError: `distributed` is not installed, or nothing answers at the address.
        UsageError: a file for TLS is not there, or the scheduler has a board of this name.

    Example:
        >>> from offramp.fleet import run_worker
        >>> run_worker("tcp://10.0.0.2:8786", name="pi5-01")  # doctest: +SKIP
    """
    dask = require("dask", extra="fleet")
    require("distributed", extra="fleet")
    security = make_security(tls)
    name = name or socket.gethostname()
    with dask.config.set(QUIET):
        try:
            asyncio.run(_work(scheduler, name, security, ready))
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            reason = f"{error.__cause__ or error!s:.200}".rstrip(".")
            if "name taken" in reason:
                raise UsageError(
                    f"The scheduler at {scheduler!r:.200} has a board named {name!r:.100}: give this one another name (--name). "
                    "The name of a board that has lost its power is free after some minutes.",
                    device=scheduler,
                ) from error
            raise MissingError(
                f"No scheduler answers at {scheduler!r:.200}: {reason}. Start one with: dask scheduler",
                device=scheduler,
            ) from error


async def _work(scheduler: str, name: str, security: Any, ready: Callable[[str, str], None] | None) -> None:
    from distributed import Worker

    worker: Any = Worker(
        scheduler,
        nthreads=1,
        name=name,
        security=security,
        memory_limit=0,
        resources={"board": 1},
        local_directory=os.fspath(make_cache_folder()),
        death_timeout=SECONDS_TO_ANSWER,
        dashboard=False,
    )
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(
            NotImplementedError, RuntimeError, ValueError
        ):  # on Windows, and outside the main thread
            loop.add_signal_handler(each, ended.set)
    async with worker:
        if ready is not None:
            ready(name, worker.address)
        finished = asyncio.ensure_future(worker.finished())
        await asyncio.wait([finished, asyncio.ensure_future(ended.wait())], return_when=asyncio.FIRST_COMPLETED)
