"""Powers and energy counters of any other chip that the kernel knows (kernel: Documentation/hwmon/sysfs-interface.rst).

Sensor: a monitoring chip of a mainboard, graphics card, processor or power supply, whose driver shows it in the hwmon class.
Sees: the supply that it is wired to: the whole machine for `power_meter`, the card for `amdgpu`.
Cannot see: other supplies. What an unknown chip is wired to is not in its files; then its rails make no total.
Here: microwatts in `power<n>_input` or `_average`, microjoules in `energy<n>_input`; chips are told apart by name, not by number.
"""

import re
from collections import Counter
from functools import partial
from pathlib import Path

from ..board import Board
from ..meter import Meter
from ..rail import Probe, Rail, Unavailable, tell_apart
from ..state import StateReader
from ..sysfs import Node, device_of, find_hwmon, hwmon_chips, read_number, read_text

LOOKS_FOR = "power and energy in /sys/class/hwmon/hwmon*/{power,energy}*_{input,average}"

ELSEWHERE = re.compile(r"ina3221$|ina238$|(BAT|AC|ADP)\d*$|ucsi_source_psy")
"""Chips that other meters read, and batteries and chargers, which hwmon repeats."""

SCOPES = {
    "power_meter": "the whole machine, as its firmware measures it",
    "amdgpu": "the graphics card",
    "xe": "the graphics card",
    "i915": "the graphics card",
    "amd_energy": "processor sockets",
    "corsairpsu": "the power supply's output",
}
"""The scopes of known chips."""

MOST_MACHINE_W = 20_000.0
"""What a server with its cards may draw."""

MOST_AVERAGE_MS = 600_000
"""A chip that says it averages for longer is not believed."""

CHANNEL = re.compile(r"(power|energy)(\d+)_(input|average)")


def find(root: Path, board: Board, state: StateReader) -> list[Meter | Unavailable]:
    """Find every chip that has a power or an energy; each is a meter of its own, `hwmon:<name>`."""
    counts: Counter[str] = Counter()
    meters: list[Meter | Unavailable] = []
    for name, folder in hwmon_chips(root):
        index = counts[name]
        counts[name] += 1
        if ELSEWHERE.match(name):
            continue
        meter = f"hwmon:{name}" + (f":{index}" if index else "")
        try:
            most_w = max(board.most_w, MOST_MACHINE_W) if name == "power_meter" else board.most_w
            chip = partial(_open, root, meter, name, index, folder, most_w)
            results = [chip(*channel) for channel in _channels(folder)]
        except OSError:  # the chip has gone meanwhile
            continue
        probes = tell_apart([result for result in results if isinstance(result, Probe)])
        problems = [result for result in results if isinstance(result, Unavailable)]
        if probes:
            scope = _scope(name, folder)
            meters.append(
                Meter(meter, _choose_total(name, probes), scope=scope, poll_s=0.02, state=state, problems=problems)
            )
        elif problems:
            meters.append(problems[0])
    if not meters:
        meters.append(Unavailable("hwmon", "no chip in /sys/class/hwmon/hwmon* has a power or an energy", ""))
    return meters


def _scope(name: str, folder: Path) -> str:
    """Say what a chip covers: the text of a server's firmware, or the scope of known chips of that name."""
    return read_text(folder / "power1_oem_info") or SCOPES.get(name, "whatever it is wired to")


def _channels(folder: Path) -> list[tuple[str, str, str]]:
    """Return kind, number and file of each channel, a momentary value rather than an average if there are both."""
    files: dict[tuple[str, str], str] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name, reverse=True):  # _input before _average
        if match := CHANNEL.fullmatch(path.name):
            files.setdefault((match[1], match[2]), path.name)
    return sorted((kind, number, file) for (kind, number), file in files.items())


def _open(
    root: Path, meter: str, name: str, index: int, folder: Path, most_w: float, kind: str, number: str, file: str
) -> Probe | Unavailable:
    """Open a channel."""
    label = read_text(folder / f"{kind}{number}_label") or f"{kind}{number}"
    device = device_of(folder)
    node = Node(lambda: find_hwmon(root, name, index, device) / file)
    try:
        node.read()
    except OSError as error:
        reason = f"{label}: /{(folder / file).relative_to(root)}: {error.strerror or error}"
        remedy = "Run as root, or allow your group to read it with a udev rule."
        return Unavailable(meter, reason, remedy if isinstance(error, PermissionError) else "See dmesg.")
    interval = folder / f"power{number}_average_interval"
    average_ms = read_number(interval, least=1, most=MOST_AVERAGE_MS) if file.endswith("_average") else None
    rail = Rail(
        name=label,
        role="other",
        covers=_scope(name, folder),
        counts="energy" if kind == "energy" else "power",
        most_w=most_w,
        period_s=average_ms / 1e3 if average_ms else None,
        lag_s=average_ms / 1e3 if average_ms else 0.0,
    )
    return Probe((rail,), lambda: (node.read() / 1e6,))


def _choose_total(name: str, probes: list[Probe]) -> list[Probe]:
    """Mark the rails that make the total: a chip's only channel, the counter of one that has a power too, or the sockets."""
    from msgspec.structs import replace

    rails = [probe.rails[0] for probe in probes]
    counters = [rail for rail in rails if rail.counts == "energy"]
    if name == "amd_energy":
        total = [rail for rail in rails if rail.name.startswith("Esocket")]
    elif len(rails) == 1:
        total = rails
    elif len(counters) == 1 and len(rails) == 2 and name in SCOPES:
        total = counters
    else:
        total = []
    return [Probe((replace(p.rails[0], role="total" if p.rails[0] in total else "other"),), p.read) for p in probes]
