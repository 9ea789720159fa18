"""A governor: moves a network along the operating points of its calibration, so that the board keeps a limit."""

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from numbers import Real

from msgspec import Struct

from ..devices.clock import Clock
from ..errors import OfframpError, UsageError, unknown_name
from .chain.forks import FOLLOWERS
from .chain.net import Net

__all__ = ["Governor", "Move"]

MOST_MOVES = 1000
"""The last moves that are kept."""

COOLER_C = 3.0
"""A board must be so much below its temperature limit before it works harder again."""

FULLER = 0.02
"""A battery must hold so much more than its limit before the board works harder again."""

LEAST_CALLS = 5
"""Fewer calls say nothing of the mean latency."""

FORKED = "This process was forked, and the governor is its parent's. Make one here"

_log = logging.getLogger(__name__)


class Move(Struct, frozen=True):
    """A change of the operating point.

    Attributes:
        at_s: when, on the governor's clock.
        before, after: the names of the points.
        why: in words, with the reading and the limit.

    Example:
        >>> from offramp.runtime import Move
        >>> Move(12.0, "accurate", "eco", "7.3 W, of 6.0 W allowed").after
        'eco'
    """

    at_s: float
    before: str
    after: str
    why: str


class Governor:
    """Moves a network along its calibrated operating points, so that a limit is kept. Each call runs as its point promises.

    Mean power and mean latency are kept by a budget: what exceeds the limit is owed, what stays below is saved, up to
    `horizon_s` seconds of the limit. The network turns to a cheaper point while it owes, and to a dearer one when a horizon is
    saved, so that the mean over a long time is the limit wherever points lie on both sides of it. A temperature and a battery
    have a band instead: the network turns to a cheaper point beyond the limit, and back 3 degrees (2 % of the battery) on its
    good side.

    A reading that is missing changes nothing: sensors fail, and the product goes on. Where even the cheapest point is beyond a
    limit, or a cheaper one cannot be used, `problem` says so. The governor's thread ends with `close`.

    Args:
        net: the network. It must not be switched by others meanwhile. Power and temperature are those of its `stats()`, so that
            it must be loaded with a meter for `max_power_w`.
        points: the names of the points that may be used. By default those whose limits are promised and that run on the same
            engines as the point in use: the governor never leaves them.
        max_power_w: the board's mean power.
        max_temperature_c: the temperature of the board's hottest zone.
        max_latency_s: the mean latency of the calls with one sample.
        min_battery: the charge, from 0 to 1, below which the cheapest point is used.
        battery: tells the charge, from 0 to 1, or None if it is unknown; by default psutil does.
        every_s: the time between two looks, about.
        horizon_s: how long the limit may be exceeded by as much as it is high.

    Attributes:
        points: the names of the points that it uses, the dearest first.
        max_power_w, max_temperature_c, max_latency_s, min_battery: the limits. Those that were given may be changed while it
            works, as when a supply weakens.
        problem: how the last look found a limit exceeded, and why there is no cheaper point to turn to; empty if it did not.

    Raises:
        UsageError: no limit is given, one is out of range, there are not two points to move between, or the network has no meter.

    Example:
        >>> from offramp.devices import SimulatedBoard
        >>> from offramp.runtime import Governor, load
        >>> board = SimulatedBoard(idle_w=4.0)
        >>> with load("digits.offramp", "cpu", meter=board.meter()) as net:
        ...     try:
        ...         Governor(net, max_power_w=6.0)
        ...     except Exception as error:
        ...         print(error)
        The calibration has one point to use, default. Calibrate two at least, such as: offramp calibrate ... without a target
    """

    def __init__(
        self,
        net: Net,
        *,
        points: Sequence[str] | None = None,
        max_power_w: float | None = None,
        max_temperature_c: float | None = None,
        max_latency_s: float | None = None,
        min_battery: float | None = None,
        battery: Callable[[], float | None] | None = None,
        every_s: float = 1.0,
        horizon_s: float = 30.0,
    ) -> None:
        self._net, self.points = net, _choose_points(net, points)
        self.max_power_w, self.max_temperature_c = max_power_w, max_temperature_c
        self.max_latency_s, self.min_battery = max_latency_s, min_battery
        limits = (max_power_w, max_temperature_c, max_latency_s, min_battery)
        if all(limit is None for limit in limits):
            raise UsageError("A governor needs a limit, such as max_power_w=6.0.")
        for value in (*limits, every_s, horizon_s):
            if value is not None and not (isinstance(value, Real) and 0 < value < math.inf):
                raise UsageError(f"Limits and times of a governor are numbers above 0, not {value!r:.30}.")
        if min_battery is not None and min_battery > 1:
            raise UsageError(f"min_battery is a share of the charge, from 0 to 1, not {min_battery!r:.30}.")
        watch = net._watch
        if max_power_w is not None and (watch is None or watch.meter is None):
            raise UsageError(
                "max_power_w needs a meter: load(..., meter='auto'). `offramp doctor` lists those of this board."
            )
        self._read_battery = battery or _read_battery
        self._horizon_s = horizon_s
        self._clock = watch.meter.clock if watch and watch.meter else Clock()
        self._last = Readings(self._clock.now_s(), net)
        half = horizon_s / 2  # so that the first look alone moves nothing
        self._owed = {"power": -half * (max_power_w or 0.0), "latency": -half * (max_latency_s or 0.0)}
        self._moves: deque[Move] = deque(maxlen=MOST_MOVES)
        self.problem = ""
        self._place = self._find_place()
        self._end = self._clock.every(float(every_s), self.look)  # threads wait for no float of NumPy
        FOLLOWERS.add(self)

    @property
    def moves(self) -> list[Move]:
        """The last 1000 changes of the point, oldest first."""
        return list(self._moves)

    def look(self) -> None:
        """Look at the board once, and move by one point at most. The governor's thread does so again and again."""
        now = Readings(self._clock.now_s(), self._net)
        before, self._last = self._last, now
        wishes = [wish for wish in self._wishes(before, now) if wish is not None]
        cheaper = [why for step, why in wishes if step > 0]
        if cheaper:
            self._move(1, "; ".join(cheaper))
            return
        self.problem = ""
        if wishes and all(step < 0 for step, _ in wishes):
            self._move(-1, "; ".join(why for _, why in wishes))

    def close(self) -> None:
        """End the looks. The network stays at the point that it is at."""
        self._end()

    def follow_fork(self) -> None:
        """Say in a child that nobody looks there: the thread is the parent's."""
        self.problem, self._end = FORKED, _do_nothing

    def __enter__(self) -> "Governor":
        """Return the governor itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the governor."""
        self.close()

    def _wishes(self, before: "Readings", now: "Readings") -> "list[tuple[int, str] | None]":
        """Return for each limit 1 for a cheaper point, -1 for a dearer one or 0, and why; None where nothing could be read."""
        wishes: list[tuple[int, str] | None] = []
        if self.max_power_w is not None:
            wishes.append(self._settle("power", now.power_since(before), self.max_power_w, now.at_s - before.at_s))
        if self.max_latency_s is not None:
            wishes.append(
                self._settle("latency", now.latency_since(before), self.max_latency_s, now.at_s - before.at_s)
            )
        if self.max_temperature_c is not None:
            wishes.append(_compare("C", now.temperature_c, self.max_temperature_c, COOLER_C))
        if self.min_battery is not None:
            charge = self._charge()
            lacking = None if charge is None else -charge
            wishes.append(_compare("of the battery", lacking, -self.min_battery, FULLER))
        return wishes

    def _settle(self, name: str, value: float | None, limit: float, elapsed_s: float) -> tuple[int, str] | None:
        """Add what was spent to the budget; return what it wishes."""
        if value is None:
            return None
        room = limit * self._horizon_s
        owed = self._owed[name] + (value - limit) * elapsed_s
        self._owed[name] = min(max(owed, -room), room)
        shown = (
            f"{value:.2f} W of {limit:.2f} W" if name == "power" else f"{1e3 * value:.3g} ms of {1e3 * limit:.3g} ms"
        )
        if owed > 0:
            return (1 if value > limit else 0), f"{shown}, more than allowed in the mean"
        return (-1 if owed <= -room else 0), f"{shown}, less than allowed for long"

    def _charge(self) -> float | None:
        try:
            return self._read_battery()
        except Exception:  # a gauge that fails must not end the governor
            return None

    def _find_place(self) -> int:
        name = self._net.point.name if self._net.point else ""
        if name not in self.points:
            self._net.use(self.points[0])
            return 0
        return self.points.index(name)

    def _move(self, step: int, why: str) -> None:
        place = min(max(self._place + step, 0), len(self.points) - 1)
        if place == self._place:
            if step > 0:
                self._exceed(f"{why}, and {self.points[place]} is the cheapest point")
            return
        try:
            self._net.use(self.points[place])
        except UsageError:  # the network was closed
            self._end()
            return
        except OfframpError as error:  # a stage that the point needs cannot be opened; the next look tries again
            if step > 0:
                self._exceed(f"{why}, and {self.points[place]} cannot be used: {error}")
            return
        move = Move(self._clock.now_s(), self.points[self._place], self.points[place], why)
        self._place, self.problem = place, ""
        self._moves.append(move)
        _log.info("from %s to %s: %s", move.before, move.after, why)

    def _exceed(self, problem: str) -> None:
        """Say that a limit is exceeded and why nothing is done about it."""
        if not self.problem:
            _log.info("%s", problem)
        self.problem = problem


