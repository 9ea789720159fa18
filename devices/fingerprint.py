"""The fields that tell whether figures measured on one device hold on another."""

import platform
from pathlib import Path

from .. import __version__


def fingerprint(*, engine: str, threads: int = 1, root: str | Path = "/") -> dict[str, str]:
    """Describe this device and its software, one string per field.

    Args:
        engine: the package that runs the stages, whose version counts.
        threads: how many threads the engine uses.
        root: where `/proc` and `/sys` are looked for.

    Returns:
        `architecture`, `cpu` (model name), `cores` (online logical CPUs), `engine` with version, `threads`, `offramp`,
        `python`, `os`.
    """
    # Both are slow to import, and a product that starts wants neither before it needs them.
    from importlib.metadata import PackageNotFoundError, version

    import psutil

    try:
        engine_version = version(engine)
    except PackageNotFoundError:
        engine_version = "not installed"
    return {
        "architecture": platform.machine(),
        "cpu": _cpu_model(Path(root)),
        "cores": str(psutil.cpu_count() or "unknown"),
        "engine": f"{engine} {engine_version}",
        "threads": str(threads),
        "offramp": __version__,
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}",
    }


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
