"""Stages on TensorRT 10.3 or newer, as JetPack 6 and 7 bring it: `tensorrt:0`, and Jetson's DLA `tensorrt:dla0`.

Precision lies in the stage (fp16 tensors, Q/DQ nodes): networks are strongly typed, and float32 is not rounded to TF32. Whether a
version can do something is seen by the names it has, never by its number.
"""

import contextlib
import importlib
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from ....errors import BundleError, MissingError, UnsupportedError
from .. import StageFile, pin_shapes
from .plan import ON_DLA, ON_GPU, TensorRtStage, log_of, said_by, tensor_names

if TYPE_CHECKING:
    from .cuda import Gpu

PACKAGE = "tensorrt"
ALIASES = ()
TIMINGS = "timings of TensorRT"
"""What the cache calls that which a build learns about the device, so that the next one is faster."""

MOST_NAMED = 6
"""The most layers that are named in words."""


class TensorRtHeader(Struct, frozen=True):
    """What stands before a plan, in one line of JSON: the layers that the DLA leaves to the GPU."""

    on_gpu: tuple[str, ...] = ()


def list_places() -> dict[str, str]:
    """Return the GPUs, and the DLA cores of a Jetson.

    Raises:
        MissingError: there is no GPU, or TensorRT is not installed or does not load.
    """
    from .cuda import count_gpus, open_gpu

    count, trt = count_gpus(), _load()
    gpus = [open_gpu(number) for number in range(count)]
    places = {str(k): f"{gpu.name}, compute capability {gpu.capability}" for k, gpu in enumerate(gpus)}
    cores = _start(trt.Runtime, trt).num_DLA_cores
    return places | {f"dla{core}": "deep learning accelerator (DLA)" for core in range(max(cores, 0))}


def describe_build(place: str) -> dict[str, str]:
    """Return TensorRT's version, the GPU and its driver; threads decide nothing.

    Raises:
        MissingError: they are not here.
    """
    trt, gpu, _ = _open(place)
    about = {"engine": f"tensorrt {trt.__version__}", "gpu": gpu.name}
    about |= {"compute_capability": gpu.capability, "multiprocessors": str(gpu.multiprocessors)}
    return about | {"driver": gpu.driver, "threads": "any"}


def build(stage: StageFile, place: str, *, threads: int) -> bytes:
    """Build a stage's plan at batch 1. `threads` is not looked at.

    Raises:
        MissingError: TensorRT or the place is not here.
        UnsupportedError: TensorRT cannot run the stage.
        BundleError: it is no ONNX file.
    """
    trt, gpu, core = _open(place)
    from .... import cache

    gpu.enter()
    key = {"device": f"tensorrt:{place}", "outputs": "timings", **describe_build(place)}
    known, _ = cache.fetch(key, TIMINGS)
    content, timed = build_plan(trt, stage, core=core, timings=known or b"")
    with contextlib.suppress(MissingError):  # where they cannot be kept the next build takes longer, which is all
        cache.store(key, TIMINGS, timed)
    return content


def build_plan(trt: Any, stage: StageFile, *, core: int | None = None, timings: bytes = b"") -> tuple[bytes, bytes]:
    """Parse a stage and build it at batch 1.

    Args:
        trt: TensorRT's module.
        stage: the stage.
        core: the DLA core, None for the GPU.
        timings: what an earlier build on the same device learnt; empty, or unfit, it is learnt anew.

    Returns:
        The header and the plan, and the timings of this build added to those before.

    Raises:
        MissingError: TensorRT is too old.
        UnsupportedError: TensorRT cannot run the stage.
    """
    where = "tensorrt" if core is None else f"tensorrt:dla{core}"
    if double := [tensor.name for tensor in stage.inputs if tensor.dtype == "float64"]:
        raise UnsupportedError(f"TensorRT knows no float64, in which {stage.path.name} reads {_list(double)}.")
    shapes = pin_shapes(stage, where)
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise MissingError(f"TensorRT {trt.__version__} is too old: 10.3 or newer is needed, as JetPack 6 brings it.")
    stage.check()
    builder = _start(trt.Builder, trt)
    # Before TensorRT 11 a DLA took its precision from a flag, and no strongly typed network.
    flagged = core is not None and hasattr(trt.BuilderFlag, "FP16")
    network = builder.create_network(0 if flagged else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log_of(trt))
    if not parser.parse_from_file(str(stage.path)):
        raise UnsupportedError(f"TensorRT {trt.__version__} cannot run {stage.path}: {_explain_parser(parser)}")
    for output in [network.get_output(i) for i in range(network.num_outputs)]:
        if output.name not in stage.outputs:
            network.unmark_output(output)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)
    config.clear_flag(trt.BuilderFlag.TF32)
    header = TensorRtHeader() if core is None else _turn_to_dla(trt, config, network, core, flagged=flagged)
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):  # of another device or version
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    log_of(trt).clear()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnsupportedError(f"TensorRT {trt.__version__} cannot build {stage.path} for {where}: {said_by(trt)}")
    if core is not None:
        header = _read_placement(trt, header)
    return msgspec.json.encode(header) + b"\n" + bytes(plan), bytes(cache.serialize())


