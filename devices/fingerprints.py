"""The fingerprint of a device: fields that decide whether figures measured on one device hold on another."""

import math
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from .. import __version__
from .board import Board, identify
from .container import read_affinity, read_quota
from .state import read_temperature
from .sysfs import read_text

HARD = ("architecture", "soc", "accelerators", "driver", "engine")
"""If one of these differs, an engine that was built there must not run here."""

SOFT = (
    *(
        "module",
        "memory",
        "os",
        "power_mode",
        "cores",
        "affinity",
        "cpu_quota",
        "max_clocks",
        "governor",
        "threads",
        "batch",
    ),
    "meter",
)
"""If one of these differs, latencies and joules that were measured there do not hold here."""

OPTIONAL = ("meter", "affinity", "cpu_quota")
"""These are compared only if both fingerprints have them."""

RECORD = ("serial", "temperature", "driver_version", "kernel", "offramp", "python")
"""These are recorded to look things up, and never compared."""

FIELD_NAMES = {
    "soc": "SoC",
    "os": "operating system",
    "power_mode": "power mode",
    "max_clocks": "highest clocks",
    "affinity": "CPU affinity",
    "cpu_quota": "CPU quota",
}

KIND_MEANINGS = {
    "hard": "engines built there must not run here, and thresholds hold only where `offramp verify` passes",
    "soft": "latencies and joules measured there do not hold here",
}


class Difference(Struct, frozen=True):
    """A field that differs between two fingerprints. Its text says so in words.

    Attributes:
        field: the field's name.
        kind: `hard` if engines built there must not run here, `soft` if only latencies and joules do not hold.
        here, there: both values.

    Example:
        >>> from offramp.devices import Difference
        >>> print(Difference("soc", "hard", "Orin", "Xavier"))
        SoC is Orin here and was Xavier there
    """

    field: str
    kind: Literal["hard", "soft"]
    here: str
    there: str

    def __str__(self) -> str:
        return f"{FIELD_NAMES.get(self.field, self.field)} is {self.here} here and was {self.there} there"


def fingerprint(
    *,
    packages: Sequence[str] = (),
    threads: int = 1,
    batch: int = 1,
    meter: str | None = None,
    board: Board | None = None,
    root: str | Path = "/",
) -> dict[str, str]:
    """Describe this device and its software, one text for each field. Fields that mean nothing here are left out.

    Args:
        packages: the engines' packages, whose versions count.
        threads: how many threads the engine uses.
        batch: how many samples go through at once.
        meter: the meter that measures energy, and its scope.
        board: the board, if it was identified already.
        root: the folder that holds `proc` and `sys`.

    Returns:
        The fields of `HARD`, `SOFT` and `RECORD`.

    Example:
        >>> from offramp.devices import fingerprint
        >>> fields = fingerprint(threads=2)
        >>> fields["threads"], "architecture" in fields
        ('2', True)
    """
    board = board or identify(root)
    mode, temperature_c, quota = board.power_mode, read_temperature(Path(root)), read_quota(Path(root))
    clocks = {f"{name} {hz / 1e6:.0f} MHz" for name, hz in board.max_clock_hz.items()}
    fields = {
        "architecture": board.architecture,
        "soc": board.soc,
        "accelerators": ", ".join(board.accelerators),
        "driver": ", ".join(
            f"{name} {version.partition('.')[0]}" for name, version in board.drivers.items() if name not in ROOT_ONLY
        ),
        "engine": ", ".join(f"{package} {version_of(package)}" for package in packages),
        "module": board.module,
        "memory": f"{board.memory_bytes / 2**30:.1f} GiB" if board.memory_bytes else "",
        "os": board.os,
        "power_mode": f"{mode.name} ({mode.config})" if mode else "",
        "cores": board.cores,
        "affinity": read_affinity(Path(root)) or "",
        "cpu_quota": "" if quota is None else "unlimited" if quota == math.inf else f"{quota:.3g} cores",
        "max_clocks": ", ".join(sorted(clocks)),
        "governor": board.governor,
        "threads": str(threads),
        "batch": str(batch),
        "meter": meter or "",
        "serial": board.serial or "",
        "temperature": "" if temperature_c is None else f"{temperature_c:.0f} C",
        "driver_version": ", ".join(f"{name} {version}" for name, version in board.drivers.items()),
        "kernel": board.kernel,
        "offramp": __version__,
        "python": platform.python_version(),
    }
    return {field: text for field, text in fields.items() if text}


ROOT_ONLY = ("rknpu",)
"""Drivers whose version only root may read: calibrating with sudo and running without would look like two devices."""


def version_of(package: str) -> str:
    """Return the version of an installed package, or `not installed`. Builds for GPUs have a name of their own, `<package>-gpu`.

    Example:
        >>> from offramp.devices import version_of
        >>> version_of("no-such-package")
        'not installed'
    """
    names = (package, f"{package}-gpu")
    for name in names:
        if version := _read_version(name):
            return version
    import importlib.metadata  # as long as all of `runtime` takes, so only for packages that lie elsewhere

    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _read_version(package: str) -> str | None:
    """Return the version of a package that lies unpacked in a folder of `sys.path`, as nearly all do; None if none does."""
    wanted = _normal_name(package)
    for folder in sys.path:
        try:
            names = [entry.name for entry in os.scandir(folder or ".") if entry.name.endswith(".dist-info")]
        except OSError:  # an archive, or nothing
            continue
        for name in names:
            if _normal_name(name.removesuffix(".dist-info").rpartition("-")[0]) == wanted:
                for line in (read_text(Path(folder, name, "METADATA")) or "").splitlines():
                    if line.startswith("Version:"):
                        return line.removeprefix("Version:").strip()
    return None


def _normal_name(package: str) -> str:
    """Return a package's name as all its spellings have it in common."""
    return package.lower().replace("-", "_").replace(".", "_")


def differences(ours: dict[str, str], theirs: dict[str, str]) -> list[Difference]:
    """Compare two fingerprints field by field. The result is empty if figures from there hold here.

    Fields of `OPTIONAL` are compared only if both have them: latencies do not depend on the meter, and not every system tells how
    much of its processor a process may use.

    Args:
        ours, theirs: the fingerprint of this device, and of the one that the figures are from.

    Example:
        >>> from offramp.devices import differences, fingerprint
        >>> ours = fingerprint()
        >>> differences(ours, ours), differences(ours, {**ours, "threads": "9"})[0].there
        ([], '9')
    """
    differing = []
    for kind, fields in (("hard", HARD), ("soft", SOFT)):
        for field in fields:
            here, there = ours.get(field), theirs.get(field)
            if here == there or (field in OPTIONAL and None in (here, there)):
                continue
            differing.append(Difference(field, kind, here or "none", there or "none"))  # type: ignore[arg-type]
    return differing


def describe_differences(found: Sequence[Difference]) -> str:
    """Say which fields differ, and what that means.

    Example:
        >>> from offramp.devices import Difference, describe_differences
        >>> print(describe_differences([Difference("threads", "soft", "1", "4")]))
        threads is 1 here and was 4 there: latencies and joules measured there do not hold here
    """
    parts = []
    for kind, meaning in KIND_MEANINGS.items():
        if of_kind := [str(difference) for difference in found if difference.kind == kind]:
            parts.append(f"{'; '.join(of_kind)}: {meaning}")
    return ". ".join(parts)
