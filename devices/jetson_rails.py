"""The rails of Jetson modules: which of them make the total, and which lie inside that total.

The tables are from NVIDIA's device trees and Jetson Linux Developer Guides ("Power Consumption"). The commonest mistake in
published figures is to add a total to its own parts; the next is to take the supply of the inputs and outputs for the total.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from .board import Board

Role = Literal["total", "part", "other"]


class RailTable(Struct, frozen=True, kw_only=True):
    """The rails of a module.

    Attributes:
        modules: beginnings of the module's name in the device tree.
        total: the rails that add up to the scope.
        scope: what the total covers, in words.
        parts: the rails that lie inside the total, and what each of them feeds.
    """

    modules: tuple[str, ...]
    total: tuple[str, ...]
    scope: str
    parts: dict[str, str]

    def describe(self, rail: str) -> tuple[Role, str]:
        """Return a rail's role, and what it covers."""
        if rail in self.total:
            return "total", self.scope if len(self.total) == 1 else f"one of the {len(self.total)} that make the total"
        if rail in self.parts:
            return "part", self.parts[rail]
        return "other", "not in offramp's table of this board"


_CPU_GPU = {
    "VDD_CPU_GPU_CV": "CPU, GPU and accelerators, inside VDD_IN",
    "VDD_SOC": "the rest of the chip, inside VDD_IN",
}

TABLES = {
    "Jetson Nano": RailTable(
        modules=("p3448",),
        total=("POM_5V_IN",),
        scope="the whole module",
        parts={"POM_5V_GPU": "GPU, inside POM_5V_IN", "POM_5V_CPU": "CPU, inside POM_5V_IN"},
    ),
    "Jetson TX1": RailTable(
        modules=("p2180",),
        total=("VDD_IN",),
        scope="the whole module",
        parts={"VDD_GPU": "GPU, inside VDD_IN", "VDD_CPU": "CPU, inside VDD_IN"},
    ),
    "Jetson TX2": RailTable(
        modules=("p3310", "p3489"),
        total=("VDD_IN",),
        scope="the whole module",
        parts={
            "VDD_SYS_GPU": "GPU, inside VDD_IN",
            "VDD_SYS_SOC": "SoC, inside VDD_IN",
            "VDD_4V0_WIFI": "radio, inside VDD_IN",
            "VDD_SYS_CPU": "CPU, inside VDD_IN",
            "VDD_SYS_DDR": "memory, inside VDD_IN",
        },
    ),
    "Jetson TX2 NX": RailTable(
        modules=("p3636",),
        total=("VDD_IN",),
        scope="the whole module",
        parts={"VDD_CPU_GPU": "CPU and GPU, inside VDD_IN", "VDD_SOC": "the rest of the chip, inside VDD_IN"},
    ),
    "Jetson AGX Xavier": RailTable(
        modules=("p2888",),
        total=("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        scope="the module, as the sum of its six supplies",
        parts={},
    ),
    "Jetson Xavier NX": RailTable(modules=("p3668",), total=("VDD_IN",), scope="the whole module", parts=_CPU_GPU),
    "Jetson Orin NX or Nano": RailTable(
        modules=("p3767",), total=("VDD_IN",), scope="the whole module", parts=_CPU_GPU
    ),
    "Jetson AGX Orin": RailTable(
        modules=("p3701",),
        total=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        scope="the module, as the sum of its three supplies",
        parts={"VDDQ_VDD2_1V8AO": "memory, inside VIN_SYS_5V0"},
    ),
    "Jetson AGX Thor": RailTable(
        modules=("p3834",),
        total=("VIN",),
        scope="the whole module",
        parts={
            "VDD_GPU": "GPU, inside VIN",
            "VDD_CPU_SOC_MSS": "CPU, SoC and memory controller, inside VIN",
            "VIN_SYS_5V0": "5 V system supply, inside VIN",
        },
    ),
}
"""Tables by the name of the module. Modules before Xavier run a mainline kernel, since JetPack 5 does not support them."""


def find_table(board: Board, rails: Sequence[str]) -> RailTable | None:
    """Return the table of a board, found by its module's name or else by its rails; None if no table fits."""
    for table in TABLES.values():
        if any(module in part for part in board.compatible for module in table.modules):
            return table
    if board.kind != "jetson":
        return None
    fitting = [table for table in TABLES.values() if set(table.total) <= set(rails)]
    return fitting[0] if fitting else None
