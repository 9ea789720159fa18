"""Networks are tried until the best one is found: where exits sit, how they are trained, how they are made smaller.

Needs the extras `export` and `calibrate`; `compress` to prune, `fleet` for workers, `report` for the page.
"""

from typing import TYPE_CHECKING

from .. import late_names

if TYPE_CHECKING:
    from .exit_places.pipeline import place_exits
    from .exit_places.result import ExitSet, PlacedExits, Rival
    from .running import Sweep, sweep
    from .table import TrialRow

__all__ = ["ExitSet", "PlacedExits", "Rival", "Sweep", "TrialRow", "place_exits", "sweep"]

__getattr__ = late_names(
    __name__,
    {
        "ExitSet": "exit_places.result",
        "PlacedExits": "exit_places.result",
        "Rival": "exit_places.result",
        "Sweep": "running",
        "TrialRow": "table",
        "place_exits": "exit_places.pipeline",
        "sweep": "running",
    },
)


def __dir__() -> list[str]:
    """Show late names too, to whoever looks for what is here."""
    return __all__
