"""What board this is, what power it draws, and whether what was measured elsewhere holds on it."""

from typing import TYPE_CHECKING, Any

from .board import Board, PowerMode, identify
from .fingerprint import Difference, describe_differences, differences, fingerprint, version_of
from .meter import Meter, Probe, Rail, Unavailable
from .meters import choose_meter, find_meters, modelled
from .recording import Energy
from .state import State
from .watch import Power

if TYPE_CHECKING:
    from .simulated import Fault, Sensor, SimulatedBoard, SimulatedClock

__all__ = [
    "Board",
    "Difference",
    "Energy",
    "Fault",
    "Meter",
    "Power",
    "PowerMode",
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
    "find_meters",
    "fingerprint",
    "identify",
    "modelled",
    "version_of",
]


def __getattr__(name: str) -> Any:
    """Import the simulated board when it is asked for: no product does."""
    if name in ("Fault", "Sensor", "SimulatedBoard", "SimulatedClock"):
        from . import simulated

        return getattr(simulated, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
