"""INA3221: the supplies of NVIDIA Jetson modules with JetPack 5 and newer (kernel: hwmon/ina3221.rst).

Sensor: a chip by Texas Instruments that measures voltage and, over shunts, current of three supplies in turn, every 6.6 ms.
Sees: on most modules the whole module (`VDD_IN`) and parts of it; on AGX modules several supplies that make the total.
Cannot see: the carrier board and its power supply; peaks shorter than a conversion.
Here: volts in `in<n>_input` multiplied by amperes in `curr<n>_input`; `jetson_rails` says which rails add up.
"""

import errno
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from ..board import Board
from ..jetson_rails import RailTable, find_table
from ..meter import Meter
from ..rail import LEAST_W, Probe, Rail, Unavailable, tell_apart
from ..state import StateReader
from ..sysfs import Node, list_numbered, read_number, read_text

PATTERN = "sys/bus/i2c/drivers/ina3221/*-00{}/hwmon/hwmon*"

LOOKS_FOR = "Jetson's supplies in /sys/bus/i2c/drivers/ina3221/*-00{40,41}/hwmon/hwmon*"

SHUNT_UOHM = 200, 1_000_000
"""Shunts outside this range are typing errors in a device tree: one says 5 micro-ohm and means 5 milli-ohm."""

MOST_UPDATE_MS = 60_000
"""A chip that says it updates less often is not believed."""

CONVERSION_S = 0.0066
"""The time in which the chip measures its three channels once."""

LEAST_INPUT_W = 0.001
"""A board that runs draws more: a reading of 0 at its only input is wrong."""


def find(root: Path, board: Board, state: StateReader) -> list[Meter | Unavailable]:
    """Find the supplies, as one meter; the board's table says which rails make the total."""
    folders = [folder for address in ("40", "41") for folder in list_numbered(PATTERN.format(address), root)]
    if not folders:
        remedy = ""
        if board.kind == "jetson":
            remedy = "Load its driver: sudo modprobe ina3221. JetPack 4 keeps its files elsewhere and is not supported."
        return [Unavailable("ina3221", f"no /{PATTERN.format('{40,41}')} is there", remedy)]
    channels = [(f, n, label) for f in folders for n in (1, 2, 3) if (label := _label(f, n))]
    labels = [label for _, _, label in channels]
    table = find_table(board, labels)
    results = [_open(root, table, folder, n, label, board.most_w) for folder, n, label in channels]
    probes = [result for result in results if isinstance(result, Probe)]
    problems = [result for result in results if isinstance(result, Unavailable)]
    if not probes:
        return list(problems) or [Unavailable("ina3221", f"/{folders[0].relative_to(root)} names no channel", "")]
    readable = [rail.name for probe in probes for rail in probe.rails]
    missing = [name for name in table.total if name not in readable] if table else []
    if table and missing and set(table.total) & set(labels):  # a sum that misses a supply would be too small
        probes = [Probe((replace(probe.rails[0], role="other"),), probe.read) for probe in probes]
        reason = f"the total needs {', '.join(missing)}, which cannot be read"
        problems.append(Unavailable("ina3221", reason, "Mend that, or name the rails that you want with rails=."))
    scope = table.scope if table else "unknown: offramp has no table of this board's rails"
    if table and not set(table.total) & set(labels):
        scope = f"parts of {' + '.join(table.total)}, which another chip measures"
    return [Meter("ina3221", tell_apart(probes), scope=scope, poll_s=0.01, state=state, problems=problems)]


def _label(folder: Path, channel: int) -> str | None:
    """Return a channel's name; None if it is not connected, that is, has no name or is named NC."""
    name = read_text(folder / f"in{channel}_label")
    return None if not name or name.upper() == "NC" else name


def _open(
    root: Path, table: RailTable | None, folder: Path, channel: int, name: str, most_w: float
) -> Probe | Unavailable:
    """Open a channel."""
    shunt = read_number(folder / f"shunt{channel}_resistor")
    where = f"/{(folder / f'shunt{channel}_resistor').relative_to(root)}"
    if shunt is not None and not SHUNT_UOHM[0] <= shunt <= SHUNT_UOHM[1]:
        reason = f"{name}: {where} says {shunt} micro-ohm, with which every current would be wrong"
        remedy = f"Write the board's true value there, often 5000: echo 5000 | sudo tee {where}"
        return Unavailable("ina3221", reason, remedy)
    volts = Node(partial(_find, root, folder, f"in{channel}_input"))
    amperes = Node(partial(_find, root, folder, f"curr{channel}_input"))

    def read() -> tuple[float]:
        return (volts.read() * amperes.read() / 1e6,)

    try:
        read()
    except OSError as error:
        if error.errno == errno.ENODATA:
            where = f"/{(folder / f'in{channel}_enable').relative_to(root)}"
            remedy = f"Switch it on: echo 1 | sudo tee {where}"
            return Unavailable("ina3221", f"{name}: the channel is switched off", remedy)
        reason = f"{name}: {error.strerror or error}"
        return Unavailable("ina3221", reason, "See dmesg, and whether your user may read it.")
    role, covers = table.describe(name) if table else ("other", "unknown")
    update = read_number(folder / "update_interval", least=0, most=MOST_UPDATE_MS)
    period = max(CONVERSION_S, (update or 0) / 1e3)
    least_w = LEAST_INPUT_W if table and table.total == (name,) else LEAST_W
    rail = Rail(name=name, role=role, covers=covers, least_w=least_w, most_w=most_w, period_s=period)
    return Probe((rail,), read)


def _find(root: Path, folder: Path, value: str) -> Path:
    """Return a file of a chip. The number of its hwmon folder may have changed since it was found."""
    chip = folder.parents[1]
    paths = list_numbered(f"{chip.relative_to(root)}/hwmon/hwmon*/{value}", root)
    return paths[0] if paths else folder / value
