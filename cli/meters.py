"""Meters that commands measure with, found by their names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import MissingError, UsageError

if TYPE_CHECKING:
    from ..bundle import Target
    from ..devices.meter import Meter


POWER_STATED_TWICE = "--power-w states the power that --meter would measure: give one of them."
STATE_POWER = "Without a meter state the board's power in watts (--power-w 12): the joules are then time by that power."


def open_meter(name: str, devices: Sequence[str] | None = None) -> "Meter":
    """Return the meter of a name, or the meter that `file.py:function` makes.

    Args:
        name: a name that `offramp doctor` lists, `auto`, or `file.py:function`.
        devices: devices that the measured network runs on; None to measure the board or a command.

    Raises:
        UsageError: there is no such meter, or the function returns something else.
        MissingError: the meter cannot be read here.
    """
    from ..devices.meter import Meter
    from ..devices.meters import choose_meter
    from ..runtime.power import choose_for

    if name.endswith(".py"):
        raise UsageError(f"Name the function that makes the meter: {name}:function", path=name)
    if ".py:" not in name:
        return choose_meter(name) if devices is None else choose_for(name, devices)
    from ..calibrate.user_code import call_function

    meter = call_function(name)
    if not isinstance(meter, Meter):
        raise UsageError(f"{name} returns {type(meter).__name__}; a meter is an offramp.devices.Meter.")
    return meter


def open_energy_meter(name: str | None, power_w: float | None, devices: Sequence[str]) -> "Meter":
    """Return the meter that energy is measured with: the named one, `auto` without a name, or one that only states a power.

    Args:
        name: as for `open_meter`; None if the user named none.
        power_w: the board's power in watts; None to measure.
        devices: devices that the network runs on.

    Raises:
        UsageError: both a meter and a power are given.
        MissingError: the meter cannot be read here.
    """
    if power_w is None:
        try:
            return open_meter(name or "auto", devices)
        except MissingError as error:
            raise MissingError(f"{error}\n{STATE_POWER}") from error
    from ..devices.meters import modelled

    if name is not None:
        raise UsageError(POWER_STATED_TWICE)
    return modelled(power_w)


def choose_energy_meter(
    name: str | None, power_w: float | None, devices: Sequence[str], targets: "Target | dict[str, Target] | None"
) -> "Meter | None":
    """Return the meter for a calibration as `open_energy_meter` does; None if nothing is given and no target needs energy."""
    listed = targets.values() if isinstance(targets, dict) else [targets] if targets else []
    if name is None and power_w is None and not any(target.needs_energy for target in listed):
        return None
    return open_energy_meter(name, power_w, devices)
