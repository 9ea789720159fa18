"""Joules without a sensor: time multiplied by a stated power."""

import math

from ...errors import UsageError
from ..clock import Clock
from ..meter import Meter
from ..rail import Probe, Rail


def modelled(power_w: float, *, clock: Clock | None = None) -> Meter:
    """Make a meter that measures nothing: its joules are time multiplied by a stated power, and their grade is `modelled`.

    Args:
        power_w: the power of the board.
        clock: the time; the machine's by default.

    Raises:
        UsageError: the power is not above 0.

    Example:
        >>> from offramp.devices import modelled
        >>> modelled(6.0).grade, modelled(6.0).read()
        ('modelled', {'stated': 6.0})
    """
    if not 0 < power_w < math.inf:
        raise UsageError(f"power_w is the board's power in watts, above 0, not {power_w}.")
    rail = Rail(name="stated", role="total", covers=f"a stated {power_w:g} W", most_w=math.inf, period_s=0.05)
    scope = f"modelled from a stated {power_w:g} W; nothing was measured"
    return Meter(
        "modelled", [Probe((rail,), lambda: (power_w,))], scope=scope, grade="modelled", poll_s=0.05, clock=clock
    )
