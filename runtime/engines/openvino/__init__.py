"""Stages on OpenVINO: `openvino:CPU`, `openvino:GPU`, `openvino:NPU`."""

import functools
import sys
from pathlib import Path
from typing import Any

from ....errors import BundleError, MissingError, UnsupportedError, require
from .. import StageFile, pin_shapes, raise_out_of_memory
from .layouts import compile_channels_last
from .stage import OpenVinoStage, reason_of

PACKAGE = "openvino"

MOST_LISTED = 5
"""The most nodes that a message names; an error's `nodes` has all of them."""


@functools.cache
def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which would look a host up and write into the user's home.

    OpenVINO goes on without the package `openvino_telemetry`, so here there is none while it is imported.
    """
    if "openvino" in sys.modules:  # the program imported it by itself, as it wants it
        return require("openvino", extra="openvino")
    kept = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return require("openvino", extra="openvino")
    finally:
        sys.modules.pop("openvino_telemetry")
        if kept is not None:
            sys.modules["openvino_telemetry"] = kept


@functools.cache
def _core() -> Any:
    ov = _openvino()
    try:
        return ov.Core()
    except Exception as error:
        raise MissingError(
            f"OpenVINO is installed but does not start: {reason_of(error)}", package=PACKAGE, extra="openvino"
        ) from error


def list_places() -> dict[str, str]:
    """Return the devices that OpenVINO finds, with their full names.

    Raises:
        MissingError: OpenVINO is not installed or does not start.
    """
    core, places = _core(), {}
    for name in core.available_devices:
        try:
            places[name] = str(core.get_property(name, "FULL_DEVICE_NAME"))
        except Exception as error:  # a driver that is half installed
            places[name] = f"does not answer: {reason_of(error)}"
    return places


def describe_build(place: str) -> dict[str, str]:
    """Return OpenVINO's version, and the device's name, architecture, abilities and driver."""
    ov, core = _openvino(), _core()
    _check_place(place)
    parts = {"engine": f"openvino {ov.get_version()}"} | ({"boundaries": "channels last"} if place == "CPU" else {})
    names = (
        "FULL_DEVICE_NAME",
        "DEVICE_ARCHITECTURE",
        "OPTIMIZATION_CAPABILITIES",
        "NPU_DRIVER_VERSION",
        "GPU_DRIVER_VERSION",
    )
    try:
        supported = core.get_property(place, "SUPPORTED_PROPERTIES")
        return parts | {name.lower(): str(core.get_property(place, name)) for name in names if name in supported}
    except Exception as error:
        raise MissingError(
            f"OpenVINO's device {place} does not answer: {reason_of(error)}", device=f"openvino:{place}"
        ) from error


def build(stage: StageFile, place: str, *, threads: int) -> bytes:
    """Compile a stage at batch 1 into a blob.

    Raises:
        MissingError, BundleError: as for `compile_stage`.
    """
    compiled = _compile(stage, place, threads=threads)
    try:
        exported = compiled.export_model()
    except (MemoryError, SystemError, ValueError):  # of the memory that it writes into
        raise_out_of_memory(MemoryError("its build does not fit into it"), stage.path, place)
        raise
    return bytes(exported.getvalue() if hasattr(exported, "getvalue") else exported)


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "OpenVinoStage":
    """Compile an ONNX file for batch 1, which is 5 to 13 % faster than compiling it for any batch.

    Raises:
        MissingError: OpenVINO, the device or memory is missing.
        UnsupportedError: the device cannot run the stage.
        BundleError: OpenVINO cannot read the file or the build.
    """
    _check_place(place)
    try:
        content = _shareable(build(stage, place, threads=threads) if built is None else built)
    except RuntimeError as error:
        raise_out_of_memory(error, stage.path, place)
        raise
    load = functools.partial(_load, content, stage.path, place, threads)
    compiled = load()
    reported = compiled.get_property("EXECUTION_DEVICES")  # NPUs give a text, other devices a list of texts
    devices = [reported] if isinstance(reported, str) else [str(name) for name in reported]
    if not devices or any(place not in (name, name.partition(".")[0]) for name in devices):
        where = ", ".join(devices) or "something that it does not name"
        raise MissingError(
            f"openvino:{place} was asked for, but OpenVINO runs {stage.path} on {where}.",
            device=f"openvino:{place}",
            path=stage.path,
        )
    ov = _openvino()
    version = ov.__version__.partition("-")[0]
    half = place.partition(".")[0] == "NPU"
    return OpenVinoStage(
        ov, compiled, f"OpenVINO {version}, {', '.join(devices)}", half=half, load=load if place == "CPU" else None
    )


def _shareable(built: bytes) -> Any:
    """Return a build in memory that the models loaded from it share. OpenVINO before 2026 takes bytes, and copies them."""
    ov = _openvino()
    if int(ov.__version__.partition(".")[0]) < 2026:
        return built
    import numpy

    tensor = ov.Tensor(ov.Type.u8, ov.Shape([len(built)]))
    tensor.data[:] = numpy.frombuffer(built, numpy.uint8)
    return tensor


def _load(content: Any, path: Path, place: str, threads: int) -> Any:
    try:
        return _core().import_model(content, place, _settings(place, threads))
    except Exception as error:
        raise_out_of_memory(error, path, place)
        raise BundleError(f"OpenVINO cannot load the build of {path}: {reason_of(error)}", path=path) from error


def _check_place(place: str) -> None:
    core, device = _core(), f"openvino:{place}"
    available = core.available_devices
    if place in available or any(name.startswith(f"{place}.") for name in available):
        return
    if place.partition(":")[0] in ("AUTO", "MULTI", "HETERO", "BATCH"):
        raise MissingError(
            f"{place} lets OpenVINO choose where a stage runs. Name one device: {', '.join(available)}; or auto.",
            device=device,
        )
    if place.upper() in available:
        raise MissingError(f"OpenVINO knows no device {place!r}. Did you mean openvino:{place.upper()}?", device=device)
    try:
        reason = f" It says of {place}: {_reason_of_absence(core, place)}"
    except Exception:
        reason = ""
    raise MissingError(
        f"OpenVINO finds no device {place} here; it finds {', '.join(available) or 'none'}. Its driver must be installed and the "
        f"user be allowed to use it (group render).{reason}",
        device=device,
    )


def _reason_of_absence(core: Any, place: str) -> str:
    try:
        core.get_property(place, "AVAILABLE_DEVICES")
    except Exception as error:
        return reason_of(error)
    return "no such hardware, or no driver for it."


def _settings(place: str, threads: int) -> dict[str, Any]:
    """Return the properties to compile with, without those that the device does not know.

    ACCURACY keeps the precision of the graph, and with it the scores; some devices would lower it. Threads are not pinned to
    cores, since two chains in two threads might be pinned to the same core.
    """
    wanted = {
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    supported = _core().get_property(place, "SUPPORTED_PROPERTIES")
    return {name: value for name, value in wanted.items() if name in supported and supported[name] == "RW"}


def _compile(stage: StageFile, place: str, *, threads: int) -> Any:
    _check_place(place)
    return _compile_copied(stage, stage.copied(), place, threads=threads)


def _compile_copied(stage: StageFile, path: Path, place: str, *, threads: int) -> Any:
    ov, core = _openvino(), _core()
    try:
        whole = core.read_model(str(path))
        results = [whole.output(name).get_node() for name in stage.outputs]
        model = ov.Model(results, whole.get_parameters(), stage.path.stem)
    except Exception as error:
        raise_out_of_memory(error, stage.path, place)
        raise BundleError(f"OpenVINO cannot load {stage.path}: {reason_of(error)}", path=stage.path) from error
    pinned = pin_shapes(stage, f"openvino:{place}") if place.partition(".")[0] == "NPU" else None
    try:
        named = not all(tensor.is_sized for tensor in stage.inputs)
        if pinned is not None:
            model.reshape({name: list(shape) for name, shape in pinned.items()})
        elif not (named or _repeats_weights(model) or _subtracts_from_products(model)):
            # named axes stay open, and then the batch must too
            model.reshape({t.name: [1 if axis is None else axis for axis in t.shape] for t in stage.inputs})
            if place == "CPU":
                return compile_channels_last(ov, core, model, stage.boundaries, _settings(place, threads))
        return core.compile_model(model, place, _settings(place, threads))
    except Exception as error:
        raise_out_of_memory(error, stage.path, place)
        nodes = _unknown_nodes(core, model, place)
        listed = ", ".join(f"{node.get_type_name()} {node.get_friendly_name()}" for node in nodes[:MOST_LISTED])
        more = " and others" if len(nodes) > MOST_LISTED else ""
        raise UnsupportedError(
            f"OpenVINO cannot run {stage.path} on {place}: {reason_of(error)}"
            + (f" It does not know {listed}{more}." if nodes else ""),
            nodes=[node.get_friendly_name() for node in nodes],
            path=stage.path,
        ) from error


def _unknown_nodes(core: Any, model: Any, place: str) -> list[Any]:
    """Return the nodes that a device does not know; none if it does not tell."""
    try:
        supported = core.query_model(model, place)
        return [node for node in model.get_ops() if node.get_friendly_name() not in supported]
    except Exception:
        return []


def _repeats_weights(model: Any) -> bool:
    """Return True if several layers use the same weights, as the passes of a loop do.

    With fixed shapes and one thread OpenVINO 2026.4.1 crashes the process when it compiles such a graph for the CPU.
    """
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            users = [target.get_node().get_type_name() for target in node.output(0).get_target_inputs()]
            if sum(user in ("MatMul", "Convolution", "GroupConvolution") for user in users) > 1:
                return True
    return False


def _subtracts_from_products(model: Any) -> bool:
    """Return True if something that is no constant is subtracted from, or divides, what two matrix products in a row give.

    With fixed shapes and one thread OpenVINO 2026.4.1 crashes the process when it compiles such a graph for the CPU. It does not
    if a value in between is used twice: then it does not join the two products.
    """
    for node in model.get_ops():
        if node.get_type_name() in ("Subtract", "Divide"):
            value, other = node.input_values()
            products = 0
            while value.get_node().get_input_size() and len(_users(value)) == 1:
                products += value.get_node().get_type_name() == "MatMul"
                value = value.get_node().input_value(0)
            if products > 1 and other.get_node().get_type_name() != "Constant":
                return True
    return False


def _users(value: Any) -> list[Any]:
    """Return the nodes that read a value, outputs of the graph left out."""
    nodes = [target.get_node() for target in value.get_target_inputs()]
    return [node for node in nodes if node.get_type_name() != "Result"]
