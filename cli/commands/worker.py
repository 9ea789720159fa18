"""The command `offramp worker`: its options, one call, and what it prints."""

from typing import TYPE_CHECKING

import click

from ..fleet_view import with_tls
from ..options import as_json, examples
from ..output import note, print_result

if TYPE_CHECKING:
    from ...fleet import Tls


@click.command(
    epilog=examples(
        "offramp worker tcp://10.0.0.2:8786",
        "offramp worker tls://10.0.0.2:8786 --tls-ca ca.pem \\\n    --tls-cert board.pem --tls-key board.key",
    )
)
@click.argument("scheduler")
@click.option("--name", help="Name of this board. Default: the host's.")
@with_tls
@as_json
def worker(scheduler: str, name: str | None, tls: "Tls | None", as_json: bool) -> None:
    """Let this board work for SCHEDULER, such as tcp://10.0.0.2:8786, so that offramp calibrate --fleet can use it.

    SIGTERM and Ctrl-C end it. Needs no torch. Whoever reaches a port of the scheduler or of this process runs code here: use
    tls:// with the three files, or a network of your own. With --json it prints its name and address when it is connected.
    """
    from ...fleet import run_worker

    def tell(name: str, address: str) -> None:
        if not scheduler.startswith("tls://") and "127.0.0.1" not in address:
            note(
                f"Note: whoever reaches {address} or {scheduler} runs code here: use tls://, or a network of your own."
            )
        note(f"Note: {name} works for {scheduler}, and listens at {address}")
        if as_json:
            print_result({"name": name, "address": address}, True, str)

    run_worker(scheduler, name=name, tls=tls, ready=tell)
