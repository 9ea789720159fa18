"""What this machine can run, and what is missing on it."""

import time
from pathlib import Path

from msgspec import Struct

from ..devices import Board, fingerprint, identify, version_of
from ..devices.clock import HANGS, wait_for
from ..devices.meter import Meter
from ..devices.meters import choose_among, find_meters
from ..devices.rail import Grade, Unavailable
from ..devices.state import BoardState, State
from ..errors import MissingError
from .engines import Engine, engines, name_device

__all__ = ["Diagnosis", "EngineSeen", "MeterSeen", "RailSeen", "diagnose"]

GLANCE_S = 0.1
"""Time between two readings of a counter."""

EXTRAS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "mnn": "MNN",
    "litert": "ai_edge_litert",
    "ncnn": "ncnn",
    "qnn": "onnxruntime_qnn",
    "nvml": "pynvml",
    "onnx": "onnx_ir",
    "export": "torch onnxscript",
    "calibrate": "PIL scipy yaml",
    "compress": "torch_pruning torch onnxscript",
    "report": "matplotlib jinja2 PIL",
    "metrics": "prometheus_client opentelemetry",
    "trust": "cryptography",
    "sign": "model_signing OpenSSL cryptography",
    "serve": "uvicorn starlette prometheus_client",
    "fleet": "distributed PIL scipy yaml",
}
"""For each extra of offramp the packages by which it is recognised."""


class EngineSeen(Struct, frozen=True):
    """An engine as it is on this machine.

    Attributes:
        package: the package that does the work.
        version: the package's version; None if it cannot run.
        devices: the devices that it finds, each with a description.
        problem: why it cannot run and what to do; None if it can.

    Example:
        >>> from offramp.runtime import diagnose
        >>> [engine.package for engine in diagnose().engines if "cpu" in engine.devices]
        ['onnxruntime']
    """

    package: str
    version: str | None
    devices: dict[str, str]
    problem: str | None


class RailSeen(Struct, frozen=True):
    """A rail of a meter.

    Attributes:
        name, role, covers: as for `devices.Rail`.
        power_w: its power now; None if it cannot be read.
        problem: why it cannot be read; None if it can.

    Example:
        >>> from offramp.runtime import diagnose
        >>> [rail.power_w for meter in diagnose().meters for rail in meter.rails]  # doctest: +SKIP
        [4.95, 1.2]
    """

    name: str
    role: str
    covers: str
    power_w: float | None
    problem: str | None


class MeterSeen(Struct, frozen=True):
    """A meter that can be read on this machine.

    Attributes:
        name, scope, grade: as for `devices.Meter`.
        rails: its rails, each with its power now.

    Example:
        >>> from offramp.runtime import diagnose
        >>> [meter.name for meter in diagnose().meters]  # doctest: +SKIP
        ['ina3221']
    """

    name: str
    scope: str
    grade: Grade
    rails: tuple[RailSeen, ...]


class Diagnosis(Struct, frozen=True):
    """What this machine is and has.

    Attributes:
        board: the board.
        state: its clocks, temperature and throttling now.
        fingerprint: what must agree so that figures measured elsewhere hold here; see `devices.fingerprint`.
        engines: the engines that offramp knows.
        meters: the meters that can be read.
        meter: the name of the meter that `auto` takes; None if there is none.
        unavailable: the meters and rails that cannot be read, each with its reason and remedy.
        looked_for: by the kind of meter what was looked for, and where.
        extras: by the name of each extra of offramp, True if it is installed.

    Example:
        >>> from offramp.runtime import diagnose
        >>> diagnose().extras["onnxruntime"]
        True
    """

    board: Board
    state: State
    fingerprint: dict[str, str]
    engines: tuple[EngineSeen, ...]
    meters: tuple[MeterSeen, ...]
    meter: str | None
    unavailable: tuple[Unavailable, ...]
    looked_for: dict[str, str]
    extras: dict[str, bool]


def diagnose(root: str | Path = "/") -> Diagnosis:
    """Examine this machine. Engines are imported, since one that is installed may still not load.

    Args:
        root: the folder in which `/proc`, `/sys` and `/etc` are looked for.

    Example:
        >>> from offramp.runtime import diagnose
        >>> diagnosis = diagnose()
        >>> any("cpu" in engine.devices for engine in diagnosis.engines)
        True
    """
    examined = tuple(_examine(module, engine) for module, engine in engines().items())
    packages = [engine.package for engine in examined if engine.version]
    board, meters = identify(root), find_meters(root)
    chosen = choose_among(meters)
    scope = f"{chosen.name}: {chosen.scope}" if chosen else None
    return Diagnosis(
        board=board,
        state=BoardState(root)(),
        fingerprint=fingerprint(packages=packages, meter=scope, board=board),
        engines=examined,
        meters=tuple(_try_to_read(meter) for meter in meters.meters),
        meter=chosen.name if chosen else None,
        unavailable=meters.unavailable,
        looked_for=meters.looked_for,
        extras={name: _is_installed(needs) for name, needs in EXTRAS.items()},
    )


def _try_to_read(meter: Meter) -> MeterSeen:
    """Read a meter's rails, but do not wait for a driver that hangs."""
    readings: list[MeterSeen] = []
    if wait_for(lambda: readings.append(_read(meter))) and readings:
        return readings[0]
    rails = tuple(RailSeen(rail.name, rail.role, rail.covers, None, HANGS) for rail in meter.rails)
    return MeterSeen(meter.name, meter.scope, meter.grade, rails)


def _read(meter: Meter) -> MeterSeen:
    """Read a meter's rails. Counters of energy are read twice, since power is a difference."""
    first, start_s = meter.read(), time.perf_counter()
    if any(rail.counts == "energy" for rail in meter.rails):
        time.sleep(GLANCE_S)
    second, spent_s = meter.read(), time.perf_counter() - start_s
    rails = []
    for rail in meter.rails:
        before, after = first[rail.name], second[rail.name]
        power, problem = None, None
        if isinstance(after, str) or isinstance(before, str):
            problem = after if isinstance(after, str) else str(before)
        else:
            power = after if rail.counts == "power" else max(0.0, after - before) / spent_s
        rails.append(RailSeen(rail.name, rail.role, rail.covers, power, problem))
    return MeterSeen(meter.name, meter.scope, meter.grade, tuple(rails))


def _examine(module: str, engine: Engine) -> EngineSeen:
    try:
        places = engine.list_places()
    except MissingError as error:
        return EngineSeen(engine.PACKAGE, None, {}, str(error))
    devices = {name_device(module, place): description for place, description in places.items()}
    return EngineSeen(engine.PACKAGE, version_of(engine.PACKAGE), devices, None)


def _is_installed(modules: str) -> bool:
    from importlib.util import find_spec

    return all(find_spec(module) is not None for module in modules.split())
