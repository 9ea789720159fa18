"""Figures of a table's column: one unit and equally many decimals for all, so that they can be compared at a glance."""

import math
from collections.abc import Sequence

from msgspec import Struct

__all__ = ["Column", "show_joules_column", "show_times_column"]

MOST_DECIMALS, DIGITS = 3, 3
"""Decimals at most, and digits that the smallest figure of a column shows."""


class Column(Struct, frozen=True):
    """A column: its unit, and the text of each figure; `-` for one that is unknown."""

    unit: str
    texts: tuple[str, ...]


def show_times_column(seconds: Sequence[float | None]) -> Column:
    """Write times, all in the unit of the longest.

    Example:
        >>> show_times_column([0.000058494, 0.0000425, None])
        Column(unit='us', texts=('58.5', '42.5', '-'))
    """
    longest = max((abs(value) for value in seconds if value is not None), default=0.0)
    unit, factor = next(
        ((unit, factor) for unit, factor in (("us", 1e6), ("ms", 1e3)) if longest * factor < 9999.5), ("s", 1.0)
    )
    return _write(unit, [None if value is None else value * factor for value in seconds])


def show_joules_column(joules: Sequence[float | None]) -> Column:
    """Write energies in millijoules."""
    return _write("mJ", [None if value is None else value * 1e3 for value in joules])


def _write(unit: str, values: Sequence[float | None]) -> Column:
    least = min((abs(value) for value in values if value), default=1.0)
    decimals = min(MOST_DECIMALS, max(0, DIGITS - 1 - math.floor(math.log10(least))))
    return Column(unit, tuple("-" if value is None else f"{value:.{decimals}f}" for value in values))
