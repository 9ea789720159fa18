"""Which meter watches a network's power."""

import os
import re
from collections.abc import Sequence

from ..devices.meter import Meter
from ..devices.watch import Watch
from ..errors import MeterWarning, MissingError, UsageError
from ..progress import debug
from .notices import warn_caller

__all__ = ["card_of", "choose_for", "watch_power"]


def card_of(devices: Sequence[str]) -> int | None:
    """Return the number of the graphics card that some devices run on, as NVML counts cards; None if they run on none.

    Raises:
        MissingError: `CUDA_VISIBLE_DEVICES` names cards otherwise than by their numbers.
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
        f"CUDA_VISIBLE_DEVICES={visible} does not tell which card cuda:{card} is. Name its meter: nvml:0, ...",
        device=f"cuda:{card}",
    )


def choose_for(name: str, devices: Sequence[str]) -> Meter:
    """Return the meter of a name. `auto` is the meter of the graphics card that the devices are on, or else the board's.

    Raises:
        UsageError: no meter has such a name.
        MissingError: the meter cannot be read, or no meter covers the devices.
    """
    from ..devices.meters import WHOLE_BOARD_METERS, choose_meter

    if name != "auto":
        return choose_meter(name)
    card = card_of(devices)
    meter = choose_meter(name, gpu=card)
    covers = meter.name in WHOLE_BOARD_METERS or (
        meter.name == f"nvml:{card}" if card is not None else not meter.name.startswith("nvml")
    )
    if not covers:
        raise MissingError(
            f"{meter.name} measures {meter.scope}, but the network runs on {', '.join(dict.fromkeys(devices))}. Name the meter "
            "that covers it, or bring one."
        )
    if (
        card is not None
        and meter.name not in WHOLE_BOARD_METERS
        and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
        and _cards() > 1
    ):
        raise MissingError(
            "CUDA counts cards by speed and NVML by slot: set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the card's meter: nvml:0, "
            "...",
            device=f"cuda:{card}",
        )
    debug("power of %s is watched by %s (%s)", ", ".join(devices), meter.name, meter.scope)
    return meter


def _cards() -> int:
    """Return how many graphics cards NVML sees."""
    from ..devices.meters import find_meters

    return sum(meter.name.startswith("nvml") for meter in find_meters().meters)


def watch_power(meter: str | Meter | None, devices: Sequence[str]) -> Watch | None:
    """Return a watch of the board's power. If the meter cannot be read, a warning says why, and so do the watch's figures.

    Args:
        meter: `auto`, a name, a meter, or None for no watch.
        devices: the devices of the network's stages, for `auto`: a graphics card's own meter goes before the others.

    Raises:
        UsageError: no meter has such a name, or `meter` is neither a name nor a meter.
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
    except Exception as error:  # a broken sensor must not keep the network from running
        reason = str(error).partition("\n")[0].removesuffix(" Looked for:")
        warn_caller(f"No power is watched. {reason} Run: offramp doctor", MeterWarning)
        return Watch(None, problem=reason)
