"""TensorRT's Python module: imported, started, and asked for its reasons."""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from ....errors import MissingError

__all__ = [
    "MOST_LISTED",
    "ON_DLA",
    "ON_GPU",
    "import_tensorrt",
    "last_errors",
    "list_names",
    "log_of",
    "start",
    "tensor_names",
]

MOST_LISTED = 6
"""The most layers, tensors or parser errors that a message names."""

ON_DLA, ON_GPU = "[DlaLayer]", "[GpuLayer]"
"""How the builder's messages begin that say where it placed a layer."""


def import_tensorrt() -> Any:
    """Import TensorRT.

    Raises:
        MissingError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise MissingError(
                f"The package tensorrt is installed but needs {error.name}, which is not.", package=error.name
            ) from error
    except Exception as error:  # its libraries may fail in any way
        raise MissingError(
            f"The package tensorrt is installed but does not import: {error}", package="tensorrt"
        ) from error
    raise MissingError(
        "TensorRT's Python package is not installed. On a Jetson it comes with JetPack (sudo apt install python3-libnvinfer), "
        "and a virtual environment made with --system-site-packages sees it; elsewhere: pip install tensorrt",
        package="tensorrt",
    )


def start(kind: Callable[[Any], Any], trt: Any) -> Any:
    """Make a `Builder` or a `Runtime`.

    Raises:
        MissingError: TensorRT does not start.
    """
    try:
        return kind(log_of(trt))
    except TypeError as error:  # pybind11's words for a factory that returned nothing
        raise MissingError(
            f"TensorRT {trt.__version__} does not start: {last_errors(trt)} ({error})", package="tensorrt"
        ) from error


@functools.cache
def log_of(trt: Any) -> Any:
    """Return the one logger that TensorRT is given. It collects errors and where layers were placed, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.clear()

        def clear(self) -> None:
            self.errors: list[str] = []
            self.placements: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors = [*self.errors[-3:], message]
            elif message.startswith((ON_DLA, ON_GPU)):
                self.placements.append(message)

    return Log()


def last_errors(trt: Any) -> str:
    """Return TensorRT's last error messages, for the end of a sentence."""
    return " ".join(log_of(trt).errors) or "it gives no reason."


def tensor_names(engine: Any) -> list[str]:
    """Return the names of a plan's inputs and outputs."""
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]


def list_names(names: Sequence[str]) -> str:
    """Write up to six names, and how many more there are: `conv1, conv2 and 4 more`."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