def _turn_to_dla(trt: Any, config: Any, network: Any, core: int, *, flagged: bool) -> TensorRtHeader:
    """Give a DLA core the layers that it can run, and say which those are that it cannot.

    Raises:
        UnsupportedError: it can run none.
    """
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if flagged:
        config.set_flag(trt.BuilderFlag.FP16)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    layers = [layer for layer in layers if layer.type != trt.LayerType.CONSTANT]
    left = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if len(left) == len(layers):
        raise UnsupportedError(
            f"The DLA runs none of the stage's layers ({_list(left)}). It computes convolutions of fp16 networks; quantised ones "
            "(Q/DQ) it does not take. Add a variant: offramp quantize --to fp16; or use tensorrt:0."
        )
    return TensorRtHeader(tuple(left))


def _read_placement(trt: Any, header: TensorRtHeader) -> TensorRtHeader:
    """Return what the builder says that it placed on the GPU; what it was able to place, where it says nothing.

    Raises:
        UnsupportedError: it left all of it to the GPU, as it does in silence where the DLA cannot hold the network.
    """
    placed = log_of(trt).placed
    if placed and not any(message.startswith(ON_DLA) for message in placed):
        raise UnsupportedError(
            "TensorRT leaves all of the stage to the GPU, though the DLA knows its layers. Use tensorrt:0."
        )
    return (
        TensorRtHeader(tuple(one.removeprefix(ON_GPU).strip() for one in placed if one.startswith(ON_GPU)))
        if placed
        else header
    )


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> TensorRtStage:
    """Load a stage's plan, or build it. `threads` is not looked at.

    Raises:
        MissingError, UnsupportedError: as for `build`.
        BundleError: what was built cannot be loaded.
    """
    trt, gpu, core = _open(place)
    gpu.enter()
    line, _, plan = (build(stage, place, threads=threads) if built is None else built).partition(b"\n")
    try:
        header = msgspec.json.decode(line, type=TensorRtHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"What was built of {stage.path} for tensorrt:{place} is damaged: {error}") from error
    runtime = _start(trt.Runtime, trt)
    if core is not None:
        runtime.DLA_core = core
    log_of(trt).clear()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BundleError(f"TensorRT {trt.__version__} cannot load what was built of {stage.path}: {said_by(trt)}")
    host = [name for name in tensor_names(engine) if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE]
    if host:
        raise UnsupportedError(
            f"{stage.path.name} hands over {_list(host)}, by which TensorRT decides shapes and which the GPU cannot hold."
        )
    where = gpu.name if core is None else f"DLA core {core} in half precision"
    if header.on_gpu:
        where += f", {len(header.on_gpu)} layers on {gpu.name} ({_list(header.on_gpu)})"
    number = int(place) if core is None else 0
    return TensorRtStage(
        trt, gpu, runtime, engine, f"TensorRT {trt.__version__}, {where}", number, half=core is not None
    )


def _load() -> Any:
    """Import TensorRT.

    Raises:
        MissingError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise MissingError(f"The package tensorrt is installed but needs {error.name}, which is not.") from error
    except Exception as error:  # its libraries, of whatever version
        raise MissingError(f"The package tensorrt is installed but does not import: {error}") from error
    raise MissingError(
        "TensorRT's Python package is not installed. On a Jetson it comes with JetPack (sudo apt install python3-libnvinfer), "
        "and a virtual environment made with --system-site-packages sees it; elsewhere: pip install tensorrt"
    )


def _open(place: str) -> tuple[Any, "Gpu", int | None]:
    """Return TensorRT, the GPU, and the number of the DLA core. CUDA comes first: without it TensorRT crashes the process.

    Raises:
        MissingError: one of them is not here, or there is no place of this name.
    """
    from .cuda import open_gpu

    found = re.fullmatch("([0-9]{1,3})|dla([0-9]{1,2})", place)
    if not found:
        raise MissingError(f"TensorRT has no place {place!r}. It has tensorrt:0, and on some Jetsons tensorrt:dla0.")
    gpu, trt = open_gpu(int(found[1] or 0)), _load()
    if found[2] is None:
        return trt, gpu, None
    core, cores = int(found[2]), _start(trt.Runtime, trt).num_DLA_cores
    if core >= cores:
        raise MissingError(
            f"There is no DLA core {core} here: TensorRT {trt.__version__} finds {max(cores, 0)} beside {gpu.name}. Jetson Orin "
            "NX and AGX have two; TensorRT up to 10.7 runs them, and 11.4.1 on AGX Orin. Use tensorrt:0."
        )
    return trt, gpu, core


def _start(kind: Callable[[Any], Any], trt: Any) -> Any:
    """Make a Builder or a Runtime.

    Raises:
        MissingError: TensorRT does not start.
    """
    try:
        return kind(log_of(trt))
    except TypeError as error:  # pybind11's words for a factory that gave nothing
        raise MissingError(f"TensorRT {trt.__version__} does not start: {said_by(trt)} ({error})") from error


def _explain_parser(parser: Any) -> str:
    """Say which nodes TensorRT cannot take, and why."""
    said = []
    for error in [parser.get_error(i) for i in range(parser.num_errors)][:MOST_NAMED]:
        node = f"{error.node_operator()} {error.node_name()}: " if hasattr(error, "node_name") else ""
        said.append(f"{node}{error.desc()}".strip())
    words = "; ".join(said) or "it gives no reason."
    if "UINT8" in words or "zero point" in words:
        words += " It takes int8 without zero points only: offramp quantize --symmetric."
    return words


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
