"""A meter: the rails that it reads, which of them make the total, and what that total covers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError, unknown_name
from .clock import Clock
from .rail import GRADES, LEAST_POLL_S, Grade, Probe, Unavailable, describe_failure
from .state import State, StateReader

if TYPE_CHECKING:
    from .window import Window


class Meter:
    """Measures the energy of one scope. `find_meters` makes those of this board; make one yourself for a sensor of your own.

    Args:
        name: `rapl`, `ina3221`, `hwmon:amdgpu`, ...
        probes: the reads of the sensor.
        scope: what the total covers, in words.
        grade: how the joules are got.
        poll_s: the time between two reads.
        clock: the time; the machine's by default.
        state: reads throttling, clocks and temperature; by default these are unknown.
        problems: rails that should be here and cannot be read.

    Raises:
        UsageError: there is no rail, two have the same name, or `grade` or `poll_s` is none.

    Example:
        >>> from offramp.devices import Meter, Probe, Rail
        >>> supply = Rail(name="supply", role="total", covers="the board")
        >>> meter = Meter("bench", [Probe((supply,), lambda: (12.5,))], scope="the board", grade="external")
        >>> meter.read(), meter.total
        ({'supply': 12.5}, ('supply',))
    """

    def __init__(
        self,
        name: str,
        probes: Sequence[Probe],
        *,
        scope: str,
        grade: Grade = "on-board",
        poll_s: float = 0.01,
        clock: Clock | None = None,
        state: StateReader = State,
        problems: Sequence[Unavailable] = (),
    ) -> None:
        self.name, self.scope, self.grade, self.poll_s = name, scope, grade, poll_s
        self.probes, self.problems = tuple(probes), tuple(problems)
        self.clock, self._state = clock or Clock(), state
        self.rails = tuple(rail for probe in probes for rail in probe.rails)
        self.total = tuple(rail.name for rail in self.rails if rail.role == "total")
        names = [rail.name for rail in self.rails]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"A meter has rails of different names; {name} has {', '.join(names) or 'none'}.")
        if grade not in GRADES:
            raise UsageError(f"The grade of {name} is one of {', '.join(GRADES)}, not {grade!r}.")
        if not LEAST_POLL_S <= poll_s < math.inf:
            raise UsageError(f"poll_s of {name} is a time of at least {LEAST_POLL_S} s, not {poll_s}.")

    def state(self) -> State:
        """Read throttling, clocks and temperature. If that fails the state is unknown; it is never an error."""
        try:
            state: object = self._state()
        except Exception:
            return State()
        return state if isinstance(state, State) else State()

    def read(self) -> dict[str, float | str]:
        """Read every rail once: W of a power, J of a counter, or why it could not be read."""
        readings: dict[str, float | str] = {}
        for probe in self.probes:
            try:
                pairs = zip(probe.rails, probe.read_all(), strict=True)
                values: Sequence[float | str] = [rail.find_problem(value) or value for rail, value in pairs]
            except Exception as error:
                values = [describe_failure(error)] * len(probe.rails)
            readings |= {rail.name: value for rail, value in zip(probe.rails, values, strict=True)}
        return readings

    def window(self, *, idle_s: float = 0.0, rails: Sequence[str] | None = None) -> "Window":
        """Measure the energy of a `with` block.

        The block must not end before its work: wait for an accelerator before leaving it.

        Args:
            idle_s: how long to measure the board at rest, before the block and again after it. Then `net_j` is the energy of
                the work beyond rest.
            rails: the rails to add up; the meter's total by default.

        Raises:
            UsageError: there is no such rail, or the meter knows of no total.

        Example:
            >>> from offramp.devices import SimulatedBoard
            >>> board = SimulatedBoard(idle_w=4.0)
            >>> with board.meter().window(idle_s=5) as window:
            ...     board.work(10.0, power_w=9.0)
            >>> print(f"{window.energy.net_j:.0f} J beyond rest")
            50 J beyond rest
        """
        from .window import Window

        return Window(self, idle_s=idle_s, rails=self.choose_rails(rails))

    def choose_rails(self, rails: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the rails to add up: those given, or the total.

        Raises:
            UsageError: as for `window`.
        """
        roles = {rail.name: rail.role for rail in self.rails}
        rails = [rails] if isinstance(rails, str) else rails
        for name in rails or ():
            if name not in roles:
                raise unknown_name(f"rail of {self.name}", name, roles)
        if {"total", "part"} <= {roles[name] for name in rails or ()}:
            parts = ", ".join(name for name in rails or () if roles[name] == "part")
            raise UsageError(f"{parts} of {self.name} lies inside the total: to add both counts it twice.")
        if not (chosen := tuple(dict.fromkeys(rails or self.total))):
            reasons = "".join(f" {problem.reason}" for problem in self.problems)
            raise UsageError(
                f"The meter {self.name} knows of no total among its rails.{reasons} "
                f"Name those to add up, out of: {', '.join(roles)}."
            )
        return chosen
