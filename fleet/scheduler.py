"""The scheduler that work is given to: one that runs already, or one of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import MissingError, require

__all__ = ["connect"]

SECONDS_TO_ANSWER = 30


@contextmanager
def connect(scheduler: str | None = None, *, workers: int = 1) -> Iterator[Any]:
    """Give a `distributed.Client`, and close it at the end.

    Args:
        scheduler: the address of a scheduler that runs, such as `"tcp://10.0.0.2:8786"`; without one, worker processes are
            started on this machine and end with the client.
        workers: how many processes are started on this machine, one thread each. A scheduler that runs has its own workers.

    Raises:
        MissingError: `distributed` is not installed, or nothing answers at the address.

    Example:
        >>> with connect(workers=2) as client:
        ...     client.submit(sum, [1, 2]).result()
        3
    """
    distributed = require("distributed", extra="fleet")
    if scheduler is None:
        with (
            distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = distributed.Client(scheduler, timeout=SECONDS_TO_ANSWER)
    except (OSError, ValueError) as error:
        raise MissingError(
            f"No scheduler answers at {scheduler!r:.200}: {error!s:.200}. Start one with: dask scheduler",
            device=scheduler,
        ) from error
    with client:
        yield client
