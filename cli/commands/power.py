"""The commands that measure power: of the board, of a command, of each exit."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ...errors import CheckError, MeasurementError, MissingError, UsageError
from ..describe import describe_power
from ..meters import open_meter
from ..options import parse_seconds, with_meter
from ..output import print_text

if TYPE_CHECKING:
    from ...devices.meter import Meter
    from ...devices.watch import Power


STOP_S = 5.0
"""How long a command may take to end when it is told to."""


@click.command(context_settings={"allow_interspersed_args": False})
@with_meter
@click.option("--for", "duration", help="How long to measure: 10s, 500ms, 2m. Until interrupted by default.")
@click.option("--every", default="1s", show_default=True, help="How often to show or print the rails.")
@click.option("--idle", default="0s", help="With COMMAND: measure the board at rest for so long before and after it.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document a line: what measures, each reading, the sum."
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def power(meter: str, duration: str | None, every: str, idle: str, as_json: bool, command: tuple[str, ...]) -> None:
    """Show the power of the board's rails, or measure COMMAND.

    An interrupt ends it, COMMAND too, and prints the sum. COMMAND is measured until it ends; with --for it is stopped after that
    time. What it prints goes to stderr.
    """
    from ...devices import fingerprint
    from ...devices.meter import Meter

    for_s = None if duration is None else parse_seconds("--for", duration, least=0.01 if command else 1.0)
    every_s, idle_s = parse_seconds("--every", every), parse_seconds("--idle", idle, least=0.0)
    if idle_s and not command:
        raise UsageError("--idle goes with a command: offramp power --idle 3s -- COMMAND")
    found: Meter = open_meter(meter)
    fields = fingerprint(meter=f"{found.name}: {found.scope}")
    if as_json:
        rails = [{"name": rail.name, "role": rail.role, "covers": rail.covers} for rail in found.rails]
        head = {"meter": found.name, "scope": found.scope, "grade": found.grade, "rails": rails, "fingerprint": fields}
        if not print_text(msgspec.json.encode(head).decode()) and not command:
            return
    with _ended_by_signals():
        if command:
            _measure_command(found, command, for_s, idle_s, as_json)
        else:
            _watch(found, for_s, every_s, as_json)


def _watch(meter: "Meter", for_s: float | None, every_s: float, as_json: bool) -> None:
    """Show the rails until the time is over or somebody interrupts, then the sum."""
    from ...devices.watch import WATCH_S, Watch

    watch = Watch(meter, poll_s=max(meter.poll_s, WATCH_S))
    watch.acquire()
    start = last = time.monotonic()
    turn = 0
    known: dict[str, tuple[float, float]] = {}
    now_w: dict[str, float] = {}
    with _screen(as_json) as show:
        try:
            while for_s is None or last - start < for_s:
                turn += 1
                due = start + turn * every_s if for_s is None else start + min(turn * every_s, for_s)
                time.sleep(max(0.0, due - last))
                last = time.monotonic()
                seen = watch.power()
                if seen.problem is not None:
                    now_w.clear()
                for name, rail in seen.rails.items():
                    joules, seconds = known.get(name, (0.0, 0.0))
                    if rail.seen_s > seconds:
                        now_w[name] = (rail.energy_j - joules) / (rail.seen_s - seconds)
                    known[name] = rail.energy_j, rail.seen_s
                show(seen, now_w, last - start)
        except (KeyboardInterrupt, BrokenPipeError):  # or nobody reads any more
            pass
        finally:
            watch.release()
    seen = watch.power()
    if as_json:
        print_text(msgspec.json.encode({"sum": seen}).decode())
    else:
        print_text(describe_power(seen))
    if not seen.seen_s:
        raise MissingError(f"Nothing could be read: {seen.problem or 'there was no time for it'}.")


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Callable[["Power", dict[str, float], float], None]]:
    """Give what shows readings: a table that is drawn anew where a person watches, else a line for each time."""

    def line(seen: "Power", now_w: dict[str, float], elapsed_s: float) -> None:
        rails = "  ".join(f"{name} {watts:.3f} W" for name, watts in now_w.items())
        click.echo(f"{elapsed_s:8.1f} s  {rails or seen.problem or 'no readings yet'}")
        sys.stdout.flush()

    def document(seen: "Power", now_w: dict[str, float], elapsed_s: float) -> None:
        state = {"problem": seen.problem, "throttled": seen.throttled, "temperature_c": seen.state.temperature_c}
        _print_line({"elapsed_s": round(elapsed_s, 3), "power_w": now_w, "energy_j": seen.energy_j, **state})

    if as_json or not sys.stdout.isatty():
        yield document if as_json else line
        return
    from rich.live import Live

    with Live(transient=True) as live:
        yield lambda seen, now_w, elapsed_s: live.update(describe_power(seen, now_w))


def _measure_command(meter: "Meter", command: Sequence[str], for_s: float | None, idle_s: float, as_json: bool) -> None:
    """Measure a command; what it prints goes to stderr, since stdout is for the result."""
    stopped = False
    with meter.window(idle_s=idle_s) as window:
        try:
            process = subprocess.Popen(command, stdout=sys.stderr.fileno())
        except OSError as error:
            raise MissingError(f"The command {command[0]} does not start: {error.strerror}.") from error
        try:
            code = process.wait(for_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            stopped = True
            code = _stop(process)
        except BaseException:
            _stop(process)
            raise
    failed = f"The command {command[0]} ended with {code}." if code and not stopped else None
    try:
        energy = window.energy
    except MeasurementError as error:
        if failed:
            raise CheckError(f"{failed} {error}") from error
        raise
    if as_json:
        print_text(msgspec.json.encode({"sum": energy, "exit_code": None if stopped else code}).decode())
    else:
        print_text(str(energy))
    if failed:
        raise CheckError(f"{failed} The joules are those until then.")


def _stop(process: "subprocess.Popen[bytes]") -> int:
    """Stop a command and what it has started."""
    import psutil

    try:
        everyone = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        everyone = []

    def alive(one: Any) -> bool:
        try:
            return bool(one.is_running() and one.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    process.terminate()
    for one in filter(alive, everyone):
        one.terminate()
    try:
        code = process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    end = time.monotonic() + 1
    while any(map(alive, everyone)) and time.monotonic() < end:
        time.sleep(0.01)
    for one in filter(alive, everyone):
        one.kill()
    return code


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Take what ends a service, or comes when a terminal is closed, for an interrupt: it shall end with the sum."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    known = {
        number: signal.signal(number, interrupt)
        for name in ("SIGTERM", "SIGHUP")
        if (number := getattr(signal, name, None))
    }
    try:
        yield
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)


def _print_line(document: Any) -> None:
    click.echo(msgspec.json.encode(document).decode())
    sys.stdout.flush()
