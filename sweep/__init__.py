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
