"""Which meter watches a network's power."""

import os
import re
import warnings
from collections.abc import Sequence

from ..devices.meter import Meter
from ..devices.watch import Watch
from ..errors import MeterWarning, MissingError, UsageError


def card_of(devices: Sequence[str]) -> int | None:
    """Return which graphics card some devices run on, as NVML counts them; None where on none.

    Raises:
        MissingError: `CUDA_VISIBLE_DEVICES` does not tell it by a number.
    """
    cards = [re.search(r"(?:cuda|tensorrt)(?::(\d+))?$", device) for device in devices]
    card = next((int(match[1] or 0) for match in cards if match), None)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if card is None or not visible:
        return card
    numbers = visible.split(",")
    if card < len(numbers) and numbers[card].strip().isdigit():
        return int(numbers[card])
    raise MissingError(
        f"CUDA_VISIBLE_DEVICES={visible} does not tell which card cuda:{card} is. Name its meter: nvml:0, ..."
    )


def choose_for(name: str, devices: Sequence[str]) -> Meter:
    """Return the meter of a name; for `auto` that of the graphics card that a network on these devices runs on, or the board's.

    Raises:
        UsageError: no meter has such a name.
        MissingError: it cannot be read, or nothing covers what the network runs on.
    """
    from ..devices.meters import WHOLE, choose_meter

    if name != "auto":
        return choose_meter(name)
    card = card_of(devices)
    found = choose_meter(name, gpu=card)
    covers = found.name in WHOLE or (
        found.name == f"nvml:{card}" if card is not None else not found.name.startswith("nvml")
    )
    if not covers:
        raise MissingError(
            f"{found.name} measures {found.scope}, but the network runs on {', '.join(dict.fromkeys(devices))}. Name the meter "
            "that covers it, or bring one."
        )
    if (
        card is not None
        and found.name not in WHOLE
        and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
        and _cards() > 1
    ):
        raise MissingError(
            "CUDA counts cards by speed and NVML by slot: set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the card's meter: nvml:0, ..."
        )
    return found


def _cards() -> int:
    """Return how many graphics cards NVML sees."""
    from ..devices.meters import find_meters

    return sum(meter.name.startswith("nvml") for meter in find_meters().meters)


def watch_power(meter: str | Meter | None, devices: Sequence[str], *, stacklevel: int) -> Watch | None:
    """Return what watches the board's power; where the meter cannot be read, something that says why.

    Args:
        meter: `auto`, a name, a meter, or None for nothing.
        devices: what the network's stages run on, which `auto` needs: on a graphics card its own meter goes before the others.
        stacklevel: whose line a warning names, as for `warnings.warn`.

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
    try:
        return Watch(choose_for(meter, devices))
    except UsageError:
        raise
    except Exception as error:  # whatever is wrong with a sensor, the network runs
        reason = str(error).partition("\n")[0].removesuffix(" Looked for:")
        warnings.warn(f"No power is watched. {reason} Run: offramp doctor", MeterWarning, stacklevel=stacklevel)
        return Watch(None, problem=reason)
