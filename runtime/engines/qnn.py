"""Stages on Qualcomm's NPUs, through ONNX Runtime's plug-in for QNN: `qnn:htp`, `qnn:simulator`, `qnn:simulator:SM8650`.

`htp` is the NPU (Hexagon Tensor Processor) of the Snapdragon that this runs on. The simulator is part of the package for x86-64.
It computes on the CPU what the NPU of a system on chip would: it shows what that NPU takes and how it rounds, not its speed.
Options are those of https://github.com/onnxruntime/onnxruntime-qnn/blob/main/docs/execution_providers/QNN-ExecutionProvider.md.
"""

import contextlib
import functools
import platform
import re
import tempfile
from pathlib import Path
from typing import Any

from ...devices.board import is_x86_64
from ...devices.sysfs import read_text
from ...errors import BundleError, MissingError, UnsupportedError, require
from . import SIMULATOR, StageFile, pin_shapes
from ._stdout import printing_to_stderr
from .onnxruntime import OnnxRuntimeStage, read_assignment

PACKAGE = "onnxruntime-qnn"

PROVIDER = "QNNExecutionProvider"

SIMULATED = "SM8550"
"""The system on chip that `qnn:simulator` simulates. Without a name the simulator has no half precision and refuses much."""

MOST_LISTED = 5
"""The most nodes that a message names; an error's `nodes` has all of them."""


def list_places() -> dict[str, str]:
    """Return the NPU and the simulator, if they exist on this machine.

    Raises:
        MissingError: a package is missing or does not load, or neither exists.
    """
    _, devices = _devices()
    places = {}
    if any(_is_npu(device) for device in devices):
        places["htp"] = "the NPU of this Snapdragon"
    if _simulator() is not None:
        places[SIMULATOR] = f"simulates the NPU of {SIMULATED} on the CPU, for tests: slow; another: {SIMULATOR}:SM8650"
    if not places:
        raise MissingError(_absence(), device="qnn:htp")
    return places


def describe_build(place: str) -> dict[str, str]:
    """Return the versions of the plug-in, its SDK and ONNX Runtime, and the NPU."""
    ort, devices, settings = _find(place)
    package = require("onnxruntime_qnn", extra="qnn")
    sdk = getattr(package.build_and_package_info, "qnn_version", "unknown")
    npu, soc = devices[0].device, read_text(Path("/sys/devices/soc0/soc_id")) or ""
    return {
        "engine": f"{PACKAGE} {package.__version__}, QNN {sdk}",
        "onnxruntime": ort.__version__,
        "npu": settings.get("soc_model") or f"{npu.vendor} {npu.vendor_id} {npu.device_id} {soc}".strip(),
        "threads": "any",
    }


def build(stage: StageFile, place: str, *, threads: int) -> bytes:
    """Compile a stage at batch 1 into an ONNX file that holds QNN's context binary.

    Raises:
        MissingError: a package or the place is missing.
        UnsupportedError: the NPU cannot run all of the stage. `nodes` names the nodes, if QNN tells.
        BundleError: ONNX Runtime cannot read the file.
    """
    _find(place)
    pin_shapes(stage, f"qnn:{place}")
    path = stage.copied()
    with tempfile.TemporaryDirectory(prefix="offramp.") as folder:
        context = Path(folder, "context.onnx")
        entries = {
            "ep.context_enable": "1",
            "ep.context_file_path": str(context),
            "ep.context_embed_mode": "1",
            "session.disable_cpu_ep_fallback": "1",
        }
        try:
            _open(str(path), place, threads, entries)
            return context.read_bytes()
        except MissingError:
            raise
        except Exception as error:  # ONNX Runtime's exception types are private and differ between versions
            raise _explain(stage, path, place, threads, str(error)) from error


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> OnnxRuntimeStage:
    """Load the build of a stage, or build it.

    Raises:
        MissingError: a package or the place is missing.
        UnsupportedError: the NPU cannot run all of the stage.
        BundleError: ONNX Runtime cannot read the file or the build.
    """
    ort, _, settings = _find(place)
    content = build(stage, place, threads=threads) if built is None else built
    try:
        session = _open(content, place, threads, {"session.disable_cpu_ep_fallback": "1"})
        nodes = read_assignment(session)
    except MissingError:
        raise
    except Exception as error:
        raise BundleError(
            f"QNN cannot load the build of {stage.path}: {_reason(str(error))}", path=stage.path
        ) from error
    if set(nodes) != {PROVIDER}:
        raise BundleError(
            f"The build of {stage.path} for qnn:{place} is run by {', '.join(nodes) or 'nothing'}.",
            path=stage.path,
        )
    package = require("onnxruntime_qnn", extra="qnn")
    npu = f"simulator of {settings['soc_model']}'s NPU on the CPU" if "soc_model" in settings else "NPU"
    runs_on = f"QNN {package.__version__} on ONNX Runtime {ort.__version__}, {npu}"
    return OnnxRuntimeStage(ort, session, runs_on, batches=False, half=True)


@functools.cache
def _devices() -> tuple[Any, list[Any]]:
    """Register the plug-in; return ONNX Runtime and the devices that the plug-in offers."""
    ort, package = require("onnxruntime", extra="onnxruntime"), require("onnxruntime_qnn", extra="qnn")
    if not hasattr(ort, "register_execution_provider_library"):
        raise MissingError(
            f"qnn needs ONNX Runtime 1.24 or newer, and {ort.__version__} is here: pip install -U onnxruntime",
            package="onnxruntime",
            extra="onnxruntime",
        )
    if not _offered(ort):  # the program may have registered it by itself
        try:
            ort.register_execution_provider_library(PROVIDER, package.get_library_path())
        except Exception as error:
            raise MissingError(
                f"The library of {PACKAGE} {package.__version__} does not load: {_reason(str(error))} "
                "Install it anew: pip install --force-reinstall --no-deps onnxruntime-qnn",
                package="onnxruntime_qnn",
                extra="qnn",
            ) from error
    return ort, _offered(ort)


