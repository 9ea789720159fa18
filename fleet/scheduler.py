"""The scheduler that work is given to: one that runs already, or one of this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from ..errors import MissingError, UsageError, require

__all__ = ["Tls", "connect", "make_security"]

SECONDS_TO_ANSWER = 30

NO_DASHBOARD: Any = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": False}}
"""Nobody looks at a scheduler that ends with its client, and the usual port may be taken."""

LARGE_TASK = "1GiB"
"""Dask warns of larger tasks: samples travel with them, some MB at a time."""


class Tls(Struct, frozen=True):
    """The files by which all processes of a fleet know each other, PEM.

    Attributes:
        ca: the certificate of the authority that signed all others.
        cert, key: this process' own certificate, and its private key.

    Example:
        >>> from offramp.fleet import Tls
        >>> Tls("ca.pem", "hub.pem", "hub.key").ca
        'ca.pem'
    """

    ca: str | os.PathLike[str]
    cert: str | os.PathLike[str]
    key: str | os.PathLike[str]


def make_security(tls: Tls | None) -> Any:
    """Return what Dask takes; without files None: it then reads its own configuration.

    Raises:
        UsageError: a file is not there.
    """
    if tls is None:
        return None
    files = {name: os.fspath(getattr(tls, name)) for name in ("ca", "cert", "key")}
    for path in files.values():
        if not os.access(path, os.R_OK):
            raise UsageError(
                f"{path} cannot be read: TLS takes the files of --tls-ca, --tls-cert and --tls-key.", path=path
            )
    roles = {
        f"tls_{role}_{kind}": files[kind] for role in ("client", "worker", "scheduler") for kind in ("cert", "key")
    }
    from distributed.security import Security

    security: Any = Security
    return security(tls_ca_file=files["ca"], require_encryption=True, **roles)


@contextmanager
def connect(scheduler: str | None = None, *, workers: int = 1, tls: Tls | None = None) -> Iterator[Any]:
    """Give a `distributed.Client`, and close it at the end.

    Args:
        scheduler: the address of a scheduler that runs, such as `"tcp://10.0.0.2:8786"`; without one, worker processes are
            started on this machine and end with the client.
        workers: how many processes are started on this machine, one thread each. A scheduler that runs has its own workers.
        tls: the files for an address `tls://`; by default those that Dask's own configuration names.

    Raises:
        MissingError: `distributed` is not installed, or nothing answers at the address.
        UsageError: a file for TLS is not there.

    Example:
        >>> from offramp.fleet import connect
        >>> with connect(workers=2) as client:  # doctest: +SKIP
        ...     print(client.submit(sum, [1, 2]).result())
        3
    """
    distributed, dask = require("distributed", extra="fleet"), require("dask", extra="fleet")
    security = make_security(tls)
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGE_TASK}):
        if scheduler is None:
            with (
                distributed.LocalCluster(n_workers=workers, threads_per_worker=1, **NO_DASHBOARD) as cluster,
                distributed.Client(cluster) as client,
            ):
                yield client
            return
        try:
            client = distributed.Client(scheduler, timeout=SECONDS_TO_ANSWER, security=security)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise MissingError(
                f"No scheduler answers at {scheduler!r:.200}: {error!s:.200}. Start one with: dask scheduler",
                device=scheduler,
            ) from error
        with client:
            yield client
