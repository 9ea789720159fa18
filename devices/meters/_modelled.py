"""Joules without a sensor: time by a stated power."""

import math

from ...errors import UsageError
from ..clock import Clock
from ..meter import Meter
from ..rail import Probe, Rail


def modelled(power_w: float, *, clock: Clock | None = None) -> Meter:
    """Make a meter that measures nothing: its joules are time by a stated power, and their grade says `modelled`.

    Raises:
        UsageError: the power is not above 0.
    """
    if not 0 < power_w < math.inf:
        raise UsageError(f"power_w is the board's power in watts, above 0, not {power_w}.")
    rail = Rail(name="stated", role="total", covers=f"a stated {power_w:g} W", most_w=math.inf, period_s=0.05)
    scope = f"modelled from a stated {power_w:g} W; nothing was measured"
    return Meter(
        "modelled", [Probe((rail,), lambda: (power_w,))], scope=scope, grade="modelled", poll_s=0.05, clock=clock
    )
