"""Networks are tried until the best one is found: where exits sit, how they are trained, how they are made smaller.

Needs the extras `export` and `calibrate`; `compress` to prune, `fleet` for workers, `report` for the page.
"""

from typing import TYPE_CHECKING

from .. import late_names

if TYPE_CHECKING:
    from .running import Sweep, sweep
    from .table import TrialRow

__all__ = ["Sweep", "TrialRow", "sweep"]

__getattr__ = late_names(
    __name__,
    {"Sweep": "running", "TrialRow": "table", "sweep": "running"},
)


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__

from typing import TYPE_CHECKING

from .. import late_names

if TYPE_CHECKING:
    from .exit_places.pipeline import place_exits
    from .exit_places.result import ExitSet, PlacedExits, Rival

__all__ = ["ExitSet", "PlacedExits", "Rival", "place_exits"]

__getattr__ = late_names(
    __name__,
    {
        "ExitSet": "exit_places.result",
        "PlacedExits": "exit_places.result",
        "Rival": "exit_places.result",
        "place_exits": "exit_places.pipeline",
    },
)


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
