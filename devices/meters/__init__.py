"""The meters of a board: one module for each kind of sensor.

A module has two names. `LOOKS_FOR` says which sensor it looks for, and where. `find(root, board, state)` returns the meters that
can be read, and an `Unavailable` with reason and remedy for each that cannot. A sensor that is missing is no failure: its module
says which file is missing. Modules are found by their place in this folder; those whose name begins with `_` are no sensors.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from msgspec import Struct

from ...errors import MissingError, OfframpError, unknown_name
from ..board import identify
from ..clock import wait_for
from ..container import container_name
from ..meter import Meter
from ..rail import Unavailable
from ..state import BoardState
from ._modelled import modelled

__all__ = [
    "WHOLE_BOARD_METERS",
    "FoundMeters",
    "choose_among",
    "choose_meter",
    "describe_missing",
    "find_meters",
    "modelled",
]

WHOLE_BOARD_METERS = ("ina238", "ina3221", "hwmon:power_meter", "battery")
"""Meters that see the whole board, including a graphics card in it."""

SEARCH_S = 5.0
"""The longest time that a module may search for its sensors."""

ORDER = ("ina238", "ina3221", "hwmon:power_meter", "pmic", "rapl", "battery", "nvml:0")
"""The order in which `auto` chooses: the whole board first, then the processor. A battery comes late, since it updates seldom.
Other meters cover only a part, or something unknown."""


class FoundMeters(Struct, frozen=True):
    """The result of a search.

    Attributes:
        meters: the meters that can be read.
        unavailable: the meters and rails that cannot.
        looked_for: what each module looked for, by its name.
        container: the kind of container that this runs in; None if it seems to be none.
    """

    meters: tuple[Meter, ...]
    unavailable: tuple[Unavailable, ...]
    looked_for: dict[str, str]
    container: str | None = None


def find_meters(root: str | Path = "/") -> FoundMeters:
    """Search this board for every kind of sensor.

    Args:
        root: the folder that holds `sys`, `proc` and `usr`.

    Example:
        >>> from offramp.devices import find_meters
        >>> sorted(find_meters().looked_for)
        ['battery', 'hwmon', 'ina238', 'ina3221', 'nvml', 'pmic', 'rapl']
    """
    root = Path(root)
    board, state = identify(root), BoardState(root)
    names = sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))
    modules = {name: import_module(f".{name}", __name__) for name in names}
    results = [
        result for name, module in modules.items() for result in _find(name, partial(module.find, root, board, state))
    ]
    meters = [result for result in results if isinstance(result, Meter)]
    problems = [problem for meter in meters for problem in meter.problems]
    return FoundMeters(
        tuple(meters),
        (*(result for result in results if isinstance(result, Unavailable)), *problems),
        {name: module.LOOKS_FOR for name, module in modules.items()},
        container_name(root),
    )


def _find(name: str, find: Callable[[], list[Meter | Unavailable]]) -> list[Meter | Unavailable]:
    """Search for one kind of sensor. A sensor that hangs, or fails in an unexpected way, does not stop the search for others."""
    results: list[Meter | Unavailable] = []

    def look() -> None:
        try:
            results.extend(find())
        except OfframpError as error:
            results[:] = [Unavailable(name, str(error).rstrip("."), "Its files hold what cannot be: see dmesg.")]
        except Exception as error:
            results[:] = [
                Unavailable(
                    name, f"{type(error).__name__}: {error}", "Please report it, with what offramp doctor says."
                )
            ]

    if wait_for(look, seconds=SEARCH_S):
        return results
    return [Unavailable(name, f"a read did not return within {SEARCH_S:.0f} s", "Its driver hangs: see dmesg.")]


def choose_meter(name: str = "auto", *, root: str | Path = "/", gpu: int | None = None) -> Meter:
    """Return a meter by its name, or with `auto` the one that covers most of this board.

    Args:
        name: `auto`, or a name such as `rapl`; `offramp doctor` lists them.
        root: as for `find_meters`.
        gpu: the index of the graphics card that does the work, whose meter `auto` then prefers; None if none does.

    Raises:
        UsageError: there is no meter of such a name.
        MissingError: the meter, or with `auto` every meter, cannot be read here; the message has each reason and remedy.

    Example:
        >>> from offramp.devices import choose_meter
        >>> choose_meter("rapl").scope  # doctest: +SKIP
        'processor packages, without memory and the rest of the board'
    """
    search = find_meters(root)
    if name == "auto":
        if (best := choose_among(search, gpu=gpu)) is None:
            raise MissingError(describe_missing(search))
        return best
    for meter in search.meters:
        if meter.name == name:
            return meter
    for problem in search.unavailable:
        if name in (problem.meter, problem.meter.partition(":")[0]):
            raise MissingError(f"The meter {name} cannot be read here: {problem.reason}. {problem.remedy}".strip())
    if name.partition(":")[0] in search.looked_for:
        raise MissingError(
            f"There is no meter {name} here. Here are: {', '.join(m.name for m in search.meters) or 'none'}."
        )
    raise unknown_name("meter", name, ["auto", *search.looked_for, *(meter.name for meter in search.meters)])


def choose_among(found: FoundMeters, *, gpu: int | None = None) -> Meter | None:
    """Return the meter that covers most of the board; None if no meter is known to cover enough. `gpu` as for `choose_meter`."""
    able = {meter.name: meter for meter in found.meters if meter.total}
    order = ORDER if gpu is None else (f"nvml:{gpu}", *ORDER)
    return next((able[name] for name in order if name in able), None)


def describe_missing(found: FoundMeters) -> str:
    """Say that no meter covers the board, what was looked for where, and what to do about it."""
    lines = ["No meter here covers the board's power. Looked for:"]
    for kind, description in found.looked_for.items():
        lines.append(f"  {description}")
        lines += [
            f"    {problem.reason}. {problem.remedy}".rstrip()
            for problem in found.unavailable
            if problem.meter.partition(":")[0] == kind
        ]
    if found.meters:
        lines.append(
            f"What can be read covers only a part, or something unknown: {', '.join(m.name for m in found.meters)}."
        )
    if found.container is not None:
        lines.append(f"This runs in a container ({found.container}), which may hide sensors of the host.")
    lines.append("An external meter can be brought: --meter file.py:function, which returns a Meter.")
    return "\n".join(lines)
