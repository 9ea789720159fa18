"""INA238: the input supply of NVIDIA Jetson AGX Thor (kernel: hwmon/ina238.rst).

Sensor: a chip by Texas Instruments that measures the voltage and, over a shunt, the current of one supply, and multiplies them.
Sees: the module's input, everything on the module included.
Cannot see: the carrier board and its power supply; which part of the module uses the power (`ina3221` shows that).
Here: microwatts in `power1_input`; the rail's name in `label`.
"""

from functools import partial
from pathlib import Path

from ..board import Board
from ..jetson_rails import find_table
from ..meter import Meter
from ..rail import LEAST_W, Probe, Rail, Unavailable, tell_apart
from ..state import StateReader
from ..sysfs import Node, device_of, find_hwmon, hwmon_chips, read_text

LOOKS_FOR = "Jetson Thor's input supply in /sys/class/hwmon/hwmon*/ named ina238"

LEAST_INPUT_W = 0.001
"""A board that runs draws more: a reading of 0 at its only input is wrong."""


def find(root: Path, board: Board, state: StateReader) -> list[Meter | Unavailable]:
    """Find the chips, as one meter; the board's table says which rails make the total."""
    folders = [folder for name, folder in hwmon_chips(root) if name == "ina238"]
    if not folders:
        return [Unavailable("ina238", "no chip in /sys/class/hwmon/hwmon*/name is called ina238", "")]
    probes, problems = [], []
    labels = [read_text(folder / "label") or f"ina238 {i}" for i, folder in enumerate(folders)]
    table = find_table(board, labels)
    for i, (label, folder) in enumerate(zip(labels, folders, strict=True)):
        node = Node(partial(_find, root, i, device_of(folder)))
        try:
            node.read()
        except OSError as error:
            reason = f"{label}: /{(folder / 'power1_input').relative_to(root)}: {error.strerror or error}"
            problems.append(Unavailable("ina238", reason, "See dmesg, and whether your user may read it."))
            continue
        role, covers = table.describe(label) if table else ("other", "whatever it is wired to")
        least_w = LEAST_INPUT_W if table and table.total == (label,) else LEAST_W
        rail = Rail(name=label, role=role, covers=covers, least_w=least_w, most_w=board.most_w)
        probes.append(Probe((rail,), partial(_read, node)))
    if not probes:
        return list(problems)
    scope = table.scope if table else "whatever it is wired to"
    return [Meter("ina238", tell_apart(probes), scope=scope, poll_s=0.01, state=state, problems=problems)]


def _find(root: Path, index: int, device: Path | None) -> Path:
    return find_hwmon(root, "ina238", index, device) / "power1_input"


def _read(node: Node) -> tuple[float]:
    return (node.read() / 1e6,)
