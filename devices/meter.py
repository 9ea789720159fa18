"""What a meter is: rails that can be read, which of them make the total, and what that total covers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError, unknown_name
from .clock import Clock
from .rail import GRADES, LEAST_POLL_S, NO_NUMBER, Grade, Probe, Unavailable, describe_failure
from .state import State, StateReader

if TYPE_CHECKING:
    from .window import Window


class Meter:
    """Measures the energy of one scope. Made by `find_meters`, or by whoever brings a sensor.

    Args:
        name: `rapl`, `ina3221`, `hwmon:amdgpu`, ...
        probes: what is read.
        scope: what the total covers, in words.
        grade: where the joules come from.
        poll_s: how often the sensor is read.
        clock: the time; the machine's by default.
        state: reads throttling, clocks and temperature; knows nothing by default.
        problems: rails that should be here and cannot be read.
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
        """Read throttling, clocks and temperature; nothing where that fails, since it is a courtesy."""
        try:
            found: object = self._state()
        except Exception:
            return State()
        return found if isinstance(found, State) else State()

    def read(self) -> dict[str, float | str]:
        """Read every rail once: W of a power, J of a counter, or why it could not be read."""
        found: dict[str, float | str] = {}
        for probe in self.probes:
            try:
                values: Sequence[float | str] = [value if value == value else NO_NUMBER for value in probe.read()]
                if len(values) != len(probe.rails):
                    raise ValueError(f"it gives {len(values)} numbers for {len(probe.rails)} rails")
            except Exception as error:
                values = [describe_failure(error)] * len(probe.rails)
            found |= {rail.name: value for rail, value in zip(probe.rails, values, strict=True)}
        return found

    def window(self, *, idle_s: float = 0.0, rails: Sequence[str] | None = None) -> "Window":
        """Measure what is done within a `with` block.

        The block should end when its work has ended: wait for an accelerator before leaving it.

        Args:
            idle_s: how long to measure the board at rest, before the block and again after it; then `net_j` tells what the work
                took beyond that.
            rails: whose sum is measured; the meter's total by default.

        Raises:
            UsageError: there is no such rail, or the meter knows of no total.
        """
        from .window import Window

        return Window(self, idle_s=idle_s, rails=self.choose_rails(rails))

    def choose_rails(self, rails: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the rails whose sum is measured: those given, or the total.

        Raises:
            UsageError: as for `window`.
        """
        roles = {rail.name: rail.role for rail in self.rails}
        known = list(roles)
        rails = [rails] if isinstance(rails, str) else rails
        for name in rails or ():
            if name not in known:
                raise unknown_name(f"rail of {self.name}", name, known)
        if {"total", "part"} <= {roles[name] for name in rails or ()}:
            parts = ", ".join(name for name in rails or () if roles[name] == "part")
            raise UsageError(f"{parts} of {self.name} lies inside the total: to add both counts it twice.")
        if not (chosen := tuple(dict.fromkeys(rails or self.total))):
            reasons = "".join(f" {problem.reason}" for problem in self.problems)
            raise UsageError(
                f"The meter {self.name} knows of no total among its rails.{reasons} "
                f"Name those to add up, out of: {', '.join(known)}."
            )
        return chosen
