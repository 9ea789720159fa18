"""What libraries of vendors print while they start goes to stderr: on stdout are results."""

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Let everything that the process prints meanwhile go to stderr, by Python or by a library's own `printf`."""
    with _one_at_a_time:
        try:
            os.fstat(2)
            kept = os.dup(1)
        except OSError:  # there is no stdout, or no stderr
            kept = None
        if kept is None:
            yield
            return
        try:
            with contextlib.suppress(AttributeError, OSError, ValueError):
                sys.stdout.flush()
            os.dup2(2, 1)
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)  # what C's printf still holds
            os.dup2(kept, 1)
            os.close(kept)
