"""A battery that drives the machine (kernel: Documentation/ABI/testing/sysfs-class-power).

Sensor: the fuel gauge of a laptop's or a robot's battery, which measures the current and the voltage at its terminals.
Sees: everything that runs from the battery, the screen too.
Cannot see: anything while a charger is plugged in; anything short, since most gauges update only every second or less often.
Here: power in `power_now`, or else `current_now` multiplied by `voltage_now`; only while `status` is `Discharging`.
"""

import errno
from pathlib import Path

from ..board import Board
from ..meter import Meter
from ..rail import Probe, Rail, Unavailable
from ..state import StateReader
from ..sysfs import Node, list_numbered, read_text

LOOKS_FOR = "a discharging battery in /sys/class/power_supply/BAT*/{power_now, current_now and voltage_now}"


def find(root: Path, board: Board, state: StateReader) -> list[Meter | Unavailable]:
    """Find the batteries, as one meter of their sum."""
    folders = list_numbered("sys/class/power_supply/BAT*", root)
    if not folders:
        return [Unavailable("battery", "no /sys/class/power_supply/BAT* is there", "")]
    probes = [probe for folder in folders if (probe := _open(folder)) is not None]
    if not probes:
        return [Unavailable("battery", f"/{folders[0].relative_to(root)} tells neither power nor current", "")]
    try:
        for probe in probes:
            probe.read()
    except OSError as error:
        remedy = "Unplug the charger to measure by the battery." if error.errno == errno.ENODATA else "See dmesg."
        return [Unavailable("battery", error.strerror or str(error), remedy)]
    return [Meter("battery", probes, scope="the whole machine, out of its battery", poll_s=0.25, state=state)]


def _open(folder: Path) -> Probe | None:
    """Return the probe of a battery; None if it shows neither power nor current and voltage."""

    def node(name: str) -> Node:
        return Node(lambda: folder / name)

    power, current, voltage, state = (node(name) for name in ("power_now", "current_now", "voltage_now", "status"))
    by_power = (folder / "power_now").exists()
    if not by_power and not ((folder / "current_now").exists() and (folder / "voltage_now").exists()):
        return None

    others = [other for other in folder.parent.glob("BAT*/status") if other.parent != folder]

    def read() -> tuple[float]:
        status = state.text()
        if status == "Not charging" and any(read_text(other) == "Discharging" for other in others):
            return (0.0,)  # it rests while another drives the machine
        if status != "Discharging":
            raise OSError(
                errno.ENODATA, f"{folder.name} is {(status or 'in an unknown state').lower()}, not discharging"
            )
        # Some drivers give a negative sign to what flows out.
        return (abs(power.read() / 1e6 if by_power else current.read() * voltage.read() / 1e12),)

    return Probe((Rail(name=folder.name, role="total", covers="the whole machine", most_w=500.0),), read)
