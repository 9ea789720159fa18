"""The command `offramp serve`: its options, and the calls that make a server and run it."""

import os
from pathlib import Path

import click

from ...errors import UsageError, quoted, require
from ..loading import Loading, with_loading
from ..options import examples, parse_seconds
from ..output import advises, note, progress_bars

TOKEN = "OFFRAMP_SERVE_TOKEN"


@click.command(epilog=examples("offramp serve digits.offramp --port 8000"))
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Name in the address, one for each bundle. Default: the bundle's, digits of digits.offramp.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of them.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 is any.")
@with_loading()
@click.option("--stages", is_flag=True, help="Serve each stage, too, as NAME:stage0 and so on, for chains elsewhere.")
@click.option(
    "--workers", default=1, show_default=True, help="Threads that answer for each network, each with its own memory."
)
@click.option(
    "--together/--alone", default=None, help="Answer requests that wait together, or not. Default: what is faster."
)
@click.option("--most-waiting", default=512, show_default=True, help="Requests under way; more are refused.")
@click.option("--most-samples", default=256, show_default=True, help="Samples in one request.")
@click.option("--most-body-mb", default=16.0, show_default=True, help="Longest body in MiB.")
@click.option(
    "--timeout",
    default="30s",
    show_default=True,
    help="Time for a body to come, and once more for its answer: 500ms.",
)
@click.option(
    "--token-file", help=f"File with the token that requests must show. Default: the variable {TOKEN}, or none."
)
@click.option("--tls-cert", help="File with the certificate for TLS (PEM).")
@click.option("--tls-key", help="File with its private key (PEM).")
@advises("The same command starts again.")
def serve(
    bundles: tuple[str, ...],
    names: tuple[str, ...],
    host: str,
    port: int,
    loading: Loading,
    stages: bool,
    workers: int,
    together: bool | None,
    most_waiting: int,
    most_samples: int,
    most_body_mb: float,
    timeout: str,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
) -> None:
    """Answer requests for BUNDLE over HTTP, by the Open Inference Protocol (KServe v2).

    SIGTERM and Ctrl-C end it: requests under way are answered. /metrics shows counts for Prometheus, /openapi.json all
    addresses. A token is never given on the command line, where every user of the machine sees it.
    """
    from ...bundle import open_bundle
    from ...serve import Limits, make_app, open_model, open_socket
    from ...serve import serve as run_server

    require("uvicorn", extra="serve")
    if names and len(names) != len(bundles):
        raise UsageError(f"There are {len(bundles)} bundles and {len(names)} names: give --name once for each.")
    limits = Limits(
        body_bytes=most_body_mb * 2**20,
        samples=most_samples,
        waiting=most_waiting,
        timeout_s=parse_seconds("--timeout", timeout),
    )
    token = _read_token(token_file)
    listening = open_socket(host, port)  # a port that is taken shows before anything is loaded
    models = []
    with progress_bars() as progress:
        for path, name in zip(bundles, names or (None,) * len(bundles), strict=True):
            bundle = open_bundle(path)
            arguments = loading.arguments(bundle)
            models.append(open_model(bundle, name, joins=together, stages=stages, progress=progress, **arguments))
    app = make_app(models, limits=limits, token=token, workers=workers)
    address = listening.getsockname()
    if token is None and not address[0].startswith("127.") and address[0] != "::1":
        note("Note: anybody who reaches this address may ask: give a token, or listen on 127.0.0.1.")
    where = f"http{'s' if tls_cert else ''}://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
    note(f"Note: serving {', '.join(model.name for model in models)} at {where}")
    run_server(app, listening, tls_cert=tls_cert, tls_key=tls_key)


def _read_token(path: str | None) -> str | None:
    """Return the token in a file, or in the environment; None if there is neither."""
    if path is None:
        return os.environ.get(TOKEN) or None
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"Cannot read a token from {quoted(path)}: {quoted(error)}.", path=path) from error
