"""The device: what board it is, what power it draws, and whether figures from elsewhere hold on it.

A board is read by `board`, `state` and `fingerprints`. A `Meter` has rails (`rail`), which probes read. `window` measures a block
of work, `watch` the life of a product. `meters` finds the sensors of this board, `simulated` needs none.
"""

from typing import TYPE_CHECKING

from .. import late_names
from .board import Board, PowerMode, identify
from .fingerprints import Difference, describe_differences, differences, fingerprint, version_of
from .state import State

if TYPE_CHECKING:
    from .meter import Meter
    from .meters import choose_meter, find_meters, modelled
    from .power_trace import Phase, PowerTrace, draw_power
    from .rail import Probe, Rail, Unavailable
    from .recording import Energy
    from .simulated import Fault, Sensor, SimulatedBoard, SimulatedClock
    from .watch import Power

__all__ = [
    "Board",
    "Difference",
    "Energy",
    "Fault",
    "Meter",
    "Phase",
    "Power",
    "PowerMode",
    "PowerTrace",
    "Probe",
    "Rail",
    "Sensor",
    "SimulatedBoard",
    "SimulatedClock",
    "State",
    "Unavailable",
    "choose_meter",
    "describe_differences",
    "differences",
    "draw_power",
    "find_meters",
    "fingerprint",
    "identify",
    "modelled",
    "version_of",
]


LATE = {
    "Energy": "recording",
    "Meter": "meter",
    "Phase": "power_trace",
    "Power": "watch",
    "PowerTrace": "power_trace",
    "Probe": "rail",
    "Rail": "rail",
    "Unavailable": "rail",
    "choose_meter": "meters",
    "draw_power": "power_trace",
    "find_meters": "meters",
    "modelled": "meters",
    "Fault": "simulated",
    "Sensor": "simulated",
    "SimulatedBoard": "simulated",
    "SimulatedClock": "simulated",
}
"""Names that are imported when they are asked for: most products never use them."""


__getattr__ = late_names(__name__, LATE)


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
