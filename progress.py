"""How long work reports its progress, and how all of offramp says what it decides, to whoever debugs."""

import sys
from collections.abc import Callable

__all__ = ["Progress", "debug", "is_debugging", "no_progress"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done and how many there are: `progress("compiling", 1, 3)`."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


def debug(message: str, *arguments: object) -> None:
    """Log a line at level debug, under the name of the module that calls.

    Nobody hears it in a program that does not use `logging`, which takes 3 ms and 0.8 MB to import.
    """
    if logging := sys.modules.get("logging"):
        logging.getLogger(sys._getframe(1).f_globals["__name__"]).debug(message, *arguments, stacklevel=2)


def is_debugging() -> bool:
    """Tell whether somebody listens to offramp at level debug: engines may then say on stderr what they do."""
    logging = sys.modules.get("logging")
    return logging is not None and bool(logging.getLogger("offramp").isEnabledFor(logging.DEBUG))
