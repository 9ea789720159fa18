"""The fields that tell whether figures measured on one device hold on another."""

import platform
from collections.abc import Sequence
from pathlib import Path

from .. import __version__


def fingerprint(*, packages: Sequence[str], threads: int = 1, root: str | Path = "/") -> dict[str, str]:
    """Describe this device and its software, one string per field.

    Args:
        packages: those that run the stages, whose versions count.
        threads: how many threads the engine uses.
        root: where `/proc` and `/sys` are looked for.

    Returns:
        `architecture`, `cpu` (model name), `cores` (online logical CPUs), `engine` with version, `threads`, `offramp`,
        `python`, `os`.
    """
    import psutil  # slow to import, and a product that starts does not want it before it needs it

    return {
        "architecture": platform.machine(),
        "cpu": _cpu_model(Path(root)),
        "cores": str(psutil.cpu_count() or "unknown"),
        "engine": ", ".join(f"{package} {version_of(package)}" for package in packages),
        "threads": str(threads),
        "offramp": __version__,
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}",
    }


def version_of(package: str) -> str:
    """Return the version of an installed package, or `not installed`; builds of ONNX Runtime have names of their own."""
    from importlib.metadata import PackageNotFoundError, version  # a fifth of the runtime's import time, so only here

    for name in (package, f"{package}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"


def differences(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Say in words which of the fields that change latency differ; empty when figures carry over."""
    return [
        f"{field} is {ours.get(field, 'unknown')} here and was {theirs.get(field, 'unknown')} there"
        for field in ("architecture", "cpu", "cores", "engine", "threads")
        if ours.get(field) != theirs.get(field)
    ]


def _cpu_model(root: Path) -> str:
    """Read the model name: the board's device tree on Arm (NUL-terminated), else `/proc/cpuinfo`."""
    try:
        return (root / "proc/device-tree/model").read_text(errors="replace").strip("\0\n ")
    except OSError:
        pass
    try:
        for line in (root / "proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "Hardware"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
