"""What the runtime tells the program that runs it: warnings, and why something was chosen, in the log at level debug."""

import sys
import warnings

__all__ = ["log_debug", "warn_caller"]

PACKAGE_PREFIX = f"{__name__.partition('.')[0]}."


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the nearest line outside of offramp, however deep inside offramp the reason was found."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(PACKAGE_PREFIX):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def log_debug(logger: str, message: str, *values: object) -> None:
    """Log at level debug if the program has imported `logging`. Nobody else waits the milliseconds that its import takes.

    Args:
        logger: the logger's name, a module's `__name__`.
        message, values: as for `logging.debug`.
    """
    if (logging := sys.modules.get("logging")) is not None:
        logging.getLogger(logger).debug(message, *values)
