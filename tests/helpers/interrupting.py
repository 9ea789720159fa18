"""Interruptions at any line of some work, as Ctrl-C makes them, and the ends of forked processes."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import offramp.runtime

RUNTIME = Path(offramp.runtime.__file__).parent


def exit_code_of(child: int) -> int | None:
    """Return the exit code of a forked process; None if it hangs, and then it is killed."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class Interrupted(BaseException):
    """As KeyboardInterrupt, which would end the tests."""


def interrupt_at(line: int, work: Callable[[], object], folder: Path = RUNTIME) -> bool:
    """Do some work and raise `Interrupted` at the n-th line that it runs in a folder; return whether it came so far."""
    seen, prefix = 0, str(folder)

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(prefix):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def free(lock: Any) -> None:
    """Let go of a lock that an interruption at the line of its release left: a tracer can interrupt there, a signal cannot."""
    while lock._is_owned():
        lock.release()
