"""The energy of a command: it is started, measured until it ends, and stopped with all that it has started."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CheckError, MeasurementError, MissingError
from .output import print_text
from .schemas import encode_document

if TYPE_CHECKING:
    import psutil

    from ..devices import Energy, Power, PowerTrace
    from ..devices.meter import Meter

__all__ = ["Drawing", "measure_command", "signals_interrupt"]

PR_SET_CHILD_SUBREAPER = 36
"""Linux, prctl(2)."""

STOP_S = 5.0
"""A command that is told to end may take this long; then it is killed."""

KILL_S = 1.0
"""The processes that it has started may take this much longer."""


class Drawing(NamedTuple):
    """What --plot asks for: the readings, and the file of their picture."""

    trace: "PowerTrace"
    output: str

    @classmethod
    def begin(cls, meter: "Meter", output: str) -> "Drawing":
        """Keep a meter's readings for a picture.

        Raises:
            UsageError, MissingError: no such picture can be written here.
        """
        from ..devices import PowerTrace
        from ..pictures import check_picture

        check_picture(output)
        return cls(PowerTrace(meter), output)

    def write(self, energy: "Energy | Power") -> None:
        """Write the picture."""
        from ..devices import draw_power

        draw_power(self.trace, self.output, energy=energy)


def measure_command(
    meter: "Meter",
    command: Sequence[str],
    for_s: float | None,
    idle_s: float,
    as_json: bool,
    drawing: Drawing | None = None,
) -> None:
    """Measure a command and print its energy. Its own output goes to stderr, since stdout is for the result.

    Args:
        meter: the meter.
        command: the command and its arguments.
        for_s: stop the command after this time; None to wait until it ends.
        idle_s: measure the board at rest for so long before and after it.
        as_json: print one JSON document.
        drawing: the picture to write, whose trace has the meter; None to draw nothing.

    Raises:
        MissingError: the command does not start, or the picture cannot be written.
        CheckError: the command fails.
        MeasurementError: the command was too short for the meter, or the meter could not be read.
    """
    phase = contextlib.nullcontext() if drawing is None else drawing.trace.phase(command[0])
    with meter.window(idle_s=idle_s) as window, phase:
        code = _run(command, for_s)
    failure = f"The command {command[0]} ended with {code}." if code else None
    try:
        energy = window.energy
    except MeasurementError as error:
        if failure:
            raise CheckError(f"{failure} {error}") from error
        raise
    print_text(encode_document({"sum": energy, "exit_code": code}) if as_json else str(energy))
    if drawing is not None:
        drawing.write(energy)
    if failure:
        raise CheckError(f"{failure} The joules are those until then.")


def _run(command: Sequence[str], for_s: float | None) -> int | None:
    """Run a command and return its exit code, or None if it was stopped after `for_s` or by an interrupt."""
    import psutil

    adopt_orphans()
    before = set(psutil.Process().children(recursive=True))
    process = None
    try:
        with signals_held():  # an interrupt while the command starts would lose it
            process = subprocess.Popen(command, stdout=sys.stderr.fileno())
        return process.wait(for_s)
    except OSError as error:
        raise MissingError(f"The command {command[0]} does not start: {error.strerror}.", path=command[0]) from error
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        return None
    finally:
        if process is not None and process.returncode is None:
            with signals_held(raises=False):  # a second signal would leave it running
                _stop(process, before)


def _stop(process: "subprocess.Popen[bytes]", before: "set[psutil.Process]") -> None:
    """Stop a command and the processes it has started: all children of this process but those that were there before."""
    import psutil

    def children() -> list[psutil.Process]:
        return [child for child in psutil.Process().children(recursive=True) if child not in before]

    def is_alive(child: psutil.Process) -> bool:
        try:
            return bool(child.is_running() and child.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    started = children()
    for child in filter(is_alive, started):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    end = time.monotonic() + KILL_S
    while any(map(is_alive, started)) and time.monotonic() < end:
        time.sleep(0.01)
    for child in filter(is_alive, [*started, *children()]):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def adopt_orphans() -> None:
    """Become the parent of what children leave behind, where the kernel knows that: else a command in the background is lost."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Turn signals that end a service or come from a closed terminal into interrupts, so that the sum is still printed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with _handlers(interrupt, "SIGTERM", "SIGHUP"):
        yield


@contextlib.contextmanager
def signals_held(*, raises: bool = True) -> Iterator[None]:
    """Let no signal interrupt the block. One that came meanwhile interrupts behind it, unless `raises` is false."""
    came: list[object] = []
    with _handlers(lambda *_: came.append(True), "SIGINT", "SIGTERM", "SIGHUP"):
        yield
    if came and raises:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handlers(handler: Callable[..., object], *names: str) -> Iterator[None]:
    """Handle signals in another way for a while, in the main thread, which alone may do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for name in names if (number := getattr(signal, name, None))]
    earlier = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in earlier.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
