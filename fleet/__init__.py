"""Work is spread over machines by Dask: boards, and processes of this one. Needs the `fleet` extra."""

from typing import TYPE_CHECKING

from .. import late_names

if TYPE_CHECKING:
    from .calibration import FleetCalibration, calibrate_fleet
    from .outliers import BoardFigures
    from .scheduler import Tls, connect
    from .worker import run_worker

__all__ = ["BoardFigures", "FleetCalibration", "Tls", "calibrate_fleet", "connect", "run_worker"]

__getattr__ = late_names(
    __name__,
    {
        "BoardFigures": "outliers",
        "FleetCalibration": "calibration",
        "Tls": "scheduler",
        "calibrate_fleet": "calibration",
        "connect": "scheduler",
        "run_worker": "worker",
    },
)


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
