"""The meters of a board: one module for each kind of sensor.

A module has `LOOKS_FOR`, which says what it looks for and where, and `find(root, board, state)`, which returns the meters that
can be read, and for what cannot an `Unavailable` with the reason and the remedy. A sensor that is not there is no failure: its
module says what is not there. No other file names a module.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from msgspec import Struct

from ...errors import MissingError, unknown_name
from ..board import identify
from ..clock import wait_for
from ..meter import Meter
from ..rail import Unavailable
from ..state import BoardState
from ._modelled import modelled

__all__ = ["FoundMeters", "choose_meter", "find_meters", "modelled"]

WHOLE = ("ina238", "ina3221", "hwmon:power_meter", "battery")
"""These see the whole board, a graphics card in it too."""

SEARCH_S = 5.0
"""So long a look may take."""

ORDER = ("ina238", "ina3221", "hwmon:power_meter", "pmic", "rapl", "battery", "nvml:0")
"""Which meter `auto` takes: the whole board first, then the processor; a battery tells too seldom to come before that. Others
cover a part only, or something unknown."""


class FoundMeters(Struct, frozen=True):
    """The meters of this board, those that cannot be read, and what was looked for, by module."""

    meters: tuple[Meter, ...]
    unavailable: tuple[Unavailable, ...]
    looked_for: dict[str, str]


def find_meters(root: str | Path = "/") -> FoundMeters:
    """Look for every kind of sensor.

    Args:
        root: where `/sys`, `/proc` and `/usr` are looked for.
    """
    root = Path(root)
    board, state = identify(root), BoardState(root)
    names = sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))
    modules = {name: import_module(f".{name}", __name__) for name in names}
    ones = [one for name, module in modules.items() for one in _find(name, partial(module.find, root, board, state))]
    meters = [one for one in ones if isinstance(one, Meter)]
    problems = [problem for meter in meters for problem in meter.problems]
    return FoundMeters(
        tuple(meters),
        (*(one for one in ones if isinstance(one, Unavailable)), *problems),
        {name: module.LOOKS_FOR for name, module in modules.items()},
    )


def _find(name: str, find: Callable[[], list[Meter | Unavailable]]) -> list[Meter | Unavailable]:
    """Look for one kind of sensor; one that hangs, or is not as its module expects, takes no other with it."""
    found: list[Meter | Unavailable] = []

    def look() -> None:
        try:
            found.extend(find())
        except Exception as error:
            found[:] = [
                Unavailable(
                    name, f"{type(error).__name__}: {error}", "Please report it, with what offramp doctor says."
                )
            ]

    if wait_for(look, seconds=SEARCH_S):
        return found
    return [Unavailable(name, f"a read did not return within {SEARCH_S:.0f} s", "Its driver hangs: see dmesg.")]


def choose_meter(name: str = "auto", *, root: str | Path = "/", gpu: int | None = None) -> Meter:
    """Return a meter by its name, or with `auto` the one that covers most of this board.

    Args:
        name: `auto`, or a name such as `rapl`; `offramp doctor` lists them.
        root: as for `find_meters`.
        gpu: which graphics card the work runs on, whose meter `auto` then prefers; None where it runs on none.

    Raises:
        UsageError: there is no meter of such a name.
        MissingError: it cannot be read here, or nothing can; with each reason and remedy.
    """
    found = find_meters(root)
    if name == "auto":
        if (best := choose_among(found, gpu=gpu)) is None:
            raise MissingError(describe_missing(found))
        return best
    for meter in found.meters:
        if meter.name == name:
            return meter
    for problem in found.unavailable:
        if name in (problem.meter, problem.meter.partition(":")[0]):
            raise MissingError(f"The meter {name} cannot be read here: {problem.reason}. {problem.remedy}".strip())
    if name.partition(":")[0] in found.looked_for:
        raise MissingError(
            f"There is no meter {name} here. Here are: {', '.join(m.name for m in found.meters) or 'none'}."
        )
    raise unknown_name("meter", name, ["auto", *found.looked_for, *(meter.name for meter in found.meters)])


def choose_among(found: FoundMeters, *, gpu: int | None = None) -> Meter | None:
    """Return the meter that covers most of the board; None where none is known to. `gpu` as for `choose_meter`."""
    able = {meter.name: meter for meter in found.meters if meter.total}
    order = ORDER if gpu is None else (f"nvml:{gpu}", *ORDER)
    return next((able[name] for name in order if name in able), None)


def describe_missing(found: FoundMeters) -> str:
    """Say that no meter covers the board, what was looked for where, and what could be done."""
    lines = ["No meter here covers the board's power. Looked for:"]
    for kind, what in found.looked_for.items():
        lines.append(f"  {what}")
        lines += [
            f"    {one.reason}. {one.remedy}".rstrip()
            for one in found.unavailable
            if one.meter.partition(":")[0] == kind
        ]
    if found.meters:
        lines.append(
            f"What can be read covers only a part, or something unknown: {', '.join(m.name for m in found.meters)}."
        )
    lines.append("An external meter can be brought as file.py:function that returns a Meter.")
    return "\n".join(lines)
