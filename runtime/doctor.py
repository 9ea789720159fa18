"""What can run here, and what is missing."""

from msgspec import Struct

from ..devices import fingerprint
from ..errors import MissingError, require
from .engines import PACKAGES

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
    """An engine: the device name it serves, its version if it can run, and otherwise what to do."""

    device: str
    package: str
    version: str | None
    problem: str | None


class Diagnosis(Struct, frozen=True):
    """This device: its fingerprint, engines, and which extras of offramp are installed."""

    fingerprint: dict[str, str]
    engines: tuple[Engine, ...]
    extras: dict[str, bool]


def diagnose() -> Diagnosis:
    """Look at this device. Engines are imported, since an installed one may still not load."""
    fields = fingerprint(engine=PACKAGES["cpu"])
    engines = tuple(_examine(device, package) for device, package in PACKAGES.items())
    return Diagnosis(fields, engines, {extra: _is_installed(name) for extra, name in EXTRAS.items()})


def _examine(device: str, package: str) -> Engine:
    from importlib.metadata import PackageNotFoundError, version  # a fifth of the runtime's import time, so only here

    try:
        require(package, extra=package)
        return Engine(device, package, version(package), None)
    except MissingError as error:
        return Engine(device, package, None, str(error))
    except PackageNotFoundError:
        return Engine(device, package, "unknown", None)


def _is_installed(modules: str) -> bool:
    from importlib.util import find_spec

    return all(find_spec(module) is not None for module in modules.split())
