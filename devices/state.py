"""The state of a board at one moment: throttling, clocks, temperature."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from .sysfs import hwmon_chips, list_numbered, read_number, read_text

ZONES = "sys/class/thermal/thermal_zone*/temp"

COLDEST_C, HOTTEST_C = -60.0, 200.0
"""No chip that works is colder or hotter. Thermal zones that are switched off report -256 degrees."""

MOST_CLOCK_HZ = 1e11
"""No clock is faster."""

PI_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of `vcgencmd get_throttled` for now. The same bits since boot are 16 higher."""


class State(Struct, frozen=True, kw_only=True):
    """A board's state at one moment.

    Attributes:
        clock_hz: the clock of the fastest CPU core, or of the measured graphics card; None if it cannot be read.
        temperature_c: the temperature of the hottest thermal zone, or of the measured graphics card; None if there is none.
        throttling: the causes that slow the board down now, in words.
        events: the kernel's counters of throttling, by name.

    Example:
        >>> from offramp.devices import SimulatedBoard
        >>> SimulatedBoard(idle_w=4.0).state().temperature_c
        49.0
    """

    clock_hz: float | None = None
    temperature_c: float | None = None
    throttling: tuple[str, ...] = ()
    events: dict[str, int] = {}


StateReader = Callable[[], State]


def throttled_between(before: State, after: State) -> tuple[str, ...]:
    """Say what slowed the board down at one of two moments, or was counted between them."""
    return describe_throttling([*before.throttling, *after.throttling], count_events(before, after))


def count_events(before: State, after: State) -> dict[str, int]:
    """Return which of the kernel's counters of throttling moved between two moments, and by how much."""
    moves = {name: count - before.events.get(name, count) for name, count in after.events.items()}
    return {name: count for name, count in moves.items() if count > 0}


def describe_throttling(names: Iterable[str], events: Mapping[str, int]) -> tuple[str, ...]:
    """Name each cause that slowed the board down once, and how far the kernel's counters moved: `over-current oc1 (+3)`."""
    return tuple(dict.fromkeys([*names, *(f"{name} (+{count})" for name, count in events.items())]))


class BoardState:
    """Reads a board's state when it is called. The files are searched once, since a search takes longer than a read.

    Args:
        root: the folder that holds `proc` and `sys`.
    """

    def __init__(self, root: str | Path = "/") -> None:
        root = Path(root)
        self._clocks = list_numbered("sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq", root)
        self._zones = list_numbered(ZONES, root)
        self._counters = {
            f"{path.parents[1].name} {path.name.removesuffix('_count')}": path
            for path in list_numbered("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count", root)
        }
        for name, folder in hwmon_chips(root):
            if name == "soctherm_oc":
                for path in sorted(folder.glob("oc*_event_cnt")):
                    self._counters[f"over-current {path.name.removesuffix('_event_cnt')}"] = path
        command = root / "usr/bin/vcgencmd"
        self._vcgencmd = command if command.exists() else None

    def __call__(self) -> State:
        """Read the state. Values that cannot be read are left out."""
        most = MOST_CLOCK_HZ / 1e3
        clocks = [khz for path in self._clocks if (khz := read_number(path, least=1, most=most)) is not None]
        counts = {name: count for name, path in self._counters.items() if (count := read_number(path)) is not None}
        bits = self._ask_firmware()
        if bits is not None:
            counts |= {f"{name} since boot": bits >> (bit + 16) & 1 for bit, name in PI_BITS.items()}
        return State(
            clock_hz=max(clocks) * 1e3 if clocks else None,
            temperature_c=_hottest_c(self._zones),
            throttling=tuple(name for bit, name in PI_BITS.items() if (bits or 0) >> bit & 1),
            events=counts,
        )

    def _ask_firmware(self) -> int | None:
        """Ask a Raspberry Pi's firmware for the bits of `PI_BITS`; None if there is no such firmware, or no answer."""
        if self._vcgencmd is None:
            return None
        import subprocess  # it takes long to import

        try:
            answer = subprocess.run([self._vcgencmd, "get_throttled"], capture_output=True, text=True, timeout=2).stdout
            return int(answer.partition("=")[2], 16)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None


def read_temperature(root: Path) -> float | None:
    """Return the temperature of the hottest thermal zone in degrees Celsius; None if there is none."""
    return _hottest_c(list_numbered(ZONES, root))


def _hottest_c(zones: list[Path]) -> float | None:
    least, most = COLDEST_C * 1e3, HOTTEST_C * 1e3
    warm = [mc for path in zones if (mc := read_number(path, least=least, most=most)) is not None]
    return max(warm) / 1e3 if warm else None


def read_governor(root: Path) -> str:
    """Return the CPU's frequency governors, each once: `performance`, `ondemand, powersave`; empty if there are none."""
    paths = list_numbered("sys/devices/system/cpu/cpufreq/policy*/scaling_governor", root)
    return ", ".join(dict.fromkeys(name for path in paths if (name := read_text(path))))
