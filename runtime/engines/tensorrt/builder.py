"""A stage's ONNX file to a TensorRT plan, for the GPU or a DLA."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ....errors import MissingError, UnsupportedError
from .. import StageFile, pin_shapes
from .bindings import MOST_LISTED, ON_DLA, ON_GPU, last_errors, list_names, log_of, start

__all__ = ["TensorRtHeader", "build_plan"]


class TensorRtHeader(Struct, frozen=True):
    """The line of JSON before a plan: the layers that the DLA leaves to the GPU."""

    on_gpu: tuple[str, ...] = ()


def build_plan(trt: Any, stage: StageFile, *, core: int | None = None, timings: bytes = b"") -> tuple[bytes, bytes]:
    """Parse a stage and build it at batch 1.

    Args:
        trt: TensorRT's module.
        stage: the stage.
        core: the DLA core, None for the GPU.
        timings: what an earlier build on the same device measured. If it is empty or does not fit, everything is measured anew.

    Returns:
        The header and the plan, and the timings of this build added to the earlier ones.

    Raises:
        MissingError: TensorRT is too old.
        UnsupportedError: TensorRT cannot run the stage.
    """
    if double := [tensor.name for tensor in stage.inputs if tensor.dtype == "float64"]:
        raise UnsupportedError(
            f"TensorRT knows no float64, in which {stage.path.name} reads {list_names(double)}.", path=stage.path
        )
    shapes = pin_shapes(stage, _describe(core))
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise MissingError(
            f"TensorRT {trt.__version__} is too old: 10.3 or newer is needed, as JetPack 6 brings it.",
            package="tensorrt",
        )
    return _build_copied(trt, stage, stage.copied(), shapes, core=core, timings=timings)


def _build_copied(
    trt: Any, stage: StageFile, path: Path, shapes: dict[str, tuple[int, ...]], *, core: int | None, timings: bytes
) -> tuple[bytes, bytes]:
    builder = start(trt.Builder, trt)
    # Before TensorRT 11 a DLA took its precision from a flag, and no strongly typed network.
    flagged = core is not None and hasattr(trt.BuilderFlag, "FP16")
    network = _parse(trt, builder, stage, path, strongly_typed=not flagged)
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
        raise UnsupportedError(
            f"TensorRT {trt.__version__} cannot build {stage.path} for {_describe(core)}: {last_errors(trt)}",
            path=stage.path,
        )
    if core is not None:
        header = _read_placement(trt, header)
    return msgspec.json.encode(header) + b"\n" + bytes(plan), bytes(cache.serialize())


def _describe(core: int | None) -> str:
    return "tensorrt" if core is None else f"tensorrt:dla{core}"


def _parse(trt: Any, builder: Any, stage: StageFile, path: Path, *, strongly_typed: bool) -> Any:
    """Return the network of a stage's file, read from `path`, with only the outputs that will be bound.

    Raises:
        UnsupportedError: TensorRT cannot run some of the nodes.
    """
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if strongly_typed else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log_of(trt))
    if not parser.parse_from_file(str(path)):
        reasons, nodes = _read_errors(parser)
        raise UnsupportedError(
            f"TensorRT {trt.__version__} cannot run {stage.path}: {reasons}", nodes=nodes, path=stage.path
        )
    for output in [network.get_output(i) for i in range(network.num_outputs)]:
        if output.name not in stage.outputs:
            network.unmark_output(output)
    return network


def _read_errors(parser: Any) -> tuple[str, list[str]]:
    """Return the parser's reasons in words, and the names of the nodes that it refuses."""
    reasons, nodes = [], []
    for error in [parser.get_error(i) for i in range(parser.num_errors)]:
        node = ""
        if hasattr(error, "node_name"):
            node = f"{error.node_operator()} {error.node_name()}: "
            nodes.append(error.node_name())
        reasons.append(f"{node}{error.desc()}".strip())
    words = "; ".join(reasons[:MOST_LISTED]) or "it gives no reason."
    if "UINT8" in words or "zero point" in words:
        words += " It takes int8 without zero points only: offramp quantize --symmetric."
    return words, nodes


def _turn_to_dla(trt: Any, config: Any, network: Any, core: int, *, flagged: bool) -> TensorRtHeader:
    """Give a DLA core the layers that it can run; return the others in a header.

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
            f"The DLA runs none of the stage's layers ({list_names(left)}). It computes convolutions of fp16 networks; quantised "
            "ones (Q/DQ) it does not take. Add a variant: offramp quantize --to fp16; or use tensorrt:0.",
            nodes=left,
        )
    return TensorRtHeader(tuple(left))


def _read_placement(trt: Any, header: TensorRtHeader) -> TensorRtHeader:
    """Return the layers that the builder says it placed on the GPU; if it says nothing, those that the DLA could not take.

    Raises:
        UnsupportedError: the builder left everything to the GPU, as it does in silence if the DLA cannot hold the network.
    """
    placements = log_of(trt).placements
    if not placements:
        return header
    if not any(message.startswith(ON_DLA) for message in placements):
        raise UnsupportedError(
            "TensorRT leaves all of the stage to the GPU, though the DLA knows its layers. Use tensorrt:0."
        )
    on_gpu = [message.removeprefix(ON_GPU).strip() for message in placements if message.startswith(ON_GPU)]
    return TensorRtHeader(tuple(on_gpu))
