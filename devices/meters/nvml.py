"""NVML: NVIDIA graphics cards, through nvidia-ml-py (NVML API Reference, nvmlDeviceGetTotalEnergyConsumption).

Sensor: the card's own power measurement, which its driver shows as an energy counter, or else as an average power.
Sees: the whole card, its memory included.
Cannot see: the processor and the rest of the machine, which feed the card; anything on a Jetson, whose GPU is not such a card.
Here: on an H100 (driver 580) the counter moves every 100 ms, and reading it takes 3 ms; reading the average power takes 3 us.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from ..board import Board
from ..meter import Meter
from ..rail import Probe, Rail, Unavailable
from ..state import COLDEST_C, HOTTEST_C, MOST_CLOCK_HZ, State, StateReader

LOOKS_FOR = "NVIDIA graphics cards in /proc/driver/nvidia, asked through the package nvidia-ml-py"

SLOWDOWNS = {
    0x08: "card slowed by hardware",
    0x20: "card's temperature limit",
    0x40: "card slowed by hardware for heat",
    0x80: "card's power brake",
}
"""Bits of the reasons for the card's clocks (NVML API Reference, nvmlClocksEventReasons) that mean throttling. Running at the
power limit (0x04) is no throttling: a loaded card does that."""

MOST_CARD_W = 5000.0
"""No card draws more; those of 2025 draw up to 1,400 W, and modules with a processor 2,700 W."""

AVERAGE_S = 1.0
"""The power of NVML is an average over one second on Ampere and newer cards, except for GA100."""


def find(root: Path, board: Board, state: StateReader) -> list[Meter | Unavailable]:
    """Find the graphics cards. Each is a meter `nvml:<index>` of its energy counter, or of its power if it has no counter."""
    if board.kind == "jetson":
        return [Unavailable("nvml", "Jetson's GPU has no power in NVML: its supplies are in ina3221", "")]
    if not (root / "proc/driver/nvidia").exists():
        return [Unavailable("nvml", "no /proc/driver/nvidia is there: no NVIDIA driver is loaded", "")]
    try:
        import pynvml
    except ImportError:
        return [
            Unavailable("nvml", "the package nvidia-ml-py is not installed", "Install it: pip install 'offramp[nvml]'")
        ]
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        return [Unavailable("nvml", f"NVML does not start: {error}", "See what nvidia-smi says.")]
    if not count:
        return [Unavailable("nvml", "NVML finds no card", "See what nvidia-smi says.")]
    return [_open(pynvml, index, state) for index in range(count)]


def _open(pynvml: Any, index: int, state: StateReader) -> Meter | Unavailable:
    """Open a card. A handle alone proves nothing: each query may still be refused."""
    name = f"nvml:{index}"
    queries: list[tuple[Literal["energy", "power"], Any, float]] = [
        ("energy", pynvml.nvmlDeviceGetTotalEnergyConsumption, 0.0),
        ("power", pynvml.nvmlDeviceGetPowerUsage, AVERAGE_S),
    ]
    reasons = []
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        card = pynvml.nvmlDeviceGetName(handle)
        card = card.decode() if isinstance(card, bytes) else card
    except pynvml.NVMLError as error:
        return Unavailable(name, f"NVML gives no card {index}: {error}", "See what nvidia-smi says.")
    for counts, query, lag_s in queries:
        try:
            query(handle)
        except pynvml.NVMLError as error:
            reasons.append(f"{counts}: {error}")
            continue
        rail = Rail(name="card", role="total", covers=card, counts=counts, most_w=MOST_CARD_W, lag_s=lag_s)
        probe = Probe((rail,), partial(_read, query, handle))
        scope = f"the graphics card {card} alone"
        return Meter(name, [probe], scope=scope, poll_s=0.05, state=partial(_read_state, pynvml, handle, state))
    return Unavailable(name, f"{card}: {'; '.join(reasons)}", "This card or its driver measures no power.")


def _read(query: Callable[[Any], int], handle: Any) -> tuple[float]:
    return (query(handle) / 1e3,)


def _read_state(pynvml: Any, handle: Any, state: StateReader) -> State:
    """Read the board's state, with the clock and the temperature of the card if the card has them."""

    def ask(name: str, *arguments: Any) -> int | None:
        try:
            return getattr(pynvml, name)(handle, *arguments)  # type: ignore[no-any-return]
        except (pynvml.NVMLError, AttributeError):  # older drivers and packages lack some queries
            return None

    board = state()
    temperature_c = ask("nvmlDeviceGetTemperature", 0)
    if temperature_c is not None and not COLDEST_C <= temperature_c <= HOTTEST_C:
        temperature_c = None
    clock_mhz = ask("nvmlDeviceGetClockInfo", 0)
    if clock_mhz is not None and not 0 < clock_mhz <= MOST_CLOCK_HZ / 1e6:
        clock_mhz = None
    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:
        reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    slowed = tuple(words for bit, words in SLOWDOWNS.items() if (reasons or 0) & bit)
    return replace(
        board,
        clock_hz=board.clock_hz if clock_mhz is None else clock_mhz * 1e6,
        temperature_c=board.temperature_c if temperature_c is None else float(temperature_c),
        throttling=(*board.throttling, *slowed),
    )
