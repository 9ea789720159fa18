"""NVML: NVIDIA graphics cards, through nvidia-ml-py (NVML API Reference, nvmlDeviceGetTotalEnergyConsumption)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..board import Board
from ..meter import Meter, Probe, Rail, Unavailable
from ..state import StateReader

LOOKS_FOR = "NVIDIA graphics cards in /proc/driver/nvidia, asked through the package nvidia-ml-py"

AVERAGE_S = 1.0
"""NVML's power is an average of one second on Ampere and newer, except for GA100."""


def find(root: Path, board: Board, state: StateReader) -> list[Meter | Unavailable]:
    """Find the graphics cards, each a meter `nvml:<index>`: the energy counter where there is one, else the power."""
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
    """Open a card. That a handle is given proves nothing: each query may still be refused."""
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
        rail = Rail(name=counts, role="total", covers=card, counts=counts, lag_s=lag_s)
        probe = Probe((rail,), partial(_read, query, handle))
        return Meter(name, [probe], scope=f"the graphics card {card} alone", poll_s=0.02, state=state)
    return Unavailable(name, f"{card}: {'; '.join(reasons)}", "This card or its driver measures no power.")


def _read(query: Callable[[Any], int], handle: Any) -> tuple[float]:
    return (query(handle) / 1e3,)
