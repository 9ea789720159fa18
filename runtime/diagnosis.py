"""What can run here, and what is missing."""

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

GLANCE_S = 0.1
"""Time between two looks at a counter."""

EXTRAS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "qnn": "onnxruntime_qnn",
    "nvml": "pynvml",
    "onnx": "onnx_ir",
    "export": "torch onnxscript",
    "calibrate": "PIL scipy yaml",
    "compress": "torch_pruning torch onnxscript",
    "report": "matplotlib bokeh jinja2",
}
"""For each extra, the packages by which it is recognised."""


class EngineSeen(Struct, frozen=True):
    """An engine: its package, the version if it can run, the devices it finds with descriptions, otherwise what to do."""

    package: str
    version: str | None
    devices: dict[str, str]
    problem: str | None


class RailSeen(Struct, frozen=True):
    """A rail of a meter: its role, what it covers, and its power now; None with the reason where it cannot be read."""

    name: str
    role: str
    covers: str
    power_w: float | None
    problem: str | None


class MeterSeen(Struct, frozen=True):
    """A meter that can be read here: what its total covers, the grade of its joules, and its rails."""

    name: str
    scope: str
    grade: Grade
    rails: tuple[RailSeen, ...]


class Diagnosis(Struct, frozen=True):
    """This device.

    Attributes:
        board, state: what it is, and its clocks, temperature and throttling now.
        fingerprint: what must agree for figures to carry over; see `devices.fingerprint`.
        engines: those that offramp knows.
        meters: those that can be read here; `meter` is the one that `auto` takes, None where there is none.
        unavailable: the meters and rails that cannot be read, each with its reason and remedy.
        looked_for: what was looked for and where, by the kind of meter.
        extras: which extras of offramp are installed.
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
    """Look at this device. Engines are imported, since an installed one may still not load.

    Args:
        root: where `/proc`, `/sys` and `/etc` are looked for.
    """
    found = tuple(_examine(module, engine) for module, engine in engines().items())
    packages = [engine.package for engine in found if engine.version]
    board, meters = identify(root), find_meters(root)
    chosen = choose_among(meters)
    scope = f"{chosen.name}: {chosen.scope}" if chosen else None
    return Diagnosis(
        board=board,
        state=BoardState(root)(),
        fingerprint=fingerprint(packages=packages, meter=scope, board=board),
        engines=found,
        meters=tuple(_try_to_read(meter) for meter in meters.meters),
        meter=chosen.name if chosen else None,
        unavailable=meters.unavailable,
        looked_for=meters.looked_for,
        extras={name: _is_installed(needs) for name, needs in EXTRAS.items()},
    )


def _try_to_read(meter: Meter) -> MeterSeen:
    """Read a meter's rails, but do not wait for a driver that hangs."""
    found: list[MeterSeen] = []
    if wait_for(lambda: found.append(_read(meter))) and found:
        return found[0]
    rails = tuple(RailSeen(rail.name, rail.role, rail.covers, None, HANGS) for rail in meter.rails)
    return MeterSeen(meter.name, meter.scope, meter.grade, rails)


def _read(meter: Meter) -> MeterSeen:
    """Read a meter's rails; a counter twice, since its power is a difference."""
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
    devices = {name_device(module, engine, place): what for place, what in places.items()}
    return EngineSeen(engine.PACKAGE, version_of(engine.PACKAGE), devices, None)


def _is_installed(modules: str) -> bool:
    from importlib.util import find_spec

    return all(find_spec(module) is not None for module in modules.split())
