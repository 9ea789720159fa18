"""The power of the board's rails, shown until a time is over or somebody interrupts."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from ..errors import MissingError
from .describe import describe_power
from .output import draws_on, print_text
from .schemas import encode_document

if TYPE_CHECKING:
    from ..devices.meter import Meter
    from ..devices.watch import Power
    from .power_command import Drawing

__all__ = ["watch_rails"]

Show = Callable[["Power", dict[str, float], float], None]
"""Shows what a watch has seen, the power of each rail since the last time in watts, and the seconds since the start."""


def watch_rails(
    meter: "Meter", for_s: float | None, every_s: float, as_json: bool, drawing: "Drawing | None" = None
) -> None:
    """Show the rails of a meter, then the sum.

    Args:
        meter: the meter.
        for_s: for how long; None until an interrupt.
        every_s: how often they are shown.
        as_json: print a JSON document per line.
        drawing: the picture to write, whose trace has the meter; None to draw nothing.

    Raises:
        MissingError: nothing could be read, or the picture cannot be written.
    """
    from ..devices.watch import WATCH_S, Watch

    watch = Watch(meter, poll_s=max(meter.poll_s, WATCH_S))
    watch.acquire()
    try:
        with _screen(as_json) as show:
            _show_until(watch.power, show, for_s, every_s)
    except (KeyboardInterrupt, BrokenPipeError):  # a broken pipe: nobody reads any more
        pass
    finally:
        watch.release()
    total = watch.power()
    print_text(encode_document({"sum": total}) if as_json else describe_power(total))
    if not total.seen_s:
        raise MissingError(f"Nothing could be read: {total.problem or 'there was no time for it'}.")
    if drawing is not None:
        drawing.write(total)


def _show_until(read: "Callable[[], Power]", show: Show, for_s: float | None, every_s: float) -> None:
    """Show readings every `every_s` seconds, for `for_s` seconds or without end."""
    start = last = time.monotonic()
    count = 0
    totals: dict[str, tuple[float, float]] = {}
    now_w: dict[str, float] = {}
    while for_s is None or last - start < for_s:
        count += 1
        due = start + count * every_s if for_s is None else start + min(count * every_s, for_s)
        time.sleep(max(0.0, due - last))
        last = time.monotonic()
        power = read()
        if power.problem is not None:
            now_w.clear()
        for name, rail in power.rails.items():
            joules, seconds = totals.get(name, (0.0, 0.0))
            if rail.seen_s > seconds:
                now_w[name] = (rail.energy_j - joules) / (rail.seen_s - seconds)
            totals[name] = rail.energy_j, rail.seen_s
        show(power, now_w, last - start)


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Show]:
    """Yield the function that shows readings: a table drawn anew if a person watches, else a line for each time."""
    if as_json or not draws_on(sys.stdout):
        yield _print_document if as_json else _print_line
        return
    from rich.live import Live

    with Live(transient=True) as live:
        yield lambda power, now_w, elapsed_s: live.update(describe_power(power, now_w))


def _print_line(power: "Power", now_w: dict[str, float], elapsed_s: float) -> None:
    rails = "  ".join(f"{name} {watts:.3f} W" for name, watts in now_w.items())
    _print_now(f"{elapsed_s:8.1f} s  {rails or power.problem or 'no readings yet'}")


def _print_document(power: "Power", now_w: dict[str, float], elapsed_s: float) -> None:
    state = {"problem": power.problem, "throttled": power.throttled, "temperature_c": power.state.temperature_c}
    document = {"elapsed_s": round(elapsed_s, 3), "power_w": now_w, "energy_j": power.energy_j, **state}
    _print_now(encode_document(document))


def _print_now(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()
