"""RAPL: energy counters inside Intel and AMD processors (kernel: Documentation/power/powercap/powercap.rst)."""

import re
from pathlib import Path

from ..board import Board
from ..meter import Meter
from ..rail import Probe, Rail, Unavailable
from ..state import StateReader
from ..sysfs import Node, list_numbered, read_number, read_text

LOOKS_FOR = "processor energy counters in /sys/class/powercap/intel-rapl:*/energy_uj"

UPDATES_S = 0.001
"""Intel's Software Developer's Manual, volume 3, 16.10: the counters are updated about every millisecond."""

MOST_W = 2000.0

REMEDY = (
    "Allow your group to read it with a udev rule, such as "
    """ACTION=="add", SUBSYSTEM=="powercap", RUN+="/bin/chmod -R g+r /sys%p", RUN+="/bin/chgrp -R power /sys%p" """
    "in /etc/udev/rules.d/70-powercap.rules, then reboot; or run as root. Kernels keep it from users since CVE-2020-8694."
)


def find(root: Path, board: Board, state: StateReader) -> list[Meter | Unavailable]:
    """Find the packages as one meter and the platform (`psys`) as another, since it holds the packages.

    `intel-rapl-mmio` shows the packages a second time and is left out.
    """
    zones = [(path, read_text(path / "name") or "") for path in list_numbered("sys/class/powercap/intel-rapl:*", root)]
    if not zones:
        what = "no /sys/class/powercap/intel-rapl:* is there"
        if not board.architecture.startswith(("x86", "i686", "AMD64")):
            return [Unavailable("rapl", f"{what}: only x86 processors have it", "")]
        if re.search(r"^flags\s*:.*\bhypervisor\b", read_text(root / "proc/cpuinfo") or "", re.M):
            return [Unavailable("rapl", f"{what}: this is a virtual machine, whose host keeps the counters", "")]
        return [Unavailable("rapl", what, "Load its driver: sudo modprobe intel_rapl_msr, on Intel and AMD.")]
    meters: list[Meter | Unavailable] = []
    npu = ", the NPU inside them included" if any("intel_vpu" in one for one in board.accelerators) else ""
    scope = f"processor packages{npu}, without memory and the rest of the board"
    groups = [
        ("rapl", [(p, n) for p, n in zones if not n.startswith("psys")], scope),
        ("rapl:psys", [(p, n) for p, n in zones if n.startswith("psys")], "the platform, as its maker wired psys"),
    ]
    for meter, members, scope in groups:
        found = [_open(meter, path, name, root) for path, name in members]
        probes = _drop_mirrored([one for one in found if isinstance(one, Probe)])
        problems = [one for one in found if isinstance(one, Unavailable)]
        outer = [one for (path, _), one in zip(members, found, strict=True) if path.name.count(":") == 1]
        if unread := [one for one in outer if isinstance(one, Unavailable)]:  # a sum without it would be too small
            meters.append(unread[0])
        elif outer:
            meters.append(Meter(meter, probes, scope=scope, poll_s=0.05, state=state, problems=problems))
    return meters


def _open(meter: str, path: Path, name: str, root: Path) -> Probe | Unavailable:
    """Open a zone; nested ones are named by the package they lie in where there are several."""
    parent = path.parent / path.name.rpartition(":")[0]
    inside = read_text(parent / "name") if path.name.count(":") > 1 else None
    label = f"{inside}/{name}" if inside and inside != "package-0" else name
    node = Node(lambda: path / "energy_uj")
    try:
        node.read()
    except PermissionError:
        return Unavailable(meter, f"{label}: /{(path / 'energy_uj').relative_to(root)} may not be read", REMEDY)
    except OSError as error:
        remedy = "Its driver gives no number: see dmesg."
        return Unavailable(meter, f"{label}: /{(path / 'energy_uj').relative_to(root)}: {error.strerror}", remedy)
    wrap = read_number(path / "max_energy_range_uj")
    rail = Rail(
        name=label,
        role="total" if name.startswith(("psys", "package-")) else "other" if name == "dram" else "part",
        covers={"core": "cores", "uncore": "graphics", "dram": "memory, beside the packages"}.get(name, name),
        counts="energy",
        most_w=MOST_W,
        wrap_j=wrap / 1e6 if wrap else None,
        period_s=UPDATES_S,
    )
    return Probe((rail,), lambda: (node.read() / 1e6,))


def _drop_mirrored(probes: list[Probe]) -> list[Probe]:
    """Drop a package that shows another's counter, as both dies of the first Threadrippers do: to add them doubles the power.

    A counter that always lies between two readings of another is the same one.
    """
    kept: list[Probe] = []
    for probe in probes:
        if not (probe.rails[0].name.startswith("package-") and any(_same(one, probe) for one in kept)):
            kept.append(probe)
    return kept


def _same(one: Probe, other: Probe) -> bool:
    if not one.rails[0].name.startswith("package-"):
        return False
    try:
        return all(one.read()[0] <= other.read()[0] <= one.read()[0] for _ in range(5))
    except OSError:
        return False
