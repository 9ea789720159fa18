"""The command `offramp power`: its options, one call, and what it prints."""

from typing import TYPE_CHECKING

import click

from ...errors import UsageError
from ..meters import open_meter
from ..options import examples, parse_seconds, with_meter, with_plot
from ..output import print_text
from ..power_command import Drawing, measure_command, signals_interrupt
from ..power_watch import watch_rails
from ..schemas import encode_document

if TYPE_CHECKING:
    from ...devices.meter import Meter


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog=examples("offramp power --for 10s", "offramp power --idle 3s -- python product.py"),
)
@with_meter
@click.option("--for", "duration", help="How long to measure: 10s, 500ms, 2m. Default: until interrupted.")
@click.option("--every", default="1s", show_default=True, help="How often to show or print the rails.")
@click.option("--idle", default="0s", help="With COMMAND: measure the board at rest for so long before and after it.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document per line: the meter, each reading, the sum."
)
@with_plot("the power of each rail over time")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def power(
    meter: str,
    duration: str | None,
    every: str,
    idle: str,
    as_json: bool,
    plot: str | None,
    command: tuple[str, ...],
) -> None:
    """Show the power of the board's rails, or measure COMMAND.

    An interrupt ends the measurement, and COMMAND too, and prints the sum. COMMAND is measured until it ends; with --for it is
    stopped after that time. Its own output goes to stderr.
    """
    for_s = None if duration is None else parse_seconds("--for", duration, least=0.01 if command else 1.0)
    every_s, idle_s = parse_seconds("--every", every), parse_seconds("--idle", idle, least=0.0)
    if idle_s and not command:
        raise UsageError("--idle goes with a command: offramp power --idle 3s -- COMMAND")
    source = open_meter(meter)
    drawing = None if plot is None else Drawing.begin(source, plot)
    source = source if drawing is None else drawing.trace.meter
    if as_json and not _print_head(source) and not command:
        return
    with signals_interrupt():
        if command:
            measure_command(source, command, for_s, idle_s, as_json, drawing)
        else:
            watch_rails(source, for_s, every_s, as_json, drawing)


def _print_head(meter: "Meter") -> bool:
    """Print a document about the meter; return False if nobody reads."""
    from ...devices import fingerprint

    head = {
        "meter": meter.name,
        "scope": meter.scope,
        "grade": meter.grade,
        "rails": [{"name": rail.name, "role": rail.role, "covers": rail.covers} for rail in meter.rails],
        "fingerprint": fingerprint(meter=f"{meter.name}: {meter.scope}"),
    }
    return print_text(encode_document(head))
