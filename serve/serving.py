"""Make the server of some models, and run it."""

import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import MissingError, UsageError, quoted, require
from ..runtime.metrics.collection import Metrics
from .models import ServedModel
from .tasks import Limits, ServedTensors
from .workers import Workers

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from .app import App

__all__ = ["make_app", "open_socket", "serve"]

MOST_WORKERS = 64
"""No server has more threads for a model."""

END_S = 5
"""At the end connections are closed that wait so much longer than an answer may take."""


def make_app(
    models: ServedModel | Sequence[ServedModel],
    *,
    limits: Limits | None = None,
    token: str | None = None,
    workers: int = 1,
    registry: "CollectorRegistry | None" = None,
) -> "App":
    """Make a server of the Open Inference Protocol, as an ASGI application that any ASGI server runs.

    Args:
        models: the networks, each under its own name.
        limits: what the server takes on.
        token: what each request must show as `Authorization: Bearer`, but for those about health. None lets anybody ask.
        workers: threads for each model, each with a clone of the network.
        registry: where the server counts, and what `/metrics` shows. By default a new one, which shows the `runtime.Metrics` of
            each network, too.

    Raises:
        UsageError: two models have the same name, or an argument is out of range.
        MissingError: a package is missing.

    Example:
        >>> from offramp.serve import make_app, open_model
        >>> app = make_app(open_model("digits.offramp"))
        >>> app.limits.samples
        256
    """
    for package in ("starlette", "prometheus_client"):
        require(package, extra="serve")
    from prometheus_client import CollectorRegistry

    from .app import App

    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"workers is a whole number from 1 to {MOST_WORKERS}, not {workers!r:.30}.")
    if token is not None and (not token.isascii() or not token.isprintable() or len(token) < LEAST_TOKEN):
        raise UsageError(f"A token has {LEAST_TOKEN} or more printable ASCII characters.")
    networks = [models] if isinstance(models, ServedModel) else list(models)
    parts: list[ServedTensors] = [*networks, *(stage for model in networks for stage in model.stages)]
    if twice := {part.name for part in parts if [each.name for each in parts].count(part.name) > 1}:
        raise UsageError(f"Two models are called {min(twice)}: give each a name of its own.")
    if registry is None:
        registry = CollectorRegistry()
        counting = {model.name: Metrics(model.net, name=model.name) for model in networks}  # before workers clone them
        first, *others = counting.values()
        registry.register(first.collector(*others))
    return App(
        {part.name: (part, Workers(part, workers)) for part in parts},
        limits=limits or Limits(),
        token=token,
        registry=registry,
    )


LEAST_TOKEN = 16
"""A shorter token can be guessed."""


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any that is free.

    Raises:
        UsageError: there is no such address, or another program has it.
        MissingError: it takes a permission.

    Example:
        >>> from offramp.serve import open_socket
        >>> with open_socket("127.0.0.1", 0) as listening:
        ...     listening.getsockname()[0]
        '127.0.0.1'
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=1024)
        listening.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # else a body waits 40 ms until its head was received
        return listening
    except PermissionError as error:
        raise MissingError(f"Listening on port {port} takes a permission. Take a port above 1023.") from error
    except (OSError, OverflowError, UnicodeError) as error:
        raise UsageError(f"Cannot listen on {quoted(host)}, port {port}: {quoted(error)}.") from error


def serve(
    app: "App",
    listening: socket.socket | None = None,
    *,
    tls_cert: str | None = None,
    tls_key: str | None = None,
) -> None:
    """Run a server until SIGTERM or Ctrl-C: it then takes no new requests, and answers those that are under way.

    Args:
        app: the server.
        listening: where, as `open_socket` returns it; by default port 8000 of 127.0.0.1, which only this machine reaches.
        tls_cert, tls_key: files with its certificate and key; without them it speaks plain HTTP.

    Raises:
        UsageError: a file of TLS cannot be read.
        MissingError: uvicorn is missing.

    Example:
        >>> from offramp.serve import make_app, open_model, open_socket, serve
        >>> app = make_app(open_model("digits.offramp"))
        >>> serve(app, open_socket("127.0.0.1", 8000))  # doctest: +SKIP
    """
    server = make_server(app, tls_cert=tls_cert, tls_key=tls_key)
    with _signals_end(server):
        server.run(sockets=[listening or open_socket("127.0.0.1", 8000)])


def make_server(app: "App", *, tls_cert: str | None = None, tls_key: str | None = None) -> Any:
    """Return uvicorn's server of an application, with limits on heads and connections."""
    uvicorn = require("uvicorn", extra="serve")
    from .connections import HEAD_BYTES, Connection

    if (tls_cert is None) != (tls_key is None):
        raise UsageError("TLS takes a certificate and its key: --tls-cert and --tls-key.")
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=int(2 * app.limits.timeout_s) + END_S,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    try:
        config.load()
    except OSError as error:  # ssl's errors are of this type, too
        raise UsageError(f"TLS cannot use {tls_cert} and {tls_key}: {quoted(error)}.") from error
    return uvicorn.Server(config)


@contextmanager
def _signals_end(server: Any) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the server. Uvicorn raises them once more when it has ended, which shall not end the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
