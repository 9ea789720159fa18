"""RAPL: energy counters inside Intel and AMD processors (kernel: Documentation/power/powercap/powercap.rst).

Sensor: counters of the processor's power management, updated about every millisecond.
Sees: a package (a processor with its cores, caches and built-in graphics); `psys`, if its maker wired it, the platform.
Cannot see: memory (unless there is a zone `dram`), disks, screen, power supply; anything inside a virtual machine.
Here: microjoules in `energy_uj`, which start again from 0 at `max_energy_range_uj`. Only root may read them without a udev rule.
"""

import re
from pathlib import Path

from ..board import Board
from ..container import container_name, find_mask
from ..meter import Meter
from ..rail import Probe, Rail, Unavailable
from ..state import StateReader
from ..sysfs import Node, list_numbered, read_number, read_text

LOOKS_FOR = "processor energy counters in /sys/class/powercap/intel-rapl:*/energy_uj"

UPDATES_S = 0.001
"""The counters are updated about every millisecond (Intel's Software Developer's Manual, volume 3, 16.10)."""

MOST_RANGE_UJ = 1e15
"""A counter's range of 0, or of more than this, cannot be: then nothing tells where it starts again."""

UNMASK = {
    "Docker": "--security-opt systempaths=unconfined",
    "Podman": "--security-opt unmask=/sys/devices/virtual/powercap",
}
"""The option that lets a container see what is hidden."""

PERMISSION_REMEDY = (
    "Allow your group to read it with a udev rule, such as "
    """ACTION=="add", SUBSYSTEM=="powercap", RUN+="/bin/chmod -R g+r /sys%p", RUN+="/bin/chgrp -R power /sys%p" """
    "in /etc/udev/rules.d/70-powercap.rules, then reboot; or run as root. Kernels keep it from users since CVE-2020-8694."
)


def find(root: Path, board: Board, state: StateReader) -> list[Meter | Unavailable]:
    """Find the packages, as one meter, and the platform (`psys`), as another, since the platform includes the packages.

    `intel-rapl-mmio` shows the packages a second time and is left out.
    """
    zones = [(path, read_text(path / "name") or "") for path in list_numbered("sys/class/powercap/intel-rapl:*", root)]
    hidden = find_mask(zones[0][0] if zones else root / "sys/devices/virtual/powercap", root)
    if hidden is not None:
        kind = container_name(root)
        reason = f"{f'this {kind}' if kind else 'this'} container hides the processor's energy counters: {hidden}"
        remedy = f"Start it as root and with {UNMASK.get(kind or '', '--privileged')}, or measure on the host."
        return [Unavailable("rapl", reason, remedy)]
    if not zones:
        reason = "no /sys/class/powercap/intel-rapl:* is there"
        if not board.architecture.startswith(("x86", "i686", "AMD64")):
            return [Unavailable("rapl", f"{reason}: only x86 processors have it", "")]
        if re.search(r"^flags\s*:.*\bhypervisor\b", read_text(root / "proc/cpuinfo") or "", re.M):
            return [Unavailable("rapl", f"{reason}: this is a virtual machine, whose host keeps the counters", "")]
        return [Unavailable("rapl", reason, "Load its driver: sudo modprobe intel_rapl_msr, on Intel and AMD.")]
    meters: list[Meter | Unavailable] = []
    npu = ", the NPU inside them included" if any("intel_vpu" in name for name in board.accelerators) else ""
    scope = f"processor packages{npu}, without memory and the rest of the board"
    groups = [
        ("rapl", [(p, n) for p, n in zones if not n.startswith("psys")], scope),
        ("rapl:psys", [(p, n) for p, n in zones if n.startswith("psys")], "the platform, as its maker wired psys"),
    ]
    for meter, members, scope in groups:
        results = [_open(meter, path, name or path.name, root, board.most_w) for path, name in members]
        probes = _drop_mirrored([result for result in results if isinstance(result, Probe)])
        problems = [result for result in results if isinstance(result, Unavailable)]
        outer = [result for (path, _), result in zip(members, results, strict=True) if path.name.count(":") == 1]
        if unread := [result for result in outer if isinstance(result, Unavailable)]:  # the sum would be too small
            meters.append(unread[0])
        elif outer:
            meters.append(Meter(meter, probes, scope=scope, poll_s=0.05, state=state, problems=problems))
    return meters


def _open(meter: str, path: Path, name: str, root: Path, most_w: float) -> Probe | Unavailable:
    """Open a zone. Nested zones of a second package are named with it: `package-1/core`."""
    parent = path.parent / path.name.rpartition(":")[0]
    inside = read_text(parent / "name") if path.name.count(":") > 1 else None
    label = f"{inside}/{name}" if inside and inside != "package-0" else name
    node = Node(lambda: path / "energy_uj")
    try:
        node.read()
    except PermissionError:
        return Unavailable(
            meter, f"{label}: /{(path / 'energy_uj').relative_to(root)} may not be read", PERMISSION_REMEDY
        )
    except OSError as error:
        remedy = "Its driver gives no number: see dmesg."
        return Unavailable(meter, f"{label}: /{(path / 'energy_uj').relative_to(root)}: {error.strerror}", remedy)
    wrap = read_number(path / "max_energy_range_uj", least=1, most=MOST_RANGE_UJ)
    rail = Rail(
        name=label,
        role="total" if name.startswith(("psys", "package-")) else "other" if name == "dram" else "part",
        covers={"core": "cores", "uncore": "graphics", "dram": "memory, beside the packages"}.get(name, name),
        counts="energy",
        most_w=most_w,
        wrap_j=wrap / 1e6 if wrap else None,
        period_s=UPDATES_S,
    )
    return Probe((rail,), lambda: (node.read() / 1e6,))


def _drop_mirrored(probes: list[Probe]) -> list[Probe]:
    """Drop a package that shows another package's counter, as both dies of the first Threadrippers do: the sum would be doubled.

    A counter whose readings always lie between two readings of another is the same counter.
    """
    distinct: list[Probe] = []
    for probe in probes:
        if not (probe.rails[0].name.startswith("package-") and any(_is_same(other, probe) for other in distinct)):
            distinct.append(probe)
    return distinct


def _is_same(first: Probe, second: Probe) -> bool:
    """Return True if two packages show the same counter."""
    if not first.rails[0].name.startswith("package-"):
        return False
    try:
        return all(first.read()[0] <= second.read()[0] <= first.read()[0] for _ in range(5))
    except OSError:
        return False