def _do_nothing() -> None:
    """Stand in for the end of looks that are the parent's."""


class Readings:
    """What can be read of a network and its board at a moment."""

    def __init__(self, at_s: float, net: Net) -> None:
        stats, tally = net.stats(), net._tally
        self.at_s = at_s
        self.temperature_c = stats.state.temperature_c
        self._power = stats.power
        self._calls, self._recent = stats.inferences - tally.untimed, tally.recent

    def power_since(self, before: "Readings") -> float | None:
        """Return the mean power since then in W; None if nothing was read since."""
        if self._power is None or before._power is None or self._power.problem is not None:
            return None
        seen_s = self._power.seen_s - before._power.seen_s
        return (self._power.energy_j - before._power.energy_j) / seen_s if seen_s > 0 else None

    def latency_since(self, before: "Readings") -> float | None:
        """Return the mean latency of the calls since then; None if there were too few."""
        calls = min(self._calls - before._calls, len(self._recent))
        return sum(list(self._recent)[-calls:]) * 1e-9 / calls if calls >= LEAST_CALLS else None


def _compare(unit: str, value: float | None, most: float, band: float) -> tuple[int, str] | None:
    """Return 1 beyond a limit, -1 on its good side by more than a band, else 0, and why; None if nothing was read."""
    if value is None:
        return None
    shown = f"{abs(value):.3g} {unit}, the limit is {abs(most):.3g}"
    return (1 if value > most else -1 if value < most - band else 0), shown


