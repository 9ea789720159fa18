"""A rail: what a sensor measures the power of, and the probe that reads it."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from ..errors import UsageError

Grade = Literal["external", "on-board", "modelled", "simulated"]
"""Where joules come from: a meter outside the board, a sensor on it, a stated power, or the simulated board."""


NO_NUMBER = "it gives no number"


GRADES = get_args(Grade)


ROLES = "total", "part", "other"


COUNTS = "power", "energy"


LEAST_POLL_S = 0.001


class Rail(Struct, frozen=True, kw_only=True):
    """One supply, or one counter, that a sensor sees.

    Attributes:
        name: as the sensor or the board's maker names it.
        role: `total` if the meter's total adds it up; `part` if it lies inside a total; `other` if it is neither.
        covers: what it feeds, in words.
        counts: whether its reading is a `power` in W, or an `energy` in J counted since some start.
        most_w: more than this is a wrong reading, not power.
        wrap_j: where a counter begins anew; None where it does not.
        period_s: how often the sensor's documentation says that it updates; None where it does not say.
        lag_s: over how long the sensor averages.
    """

    name: str
    role: Literal["total", "part", "other"]
    covers: str
    counts: Literal["power", "energy"] = "power"
    most_w: float = 2000.0
    wrap_j: float | None = None
    period_s: float | None = None
    lag_s: float = 0.0

    def __post_init__(self) -> None:
        for field, known in (("role", ROLES), ("counts", COUNTS)):
            if getattr(self, field) not in known:
                raise UsageError(
                    f"{field} of rail {self.name} is one of {', '.join(known)}, not {getattr(self, field)!r}."
                )
        for field in ("most_w", "wrap_j", "period_s"):
            if (value := getattr(self, field)) is not None and not 0 < value <= (
                math.inf if field == "most_w" else 1e18
            ):
                raise UsageError(f"{field} of rail {self.name} is a number above 0, not {value}.")
        if not 0 <= self.lag_s < math.inf:
            raise UsageError(f"lag_s of rail {self.name} is a time in seconds, 0 or more, not {self.lag_s}.")


class Probe(Struct, frozen=True):
    """One read of a sensor: the rails it gives, and the function that reads them, in W or J, one number for each rail,
    not a number for one that has none now.

    `read` raises OSError where the sensor cannot be read; whatever else it raises is taken for the same.
    """

    rails: tuple[Rail, ...]
    read: Callable[[], Sequence[float]]


def tell_apart(probes: "Sequence[Probe]") -> list["Probe"]:
    """Number rails that have the same name, as chips of one kind may: `PPT`, `PPT#2`."""
    seen: dict[str, int] = {}
    found = []
    for probe in probes:
        rails = []
        for rail in probe.rails:
            seen[rail.name] = number = seen.get(rail.name, 0) + 1
            # A total that is there twice would be added twice: nothing tells which of them is meant.
            role = "other" if rail.role == "total" else rail.role
            rails.append(rail if number == 1 else replace(rail, name=f"{rail.name}#{number}", role=role))
        found.append(Probe(tuple(rails), probe.read))
    return found


class Unavailable(Struct, frozen=True):
    """A meter, or a rail of one, that cannot be used here: why, and what to do about it."""

    meter: str
    reason: str
    remedy: str


def describe_failure(error: BaseException) -> str:
    """Say why a read failed."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return f"{type(error).__name__}: {error}"
