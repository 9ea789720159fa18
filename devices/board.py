"""The board, identified from the device tree, `/proc`, `/sys` and `/etc`, never by asking a running service."""

import os
import platform
import re
from pathlib import Path

from msgspec import Struct

from ..files import sha256
from .state import MOST_CLOCK_HZ, read_governor
from .sysfs import list_numbered, read_number, read_text

SOCS = {
    "tegra194": "Tegra194 (Xavier)",
    "tegra234": "Tegra234 (Orin)",
    "tegra264": "Tegra264 (Thor)",
    "bcm2711": "bcm2711 (Raspberry Pi 4)",
    "bcm2712": "bcm2712 (Raspberry Pi 5)",
}

MODULES = {
    "p2888": "Jetson AGX Xavier",
    "p3668-0000": "Jetson Xavier NX (SD card)",
    "p3668": "Jetson Xavier NX",
    "p3767-0000": "Jetson Orin NX 16GB",
    "p3767-0001": "Jetson Orin NX 8GB",
    "p3767-0003": "Jetson Orin Nano 8GB",
    "p3767-0004": "Jetson Orin Nano 4GB",
    "p3767-0005": "Jetson Orin Nano 8GB (developer kit)",
    "p3701-0000": "Jetson AGX Orin (developer kit)",
    "p3701-0004": "Jetson AGX Orin 32GB",
    "p3701-0005": "Jetson AGX Orin 64GB",
    "p3701-0008": "Jetson AGX Orin Industrial",
    "p3834": "Jetson AGX Thor",
}
"""Jetson modules by their part number in the device tree; the longest number that fits decides."""

ACCELERATORS = {"intel_vpu": "Intel NPU", "rocket": "Rockchip NPU", "amdxdna": "AMD NPU", "ethosu": "Arm Ethos-U NPU"}
"""Accelerators by their driver in `/sys/class/accel`."""

MOST_W = {"raspberry-pi": 60.0, "rockchip": 100.0, "arm": 1000.0, "jetson": 300.0}
"""The most power of a board by its kind, with what hangs on it; of others `MOST_SERVER_W`."""

MOST_SERVER_W = 2000.0

NODES = {"dev/galcore": "Vivante NPU", "dev/hailo0": "Hailo", "dev/apex_0": "Coral Edge TPU"}
"""Accelerators by their device node, for drivers that register in no class."""


class PowerMode(Struct, frozen=True):
    """A board's power mode.

    Attributes:
        name: the mode's name: `MAXN`, `15W`, `balanced`.
        config: a hash of the settings that the name stands for, since a mode of the same name may be changed.

    Example:
        >>> from offramp.devices import PowerMode
        >>> PowerMode("15W", "1f3a") == PowerMode("15W", "77e0")
        False
    """

    name: str
    config: str


class Board(Struct, frozen=True, kw_only=True):
    """The identity and the settings of a board.

    Attributes:
        kind: `jetson`, `raspberry-pi`, `rockchip`, `x86`, `arm` or `unknown`.
        name: its maker's name for it.
        soc: the chip; on x86 the processor's name.
        module: the module on the board, or the mainboard.
        compatible: its names in the device tree, most precise first.
        architecture: the processor's architecture: `x86_64`, `aarch64`.
        memory_bytes: the memory that the kernel may use.
        os, kernel: distribution and kernel.
        drivers: versions of the drivers that inference goes through, by name.
        power_mode: None if the board has no power modes.
        cores: the CPU cores that are online: `0-3`.
        governor: the CPU's frequency governor; empty if there is none.
        max_clock_hz: the highest clock that is allowed, by frequency policy and device.
        accelerators: hardware besides the CPU that could run networks.
        serial: the first digits of a hash of the serial number, which tell two boards apart and name none.

    Example:
        >>> from offramp.devices import identify
        >>> board = identify()
        >>> board.kind in ("jetson", "raspberry-pi", "rockchip", "x86", "arm", "unknown")
        True
    """

    kind: str
    name: str
    soc: str
    module: str
    compatible: tuple[str, ...]
    architecture: str
    memory_bytes: int | None
    os: str
    kernel: str
    drivers: dict[str, str]
    power_mode: PowerMode | None
    cores: str
    governor: str
    max_clock_hz: dict[str, float]
    accelerators: tuple[str, ...]
    serial: str | None

    @property
    def most_w(self) -> float:
        """The most power that a sensor on such a board can see, in W; a reading of more is wrong."""
        return MOST_W.get(self.kind, MOST_SERVER_W)

    @property
    def how_to_fix_clocks(self) -> str:
        """The command that fixes the clocks, such as `sudo jetson_clocks`; empty if none is known."""
        if self.kind == "jetson":  # NVIDIA, Jetson Linux Developer Guide, "Power Management"
            return "sudo jetson_clocks"
        if self.governor not in ("", "performance"):  # the kernel's admin-guide/pm/cpufreq.rst
            return "echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
        return ""


