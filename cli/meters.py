"""The meter that a command measures with, by its name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..devices.meter import Meter


def open_meter(name: str, devices: Sequence[str] | None = None) -> "Meter":
    """Return the meter of a name, for a network on some devices if there is one, or the one that `file.py:function` makes.

    Raises:
        UsageError: there is no such meter, or the function makes something else.
        MissingError: it cannot be read here.
    """
    from ..devices.meter import Meter
    from ..devices.meters import choose_meter
    from ..runtime.power import choose_for

    if name.endswith(".py"):
        raise UsageError(f"Name the function in it that makes the meter: {name}:function")
    if ".py:" not in name:
        return choose_meter(name) if devices is None else choose_for(name, devices)
    from .inputs import call_function

    made = call_function(name)
    if not isinstance(made, Meter):
        raise UsageError(f"{name} returns {type(made).__name__}; a meter is an offramp.devices.Meter.")
    return made


def choose_energy_meter(
    name: str | None, power_w: float | None, devices: Sequence[str], targets: Any
) -> "Meter | None":
    """Return the meter that a calibration measures energy with: the one that is named, or where a target takes one, `auto`.

    Raises:
        UsageError: a meter and a stated power are given both.
        MissingError: it cannot be read here.
    """
    if power_w is not None:
        from ..devices.meters import modelled

        if name is not None:
            raise UsageError("--power-w states the power that --meter would measure: give one of them.")
        return modelled(power_w)
    listed = targets.values() if isinstance(targets, dict) else [targets] if targets else []
    if name is None and not any(target.needs_energy for target in listed):
        return None
    return open_meter(name or "auto", devices)
