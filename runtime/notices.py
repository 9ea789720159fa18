"""Warnings that name the line of the program that called offramp, not a line of offramp's own."""

import sys
import warnings

from ..errors import printable

__all__ = ["warn_caller"]

PACKAGE_PREFIX = f"{__name__.partition('.')[0]}."


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the nearest line outside of offramp, however deep inside offramp the reason was found."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(PACKAGE_PREFIX):
        frame, level = frame.f_back, level + 1
    warnings.warn(printable(message), category, stacklevel=level)
