"""What a container, a service manager or `taskset` leaves of the board: processor time, cores, and files that are hidden."""

import math
import os
from pathlib import Path

from .sysfs import read_text

__all__ = ["container_name", "find_mask", "read_affinity", "read_quota"]

MARKS = {".dockerenv": "Docker", "run/.containerenv": "Podman"}
"""Files that a container's runtime leaves in it."""

NAMES = {"docker": "Docker", "kubepods": "Kubernetes", "libpod": "Podman", "lxc": "LXC", "containerd": "containerd"}
"""Parts of a control group's path, by which a container is known too."""

SYSFS = "sysfs"


def container_name(root: Path) -> str | None:
    """Return what kind of container this runs in: `Docker`, `Podman`, ...; None if it seems to be none."""
    for file, name in MARKS.items():
        if (root / file).exists():
            return name
    if kind := read_text(root / "run/systemd/container"):
        return kind
    groups = read_text(root / "proc/self/cgroup") or ""
    return next((name for part, name in NAMES.items() if part in groups), None)


def find_mask(path: Path, root: Path) -> str | None:
    """Return the mount that hides a file below `/sys`, in words: `tmpfs on /sys/devices/virtual/powercap`; None if none does.

    Args:
        path: the file; links on its way are followed as far as they lead.
        root: the folder that holds `sys` and `proc`.
    """
    target = "/" + os.path.relpath(os.path.realpath(path), os.path.realpath(root))
    deepest, kind = "", SYSFS
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, types = before.split(), after.split()
        if len(fields) < 5 or not types:
            continue
        point = fields[4]
        if len(point) >= len(deepest) and (target + "/").startswith(point.rstrip("/") + "/"):
            deepest, kind = point, types[0]
    return f"{kind} on {deepest}" if deepest.startswith("/sys/") and kind != SYSFS else None


def read_affinity(root: Path) -> str | None:
    """Return the CPU cores that the calling thread may use: `0-3`; None if that cannot be read."""
    for who in ("thread-self", "self"):
        for line in (read_text(root / "proc" / who / "status") or "").splitlines():
            name, _, cores = line.partition(":")
            if name == "Cpus_allowed_list" and cores.strip():
                return cores.strip()
    return None


def read_quota(root: Path) -> float | None:
    """Return how many cores' time this process may use, by its control group and those above: 0.2 is a fifth of one core.

    Returns:
        Infinity if there is no quota; None if control groups cannot be read.
    """
    quotas = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        # In a container that shows the host's path, the group itself lies at the top.
        for top in ("sys/fs/cgroup", "sys/fs/cgroup/unified") if not controllers else _v1_tops(controllers):
            parts = [part for part in path.split("/") if part not in ("", "..")]
            folders = [root.joinpath(top, *parts[:n]) for n in range(len(parts), -1, -1)]
            quotas += [quota for folder in folders if (quota := _quota_of(folder)) is not None]
            if not controllers and (root / top / "cgroup.controllers").exists():
                quotas.append(math.inf)  # the topmost group has no file for it
    return min(quotas, default=None)


def _v1_tops(controllers: str) -> tuple[str, ...]:
    return tuple(f"sys/fs/cgroup/{name}" for name in dict.fromkeys((controllers, "cpu,cpuacct", "cpu")))


def _quota_of(folder: Path) -> float | None:
    """Return the quota of one control group in cores; None if it has no file for it, or the file makes no sense."""
    if (text := read_text(folder / "cpu.max")) is not None:  # version 2: "20000 100000" or "max 100000"
        most, _, period = text.partition(" ")
    else:  # version 1
        most = read_text(folder / "cpu.cfs_quota_us") or ""
        period = read_text(folder / "cpu.cfs_period_us") or ""
    if most in ("max", "-1"):
        return math.inf
    try:
        quota = int(most) / int(period)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return quota if quota > 0 else None