def identify(root: str | Path = "/") -> Board:
    """Identify the board. Fields that cannot be read are `unknown`, empty or None; none is guessed from a user's settings.

    Args:
        root: the folder that holds `proc`, `sys` and `etc`.

    Example:
        >>> from offramp.devices import identify
        >>> identify("/nonexistent").kind
        'unknown'
    """
    root = Path(root)
    compatible = tuple(part for part in (read_text(root / "proc/device-tree/compatible") or "").split("\0") if part)
    info = read_text(root / "proc/cpuinfo") or ""
    x86 = "\nvendor_id" in f"\n{info}"
    is_this = root.resolve() == Path("/")  # then Python can tell what files do not
    arm = "CPU implementer" in info
    architecture = platform.machine() if is_this else "x86_64" if x86 else "aarch64" if arm else "unknown"
    chip = _chip(compatible)
    kind = _kind(chip, compatible, architecture, x86)
    name = read_text(root / "proc/device-tree/model") or _dmi(root, "sys_vendor", "product_name") or "unknown"
    return Board(
        kind=kind,
        name=name,
        soc=SOCS.get(chip, chip) or _processor(info) or (platform.processor() if is_this else "") or "unknown",
        module=_module(compatible) or _dmi(root, "board_vendor", "board_name") or name,
        compatible=compatible,
        architecture=architecture,
        memory_bytes=_memory(root),
        os=_distribution(root) or (f"{platform.system()} {platform.release()}" if is_this else "unknown"),
        kernel=read_text(root / "proc/sys/kernel/osrelease") or (platform.release() if is_this else "unknown"),
        drivers=_drivers(root),
        power_mode=_power_mode(root),
        cores=read_text(root / "sys/devices/system/cpu/online")
        or (f"0-{(os.cpu_count() or 1) - 1}" if is_this else "unknown"),
        governor=read_governor(root),
        max_clock_hz=_max_clocks(root),
        accelerators=_accelerators(root),
        serial=_serial(root),
    )


def is_x86_64() -> bool:
    """Return True if Python runs on a 64-bit x86 processor, as Linux (`x86_64`) and Windows (`AMD64`) call it."""
    return platform.machine() in ("x86_64", "AMD64")


def _chip(compatible: tuple[str, ...]) -> str:
    """Return the chip: a Tegra at any place, since overlays add names behind it; else the last name."""
    parts = [name.partition(",")[2] or name for name in compatible]
    tegra = [part for part in parts if re.fullmatch(r"tegra\d{3}", part)]
    return (tegra or parts or [""])[-1]


def _kind(chip: str, compatible: tuple[str, ...], architecture: str, x86: bool) -> str:
    makers = {name.partition(",")[0] for name in compatible}
    if chip.startswith("tegra"):
        return "jetson"
    if "raspberrypi" in makers:
        return "raspberry-pi"
    if "rockchip" in makers:
        return "rockchip"
    if x86 or architecture.lower() in ("x86_64", "amd64", "i686"):
        return "x86"
    return "arm" if architecture.lower().startswith(("aarch64", "arm")) else "unknown"


def _module(compatible: tuple[str, ...]) -> str | None:
    """Return a Jetson module's name and part number."""
    for part in re.findall(r"p\d{4}-\d{4}", " ".join(reversed(compatible))) if compatible else ():
        for number in (part, part.partition("-")[0]):
            if number in MODULES:
                return f"{MODULES[number]} ({part})"
    return None


def _dmi(root: Path, *names: str) -> str:
    folder = root / "sys/class/dmi/id"
    return " ".join(text for name in names if (text := read_text(folder / name)))


