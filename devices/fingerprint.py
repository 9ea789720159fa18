"""The fields that tell whether what was measured on one device holds on another."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from .. import __version__
from .board import Board, identify
from .state import read_temperature

HARD = ("architecture", "soc", "accelerators", "driver", "engine")
"""Where one of these differs, an engine that was built there must not run here."""

SOFT = ("module", "memory", "os", "power_mode", "cores", "max_clocks", "governor", "threads", "batch", "meter")
"""Where one of these differs, latencies and joules that were measured there do not hold here."""

RECORD = ("serial", "temperature", "driver_version", "kernel", "offramp", "python")
"""These are kept to look things up, and never compared."""

FIELD_NAMES = {"soc": "SoC", "os": "operating system", "power_mode": "power mode", "max_clocks": "highest clocks"}

KIND_MEANINGS = {
    "hard": "engines built there must not run here, and thresholds hold only where `offramp verify` passes",
    "soft": "latencies and joules measured there do not hold here",
}


class Difference(Struct, frozen=True):
    """A field that differs: `hard` or `soft`, with both values; its text says it in words."""

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
    """Describe this device and its software, one text for each field; a field that means nothing here is left out.

    Args:
        packages: those that run the stages, whose versions count.
        threads: how many threads the engine uses.
        batch: how many samples go through at once.
        meter: what measures energy, and its scope.
        board: what was identified already.
        root: where `/proc` and `/sys` are looked for.

    Returns:
        The fields of `HARD`, `SOFT` and `RECORD`.
    """
    board = board or identify(root)
    mode, temperature_c = board.power_mode, read_temperature(Path(root))
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
"""Drivers whose version lies where only root may read: who calibrates with sudo and runs without would seem to be elsewhere."""


def version_of(package: str) -> str:
    """Return the version of an installed package, or `not installed`; builds of ONNX Runtime have names of their own."""
    from importlib.metadata import PackageNotFoundError, version  # a fifth of the runtime's import time, so only here

    for name in (package, f"{package}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"


def differences(ours: dict[str, str], theirs: dict[str, str]) -> list[Difference]:
    """Compare two fingerprints, field by field; empty when what was measured there holds here.

    What measured energy there says nothing of latencies: `meter` is compared only where both have one.
    """
    found = []
    for kind, fields in (("hard", HARD), ("soft", SOFT)):
        for field in fields:
            here, there = ours.get(field), theirs.get(field)
            if here == there or (field == "meter" and None in (here, there)):
                continue
            found.append(Difference(field, kind, here or "none", there or "none"))  # type: ignore[arg-type]
    return found


def describe_differences(found: Sequence[Difference]) -> str:
    """Say what differs, and what that means."""
    parts = []
    for kind, meaning in KIND_MEANINGS.items():
        if of_kind := [str(difference) for difference in found if difference.kind == kind]:
            parts.append(f"{'; '.join(of_kind)}: {meaning}")
    return ". ".join(parts)
