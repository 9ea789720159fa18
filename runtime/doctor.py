"""What can run here, and what is missing."""

from msgspec import Struct

from ..devices import fingerprint, version_of
from ..errors import MissingError
from .engines import Engine as EngineModule
from .engines import engines, name_device

EXTRAS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "onnx": "onnx_ir",
    "export": "torch onnxscript",
    "calibrate": "PIL",
    "compress": "nncf",
    "report": "matplotlib",
}
"""For each extra, the packages by which it is recognised."""


class Engine(Struct, frozen=True):
    """An engine: its package, the version if it can run, the devices it finds with descriptions, otherwise what to do."""

    package: str
    version: str | None
    devices: dict[str, str]
    problem: str | None


class Diagnosis(Struct, frozen=True):
    """This device: its fingerprint, engines, and which extras of offramp are installed."""

    fingerprint: dict[str, str]
    engines: tuple[Engine, ...]
    extras: dict[str, bool]


def diagnose() -> Diagnosis:
    """Look at this device. Engines are imported, since an installed one may still not load."""
    found = tuple(_examine(module, engine) for module, engine in engines().items())
    packages = [engine.package for engine in found if engine.version]
    return Diagnosis(
        fingerprint(packages=packages), found, {name: _is_installed(needs) for name, needs in EXTRAS.items()}
    )


def _examine(module: str, engine: EngineModule) -> Engine:
    try:
        places = engine.list_places()
    except MissingError as error:
        return Engine(engine.PACKAGE, None, {}, str(error))
    devices = {name_device(module, engine, place): what for place, what in places.items()}
    return Engine(engine.PACKAGE, version_of(engine.PACKAGE), devices, None)


def _is_installed(modules: str) -> bool:
    from importlib.util import find_spec

    return all(find_spec(module) is not None for module in modules.split())
