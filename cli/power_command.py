"""The energy of a command: it is started, measured until it ends, and stopped with all that it has started."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import CheckError, MeasurementError, MissingError
from .output import print_text

if TYPE_CHECKING:
    from ..devices.meter import Meter

__all__ = ["measure_command", "signals_interrupt"]

STOP_S = 5.0
"""A command that is told to end may take this long; then it is killed."""

KILL_S = 1.0
"""The processes that it has started may take this much longer."""


def measure_command(meter: "Meter", command: Sequence[str], for_s: float | None, idle_s: float, as_json: bool) -> None:
    """Measure a command and print its energy. Its own output goes to stderr, since stdout is for the result.

    Args:
        meter: the meter.
        command: the command and its arguments.
        for_s: stop the command after this time; None to wait until it ends.
        idle_s: measure the board at rest for so long before and after it.
        as_json: print one JSON document.

    Raises:
        MissingError: the command does not start.
        CheckError: the command fails.
        MeasurementError: the command was too short for the meter, or the meter could not be read.
    """
    with meter.window(idle_s=idle_s) as window:
        code = _run(command, for_s)
    failure = f"The command {command[0]} ended with {code}." if code else None
    try:
        energy = window.energy
    except MeasurementError as error:
        if failure:
            raise CheckError(f"{failure} {error}") from error
        raise
    print_text(msgspec.json.encode({"sum": energy, "exit_code": code}).decode() if as_json else str(energy))
    if failure:
        raise CheckError(f"{failure} The joules are those until then.")


def _run(command: Sequence[str], for_s: float | None) -> int | None:
    """Run a command and return its exit code, or None if it was stopped after `for_s` or by an interrupt."""
    try:
        process = subprocess.Popen(command, stdout=sys.stderr.fileno())
    except OSError as error:
        raise MissingError(f"The command {command[0]} does not start: {error.strerror}.", path=command[0]) from error
    try:
        return process.wait(for_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        _stop(process)
        return None
    except BaseException:
        _stop(process)
        raise


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a command and the processes it has started."""
    import psutil

    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []

    def is_alive(child: Any) -> bool:
        try:
            return bool(child.is_running() and child.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    process.terminate()
    for child in filter(is_alive, children):
        child.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    end = time.monotonic() + KILL_S
    while any(map(is_alive, children)) and time.monotonic() < end:
        time.sleep(0.01)
    for child in filter(is_alive, children):
        child.kill()


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Turn signals that end a service or come from a closed terminal into interrupts, so that the sum is still printed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handlers = {
        number: signal.signal(number, interrupt)
        for name in ("SIGTERM", "SIGHUP")
        if (number := getattr(signal, name, None))
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
