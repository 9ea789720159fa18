"""Which meter watches a network's power."""

import warnings
from collections.abc import Sequence

from ..devices.meter import Meter
from ..devices.watch import Watch
from ..errors import UsageError


class MeterWarning(UserWarning):
    """No power is watched, although a meter was asked for."""


def watch_power(meter: str | Meter | None, device: str | Sequence[str]) -> Watch | None:
    """Return what watches the board's power; where the meter cannot be read, something that says why.

    Args:
        meter: `auto`, a name, a meter, or None for nothing.
        device: where the network is to run: on a graphics card its own meter goes before the others.

    Raises:
        UsageError: no meter has such a name, or it is something else.
    """
    if meter is None:
        return None
    if isinstance(meter, Meter):
        return Watch(meter)
    if not isinstance(meter, str):
        hint = ": call it" if callable(meter) else ""
        raise UsageError(f"meter is 'auto', the name of a meter or a devices.Meter, not {type(meter).__name__}{hint}.")
    if ".py:" in meter:
        raise UsageError(
            f"Only the command line takes {meter}: import the function, and give the devices.Meter it returns."
        )
    from ..devices.meters import choose_meter

    devices = [device] if isinstance(device, str) else device
    try:
        return Watch(choose_meter(meter, gpu=any("cuda" in one or "tensorrt" in one for one in devices)))
    except UsageError:
        raise
    except Exception as error:  # whatever is wrong with a sensor, the network runs
        reason = str(error).partition("\n")[0].removesuffix(" Looked for:")
        warnings.warn(f"No power is watched. {reason} Run: offramp doctor", MeterWarning, stacklevel=3)
        return Watch(None, problem=reason)
