"""How a network is audited: what `load` takes, checked."""

import os
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

from ...errors import UsageError

__all__ = ["Audit", "Disagreement"]

Disagreement = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
"""A function of an early answer and the last exit's, arrays (1, ...) by name, that returns how far they are apart, 0 to 1."""


class Audit(Struct, frozen=True, kw_only=True):
    """How a network is audited in the field. `load(bundle, audit=0.01)` stands for `Audit(share=0.01)`.

    Attributes:
        share: the share of inputs that is picked, at random.
        state: a folder where counts survive restarts; None to forget them.
        collect: a folder that keeps picked inputs, for a new calibration; None to keep none.
        collect_mb: the most megabytes that are kept there.
        in_call: True if picked inputs run on to the last exit within the call, which then takes as long as the whole network. By
            default another thread runs them, in memory of its own.
        promised: the share of inputs that may disagree with the last exit; by default what the calibration knows.
        chance: of a false alarm of disagreement, and the same for exit shares.
        disagreement: a function `(early answer, last answer)` of networks that do not classify: arrays (1, ...) by name, and
            how far they are apart, from 0 to 1.

    Raises:
        UsageError: a value is out of range.

    Example:
        >>> from offramp.runtime import Audit
        >>> Audit(share=0.02, state="audit", collect="field").in_call
        False
    """

    share: float = 0.01
    state: str | os.PathLike[str] | None = None
    collect: str | os.PathLike[str] | None = None
    collect_mb: float = 100.0
    in_call: bool = False
    promised: float | None = None
    chance: float = 0.01
    disagreement: Disagreement | None = None

    def __post_init__(self) -> None:
        ranges = {"share": (0, 1), "collect_mb": (0, 1e6), "promised": (0, 1), "chance": (0, 0.5)}
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if value is None and name == "promised":
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not least < float(value) <= most:
                raise UsageError(
                    f"The audit's {name} is a number above {least} and at most {most:g}, not {value!r:.30}."
                )
            force_setattr(self, name, float(value))  # NumPy's cannot be written into a state
