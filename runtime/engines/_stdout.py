"""What vendors' libraries print while they start goes to stderr, since results go to stdout."""

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def printing_to_stderr(*, drops: bool = False) -> Iterator[None]:
    """Send to stderr whatever the process prints in this block, from Python or by a library's `printf`; or drop the latter."""
    with _one_at_a_time:
        try:
            os.fstat(2)
            stdout = os.dup(1)
        except OSError:  # the process has no stdout, or no stderr
            stdout = None
        if stdout is None:
            yield
            return
        target = os.open(os.devnull, os.O_WRONLY) if drops else 2
        try:
            with contextlib.suppress(AttributeError, OSError, ValueError):
                sys.stdout.flush()
            os.dup2(target, 1)
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)  # what C's printf still buffers
            os.dup2(stdout, 1)
            os.close(stdout)
            if drops:
                os.close(target)