def _offered(ort: Any) -> list[Any]:
    return [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]


def _is_npu(device: Any) -> bool:
    return str(device.device.type).rpartition(".")[2] == "NPU"


def _simulator() -> Path | None:
    """Return the library that simulates the NPU; None if the package has none, as on every processor but x86-64."""
    package = require("onnxruntime_qnn", extra="qnn")
    library = Path(package.get_qnn_htp_path())
    return library if is_x86_64() and library.exists() else None


def _absence() -> str:
    """Say what the NPU needs, for a machine on which QNN finds none."""
    return (
        "qnn:htp is the NPU of a Snapdragon, and QNN finds none here: it needs Linux or Windows on Arm, the driver of the NPU "
        "(on Linux FastRPC), and a user who may open it."
    )


def _find(place: str) -> tuple[Any, list[Any], dict[str, str]]:
    """Return ONNX Runtime, the devices and the provider's options for a place.

    Raises:
        MissingError: the place does not exist on this machine.
    """
    kind, _, soc = place.partition(":")
    if not re.fullmatch(f"htp|{SIMULATOR}(:[A-Za-z0-9]{{1,20}})?", place):
        raise MissingError(
            f"QNN has no place {place!r}. It has htp, {SIMULATOR}, and {SIMULATOR}:SM8650 for a system on chip.",
            device=f"qnn:{place}",
        )
    ort, devices = _devices()
    settings = {"offload_graph_io_quantization": "0"}  # else the CPU quantises what a stage reads
    library = _simulator()
    if kind == "htp":
        npus = [device for device in devices if _is_npu(device)]
        if not npus:
            instead = f" Its simulator on this CPU is qnn:{SIMULATOR}." if library else ""
            raise MissingError(_absence() + instead, device="qnn:htp")
        return ort, npus, settings
    if library is None:
        raise MissingError(
            f"qnn:{SIMULATOR} is part of {PACKAGE} for x86-64 only, and this is {platform.machine()}.",
            device=f"qnn:{place}",
        )
    settings |= {"backend_path": str(library), "soc_model": soc.upper() or SIMULATED, "enable_htp_fp16_precision": "1"}
    return ort, [device for device in devices if not _is_npu(device)], settings


def _open(model: str | bytes, place: str, threads: int, entries: dict[str, str]) -> Any:
    """Make a session on a place.

    Args:
        model: the path of an ONNX file, or its content.
        place: where it runs.
        threads: threads that it may use.
        entries: entries of the session's configuration.

    Raises:
        MissingError: the simulator does not know the system on chip. Any other exception is ONNX Runtime's.
    """
    ort, devices, settings = _find(place)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised
    options.add_free_dimension_override_by_name("batch", 1)
    for name, value in ({"session.record_ep_graph_assignment_info": "1"} | entries).items():
        options.add_session_config_entry(name, value)
    options.add_provider_for_devices(devices, settings)
    try:
        with printing_to_stderr():
            return ort.InferenceSession(model, options)
    except Exception as error:
        if "soc_model is not specified" in str(error):  # QNN's words for a name that it does not know
            raise MissingError(
                f"The simulator of {PACKAGE} knows no system on chip {settings['soc_model']!r} by name, such as SM8550 or "
                "SM8750.",
                device=f"qnn:{place}",
            ) from error
        raise


def _explain(stage: StageFile, copy: Path, place: str, threads: int, message: str) -> BundleError | UnsupportedError:
    """Return the error for a stage whose copy cannot be built. It names the nodes that QNN leaves to the CPU when it may."""
    reason = _reason(message)
    if "INVALID_PROTOBUF" in message or "NO_SUCHFILE" in message or "INVALID_GRAPH" in message:
        return BundleError(f"ONNX Runtime cannot load {stage.path}: {reason}", path=stage.path)
    nodes: dict[str, list[Any]] = {}
    with contextlib.suppress(Exception):  # some stages fail even with the CPU's help
        nodes = read_assignment(_open(str(copy), place, threads, {}))
    if "finalize" in reason:
        reason += " QNN does not say at which node. An NPU without half precision refuses much in float: take an int8 variant."
    left = [node for name, assigned in nodes.items() if name != PROVIDER for node in assigned]
    if not left:
        return UnsupportedError(f"qnn:{place} cannot run {stage.path}: {reason}", path=stage.path)
    listed = ", ".join(f"{node.op_type} {node.name}" for node in left[:MOST_LISTED])
    listed += ", ..." if len(left) > MOST_LISTED else ""
    hint = ""
    if any(node.op_type == "DequantizeLinear" for node in left):
        hint = (
            " QNN takes no product of int8 whose result stays in float: quantize with float_heads=True (--float-heads)."
        )
    return UnsupportedError(
        f"qnn:{place} does not run all of {stage.path}: QNN leaves {listed} ({len(left)} nodes) to the CPU.{hint}",
        nodes=[node.name for node in left],
        path=stage.path,
    )


def _reason(message: str) -> str:
    """Return ONNX Runtime's message without its codes."""
    return re.sub(r"^.*\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message.strip(), flags=re.DOTALL).strip()