def _processor(info: str) -> str:
    """Return a processor's name, or the numbers by which an Arm core is known."""
    for line in info.splitlines():  # a pattern takes longer to compile
        field, _, name = line.partition(":")
        if field.rstrip() in ("model name", "Model", "Hardware") and name.strip():
            return name.strip()
    cores = zip(
        re.findall(r"^CPU implementer\s*:\s*(\S+)", info, re.M),
        re.findall(r"^CPU part\s*:\s*(\S+)", info, re.M),
        strict=False,
    )
    names = dict.fromkeys(f"Arm core {implementer} {part}" for implementer, part in cores)
    return ", ".join(names)


def _memory(root: Path) -> int | None:
    match = _search(r"^MemTotal:\s*(\d+) kB", read_text(root / "proc/meminfo"))
    return int(match[1]) * 1024 if match else None


def _distribution(root: Path) -> str | None:
    match = _search(r'^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release"))
    return match[1] if match else None


def _drivers(root: Path) -> dict[str, str]:
    versions = {}
    release = read_text(root / "etc/nv_tegra_release")
    if match := _search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", release):
        versions["l4t"] = f"{match[1]}.{match[2]}"
    if match := _search(r"\s(\d{3}[\d.]+)\s", read_text(root / "proc/driver/nvidia/version")):
        versions["nvidia"] = match[1]
    if match := _search(r"v([\d.]+)", read_text(root / "sys/kernel/debug/rknpu/version")):
        versions["rknpu"] = match[1]
    return versions


def _power_mode(root: Path) -> PowerMode | None:
    """Read Jetson's nvpmodel from its files, or the platform profile of a PC."""
    config = read_text(root / "etc/nvpmodel.conf")
    status = _search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status"))
    if config and status:
        for section in re.split(r"^(?=<)", config, flags=re.M):
            head = section.partition("\n")[0]
            number, name = re.search(r"\bID=(\d+)", head), re.search(r"\bNAME=(\S+)", head)
            if "POWER_MODEL" in head and number and name and int(number[1]) == int(status[1]):
                lines = [line.strip() for line in section.splitlines()[1:]]
                settings = [line for line in lines if line and not line.startswith("#")]
                return PowerMode(name[1], _hash("\n".join(settings)))
        return PowerMode(f"id {int(status[1])}", _hash(config))
    if profile := read_text(root / "sys/firmware/acpi/platform_profile"):
        values = [
            read_text(root / "sys/devices/system/cpu/intel_pstate/no_turbo"),
            read_text(root / "sys/devices/system/cpu/cpufreq/boost"),
            read_text(root / "sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference"),
        ]
        return PowerMode(profile, _hash(" ".join(str(value) for value in values)))
    return None


def _max_clocks(root: Path) -> dict[str, float]:
    clocks = {
        path.parent.name: khz * 1e3
        for path in list_numbered("sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq", root)
        if (khz := read_number(path, least=1, most=MOST_CLOCK_HZ / 1e3))
    }
    devices = list_numbered("sys/class/devfreq/*/max_freq", root)
    return clocks | {
        path.parent.name: float(hz) for path in devices if (hz := read_number(path, least=1, most=MOST_CLOCK_HZ))
    }


def _accelerators(root: Path) -> tuple[str, ...]:
    names = []
    for path in list_numbered("sys/class/devfreq/*", root):
        if re.search(r"gv11b|ga10b|gpu", path.name):
            names.append(f"GPU {path.name}")
        elif "npu" in path.name:
            names.append(f"NPU {path.name}")
    for path in list_numbered("sys/class/accel/accel*/device/driver", root):
        driver = path.resolve().name
        names.append(f"{ACCELERATORS.get(driver, 'accelerator')} ({driver})")
    for path in list_numbered("proc/driver/nvidia/gpus/*/information", root):
        if match := _search(r"^Model:\s*(.+)$", read_text(path)):
            names.append(match[1].strip())
    for path in list_numbered("sys/class/drm/card?/device/driver", root):
        if (driver := path.resolve().name) in ("i915", "xe", "amdgpu"):
            names.append(f"GPU ({driver})")
    return (*names, *(name for node, name in NODES.items() if (root / node).exists()))


def _serial(root: Path) -> str | None:
    for name in ("proc/device-tree/serial-number", "sys/class/dmi/id/product_serial"):
        if text := read_text(root / name):
            return _hash(text)
    return None


def _search(pattern: str, text: str | None) -> re.Match[str] | None:
    """Search a pattern in a file's text, line by line. It takes long to compile: not for files that are not there."""
    return re.search(pattern, text, re.M) if text else None


def _hash(text: str) -> str:
    return sha256(text.encode())[:12]
