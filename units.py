"""How times, joules, shares and thresholds are written for people."""

import math
from collections.abc import Iterable

__all__ = ["show_confidence", "show_mj", "show_share", "show_thresholds", "show_time", "show_us", "show_value"]


def show_us(seconds: float, digits: int = 0) -> str:
    """Write a time in microseconds: `show_us(0.000203)` is `203 us`."""
    return f"{seconds * 1e6:.{digits}f} us"


def show_time(seconds: float) -> str:
    """Write a time in the unit that leaves three or four digits: `show_time(0.0123456)` is `12.35 ms`."""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if abs(seconds) * factor < 9999.5:
            return f"{seconds * factor:.4g} {unit}"
    return f"{seconds:.4g} s"


def show_mj(joules: float) -> str:
    """Write an energy in millijoules: `show_mj(0.00123)` is `1.23 mJ`."""
    return f"{joules * 1e3:.4g} mJ"


def show_share(share: float) -> str:
    """Write a share in percent: `show_share(0.0125)` is `1.25%`."""
    return f"{share:.2%}"


def show_confidence(error: float) -> str:
    """Write the confidence that leaves a chance of error, never as all: `show_confidence(0.0001)` is `99.99%`."""
    return f"{100 * (1 - error):.{1 + math.ceil(-math.log10(error))}g}%"


def show_thresholds(thresholds: Iterable[float]) -> str:
    """Write thresholds: `show_thresholds([0.85, 2.0])` is `0.8500, never`, since no score is above 1."""
    return ", ".join("never" if threshold > 1 else f"{threshold:.4f}" for threshold in thresholds)


def show_value(limit: str, value: float) -> str:
    """Write a value in the unit of a limit: `show_value("max_latency_s", 0.002)` is `2000 us`."""
    if limit == "max_energy_j":
        return show_mj(value)
    return show_us(value) if limit.endswith("_s") else show_share(value)