def _choose_points(net: Net, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the points that may be used, the dearest first.

    Raises:
        UsageError: there are not two, or one cannot be used.
    """
    if net.point is None:
        raise UsageError("A governor needs operating points, and this network has none: load it with a calibration.")
    for name in names or ():
        if name not in net.points:
            raise unknown_name("operating point", str(name), net.points)
        if net.points[name].engines != net.point.engines:
            raise UsageError(f"The operating point {name} runs on other engines: the network cannot switch to it.")
    usable = {name: p for name, p in net.points.items() if p.engines == net.point.engines and (names or p.is_promised)}
    chosen = {name: usable[name] for name in names} if names else usable
    if names and len(chosen) < 2:
        raise UsageError(f"A governor moves between points, and points= names one: {names[0]}.")
    if len(chosen) < 2:
        found = f"one point to use, {next(iter(chosen))}" if chosen else "no point whose limits are promised"
        raise UsageError(
            f"The calibration has {found}. Calibrate two at least, such as: offramp calibrate ... without a target"
        )
    has_energy = all(point.energy_j is not None for point in chosen.values())
    costs = {name: (p.energy_j if has_energy else p.latency_s) or 0.0 for name, p in chosen.items()}
    return tuple(sorted(chosen, key=lambda name: -costs[name]))


def _read_battery() -> float | None:
    """Return the charge of the machine's battery, 0 to 1; None if it has none."""
    import psutil

    battery = psutil.sensors_battery()
    return None if battery is None else battery.percent / 100
