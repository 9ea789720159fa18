"""Stages on TensorRT 10.3 or newer, as JetPack 6 and 7 bring it: `tensorrt:0`, and Jetson's DLA `tensorrt:dla0`.

The stage says in which precision it is computed (fp16 tensors, Q/DQ nodes): networks are strongly typed, and float32 is not
rounded to TF32. What a version can do is recognised by the names that it has, never by its number.
"""

import contextlib
import re
from typing import TYPE_CHECKING, Any

import msgspec

from ....errors import BundleError, MissingError, UnsupportedError
from .. import StageFile
from .bindings import import_tensorrt, last_errors, list_names, log_of, start, tensor_names

if TYPE_CHECKING:
    from .cuda import Gpu
    from .plan import TensorRtStage

PACKAGE = "tensorrt"
TIMINGS = "timings of TensorRT"
"""The label in the cache of what a build measured on a device, which makes the next build faster."""


def list_places() -> dict[str, str]:
    """Return the GPUs, and the DLA cores of a Jetson.

    Raises:
        MissingError: there is no GPU, or TensorRT is not installed or does not load.
    """
    from .cuda import count_gpus, open_gpu

    count, trt = count_gpus(), import_tensorrt()
    gpus = [open_gpu(number) for number in range(count)]
    places = {str(k): f"{gpu.name}, compute capability {gpu.capability}" for k, gpu in enumerate(gpus)}
    cores = start(trt.Runtime, trt).num_DLA_cores
    return places | {f"dla{core}": "deep learning accelerator (DLA)" for core in range(max(cores, 0))}


def describe_build(place: str) -> dict[str, str]:
    """Return TensorRT's version, the GPU and its driver. The number of threads decides nothing.

    Raises:
        MissingError: TensorRT or the place is missing.
    """
    trt, gpu, _ = _open(place)
    about = {"engine": f"tensorrt {trt.__version__}", "gpu": gpu.name}
    about |= {"compute_capability": gpu.capability, "multiprocessors": str(gpu.multiprocessors)}
    return about | {"driver": gpu.driver, "threads": "any"}


def build(stage: StageFile, place: str, *, threads: int) -> bytes:
    """Build a stage's plan at batch 1. `threads` is ignored.

    Raises:
        MissingError: TensorRT or the place is missing.
        UnsupportedError: TensorRT cannot run the stage.
        BundleError: the file is no ONNX file.
    """
    trt, gpu, core = _open(place)
    from .... import cache
    from .builder import build_plan

    gpu.enter()
    key = {"device": f"tensorrt:{place}", "outputs": "timings", **describe_build(place)}
    earlier, _ = cache.fetch(key, TIMINGS)
    content, timings = build_plan(trt, stage, core=core, timings=earlier or b"")
    with contextlib.suppress(MissingError):  # a cache that cannot be written only makes the next build slower
        cache.store(key, TIMINGS, timings)
    return content


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "TensorRtStage":
    """Load a stage's plan, or build it. `threads` is ignored.

    Raises:
        MissingError, UnsupportedError: as for `build`.
        BundleError: the build cannot be loaded.
    """
    from .builder import TensorRtHeader
    from .plan import TensorRtStage

    trt, gpu, core = _open(place)
    gpu.enter()
    line, _, plan = (build(stage, place, threads=threads) if built is None else built).partition(b"\n")
    try:
        header = msgspec.json.decode(line, type=TensorRtHeader)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"The build of {stage.path} for tensorrt:{place} is damaged: {error}", path=stage.path
        ) from error
    runtime = start(trt.Runtime, trt)
    if core is not None:
        runtime.DLA_core = core
    log_of(trt).clear()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BundleError(
            f"TensorRT {trt.__version__} cannot load the build of {stage.path}: {last_errors(trt)}",
            path=stage.path,
        )
    on_host = [name for name in tensor_names(engine) if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE]
    if on_host:
        raise UnsupportedError(
            f"{stage.path.name} hands over {list_names(on_host)}, by which TensorRT decides shapes and which the GPU cannot "
            "hold.",
            path=stage.path,
        )
    runs_on = f"TensorRT {trt.__version__}, {gpu.name if core is None else f'DLA core {core} in half precision'}"
    if header.on_gpu:
        runs_on += f", {len(header.on_gpu)} layers on {gpu.name} ({list_names(header.on_gpu)})"
    number = int(place) if core is None else 0
    return TensorRtStage(trt, gpu, runtime, engine, runs_on, number, half=core is not None)


def _open(place: str) -> tuple[Any, "Gpu", int | None]:
    """Return TensorRT, the GPU, and the number of the DLA core. CUDA starts first: without it TensorRT crashes the process.

    Raises:
        MissingError: CUDA, TensorRT or the place is missing.
    """
    from .cuda import open_gpu

    device = f"tensorrt:{place}"
    match = re.fullmatch("([0-9]{1,3})|dla([0-9]{1,2})", place)
    if not match:
        raise MissingError(
            f"TensorRT has no place {place!r}. It has tensorrt:0, and on some Jetsons tensorrt:dla0.", device=device
        )
    gpu, trt = open_gpu(int(match[1] or 0)), import_tensorrt()
    if match[2] is None:
        return trt, gpu, None
    core, cores = int(match[2]), start(trt.Runtime, trt).num_DLA_cores
    if core >= cores:
        raise MissingError(
            f"There is no DLA core {core} here: TensorRT {trt.__version__} finds {max(cores, 0)} beside {gpu.name}. Jetson Orin "
            "NX and AGX have two; TensorRT up to 10.7 runs them, and 11.4.1 on AGX Orin. Use tensorrt:0.",
            device=device,
        )
    return trt, gpu, core
