"""A rail, one supply that a sensor measures, and the probe that reads it."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from ..errors import UsageError

Grade = Literal["external", "on-board", "modelled", "simulated"]
"""How joules are got: by an instrument outside the board, a sensor on it, a stated power, or the simulated board."""

GRADES = get_args(Grade)

ROLES = "total", "part", "other"

UNITS = {"power": "W", "energy": "J"}

COUNTS = tuple(UNITS)

LEAST_POLL_S = 0.001
"""No meter is read more often than this."""

NO_NUMBER = "it gives no number"
"""Why a read failed that gave NaN."""

NEGATIVE = "its mean power is below 0: its sign or its wires are swapped, or its zero is off"
"""Why a total cannot be used."""

LEAST_W = -0.5
"""The zero of a sensor may be off by so much. A reading of less power is wrong."""

MOST_J = 1e18
"""A counter that shows more is wrong."""


class Rail(Struct, frozen=True, kw_only=True):
    """One supply, or one energy counter, that a sensor measures.

    Attributes:
        name: its name by the sensor or by the board's maker.
        role: `total` if the meter's total adds it up; `part` if it lies inside a total; `other` if it is neither.
        covers: what it feeds, in words.
        counts: `power` if a reading is in W, `energy` if it is in J counted since some start.
        least_w, most_w: a reading of less or more power than this is wrong. The zero of a sensor may be off by half a watt.
        wrap_j: the value at which a counter starts again from 0; None if it never does.
        period_s: the time between two updates of the sensor by its documentation; None if that does not say.
        lag_s: the time over which the sensor averages.

    Raises:
        UsageError: a value is out of its range.

    Example:
        >>> from offramp.devices import Rail
        >>> package = Rail(name="package-0", role="total", covers="the processor", counts="energy", wrap_j=262143.3)
        >>> package.counts, package.lag_s
        ('energy', 0.0)
    """

    name: str
    role: Literal["total", "part", "other"]
    covers: str
    counts: Literal["power", "energy"] = "power"
    least_w: float = LEAST_W
    most_w: float = 2000.0
    wrap_j: float | None = None
    period_s: float | None = None
    lag_s: float = 0.0

    def __post_init__(self) -> None:
        for field, choices in (("role", ROLES), ("counts", COUNTS)):
            if getattr(self, field) not in choices:
                raise UsageError(
                    f"{field} of rail {self.name} is one of {', '.join(choices)}, not {getattr(self, field)!r}."
                )
        for field in ("most_w", "wrap_j", "period_s"):
            if (value := getattr(self, field)) is not None and not 0 < value <= (
                math.inf if field == "most_w" else 1e18
            ):
                raise UsageError(f"{field} of rail {self.name} is a number above 0, not {value}.")
        if not -math.inf < self.least_w < self.most_w:
            raise UsageError(
                f"least_w of rail {self.name} is a number below most_w, {self.most_w}, not {self.least_w}."
            )
        if not 0 <= self.lag_s < math.inf:
            raise UsageError(f"lag_s of rail {self.name} is a time in seconds, 0 or more, not {self.lag_s}.")

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that a reading may show, in W or J."""
        return (self.least_w, self.most_w) if self.counts == "power" else (0.0, MOST_J)

    def find_problem(self, value: float) -> str | None:
        """Say why a reading cannot be; None if it can."""
        least, most = self.bounds
        if math.isnan(value):
            return NO_NUMBER
        return None if least <= value <= most else f"it shows {value:.4g} {UNITS[self.counts]}, which is not possible"


class Probe(Struct, frozen=True):
    """One read of a sensor, which may give several rails.

    Attributes:
        rails: the rails that a read gives.
        read: returns W or J, one number for each rail, NaN for a rail that has no number now. It raises OSError if the sensor
            cannot be read; any other exception is taken for the same.

    Example:
        >>> from offramp.devices import Probe, Rail
        >>> rails = Rail(name="CPU", role="part", covers="CPU"), Rail(name="GPU", role="part", covers="GPU")
        >>> Probe(rails, lambda: (2.5, 4.0)).read()
        (2.5, 4.0)
    """

    rails: tuple[Rail, ...]
    read: Callable[[], Sequence[float]]

    def read_all(self) -> list[float]:
        """Read the sensor once and return one number for each rail. Whatever `read` raises is passed on.

        Raises:
            ValueError: `read` returns another number of values.
        """
        values = [float(value) for value in self.read()]
        if len(values) != len(self.rails):
            raise ValueError(f"it gives {len(values)} numbers for {len(self.rails)} rails")
        return values


def tell_apart(probes: Sequence[Probe]) -> list[Probe]:
    """Number rails of the same name, which several chips of one kind may have: `PPT`, `PPT#2`."""
    counts: dict[str, int] = {}
    numbered = []
    for probe in probes:
        rails = []
        for rail in probe.rails:
            counts[rail.name] = number = counts.get(rail.name, 0) + 1
            # Only the first total of a name is added up: nothing tells whether the second one is another supply.
            role = "other" if rail.role == "total" else rail.role
            rails.append(rail if number == 1 else replace(rail, name=f"{rail.name}#{number}", role=role))
        numbered.append(Probe(tuple(rails), probe.read))
    return numbered


class Unavailable(Struct, frozen=True):
    """A meter, or one of its rails, that cannot be used here.

    Attributes:
        meter: the meter's name.
        reason: why it cannot be used.
        remedy: what to do about it; empty if nothing can be done.

    Example:
        >>> from offramp.devices import find_meters
        >>> all(problem.reason for problem in find_meters().unavailable)
        True
    """

    meter: str
    reason: str
    remedy: str


def describe_failure(error: BaseException) -> str:
    """Say why a read failed."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return f"{type(error).__name__}: {error}"
