"""Eight-bit integers: ranges from samples, and the quantised graph."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ...bundle import Bundle
from ...errors import ModelError, require
from ...runtime.chain.samples import Samples
from ..graph.edits import bypass, nodes_to_products
from ..graph.precision import is_quantised

PERCENTILE, BINS, BATCH_ROWS = 99.99, 2048, 16
RANGES = ("minmax", "percentile")


QUANTISED = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul"),
    *("AveragePool", "GlobalAveragePool", "MaxPool", "Clip", "LeakyRelu", "Relu"),
    *("Concat", "Flatten", "Gather", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators that compute in int8. Those that normalise, or take exponents, lose too much by it."""


PER_CHANNEL = 13
"""The opset since which QuantizeLinear takes a scale per channel."""


EXTREME = 1e4
"""Constants from here on are masks, which leave out what they are added to."""


def _find_ranges(
    plain: Path,
    bundle: Bundle,
    samples: Samples,
    ranges: str,
    symmetric: bool,
    progress: Callable[[str, int, int], None],
) -> Any:
    """Run samples through the graph and return the range of every value that may be quantised."""
    if (opset := ir.load(plain).graph.opset_imports[""]) < PER_CHANNEL:
        raise ModelError(
            f"int8 has a scale per channel, which takes opset {PER_CHANNEL}; the network has {opset}. Export it again "
            "with a newer one, or take fp16."
        )
    quantization = require("onnxruntime.quantization", extra="onnx")
    method = {
        "minmax": quantization.CalibrationMethod.MinMax,
        "percentile": quantization.CalibrationMethod.Percentile,
    }[ranges]
    extra = {"symmetric": symmetric, "num_bins": BINS, "percentile": PERCENTILE}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        calibrator = quantization.calibrate.create_calibrator(
            plain,
            QUANTISED,
            augmented_model_path=str(plain.with_name("watched.onnx")),
            calibrate_method=method,
            extra_options=extra,
        )
        for first in range(0, len(samples), BATCH_ROWS):
            try:
                calibrator.collect_data(_Reader(_batches(bundle, samples, first)))
            except (ValueError, MemoryError) as error:  # of numpy's histograms
                raise ModelError(
                    f"No {ranges} ranges can be found: a value inside the network is infinite, or far smaller for some samples "
                    f"than for others ({error}). Take ranges=minmax."
                ) from error
            progress("finding ranges", min(first + BATCH_ROWS, len(samples)), len(samples))
        return calibrator.compute_data()


class _Reader:
    """Gives batches to the calibrator, which asks for the next until there is none."""

    def __init__(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def _batches(bundle: Bundle, samples: Samples, first: int) -> Iterator[dict[str, np.ndarray]]:
    inputs = bundle.manifest.inputs
    parts = [array[first : first + BATCH_ROWS] for array in samples.arrays]
    axes = [tensor.shape.index(None) for tensor in inputs]
    yield {
        tensor.name: np.ascontiguousarray(np.moveaxis(part, 0, axis))
        for tensor, part, axis in zip(inputs, parts, axes, strict=True)
    }


def _insert(plain: Path, found: Any, *, full_range: bool, symmetric: bool, float_heads: bool) -> ir.Model:
    """Put QuantizeLinear and DequantizeLinear around everything that computes in int8."""
    onnx = require("onnx", extra="onnx")
    quantization = require("onnxruntime.quantization", extra="onnx")
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    model = ir.load(plain)
    inside = nodes_to_products(model.graph, themselves=not float_heads)
    names = [
        str(node.name)
        for node in model.graph
        if node in inside and node.op_type in QUANTISED and not _reads_extremes(node)
    ]
    kind = quantization.QuantType
    with np.errstate(invalid="ignore"):  # ranges of masks, which are not used
        quantizer = QDQQuantizer(
            load_model_with_shape_infer(plain),
            per_channel=True,
            reduce_range=not full_range,
            weight_qType=kind.QInt8,
            activation_qType=kind.QInt8 if symmetric else kind.QUInt8,
            tensors_range=found,
            nodes_to_quantize=names,
            nodes_to_exclude=[],
            op_types_to_quantize=list(QUANTISED),
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": not symmetric},
        )
        quantizer.quantize_model()
    done: ir.Model = ir.from_proto(onnx.ModelProto.FromString(quantizer.model.model.SerializeToString()))
    _leave_logits(done.graph)
    if symmetric:
        _leave_scalars(done.graph)
    if not is_quantised(done):
        raise ModelError(
            "Nothing in the network can be quantised: it has no convolution or matrix product of known weights."
        )
    return done


def _reads_extremes(node: ir.Node) -> bool:
    """Tell whether a node reads constants such as a mask of minus infinity, beside which 8 bits hold nothing else."""
    arrays = [value.const_value.numpy() for value in node.inputs if value is not None and value.const_value is not None]
    return any(a.dtype.kind == "f" and a.size and not (np.abs(a) < EXTREME).all() for a in arrays)


def _leave_logits(graph: ir.Graph) -> None:
    """Let what nothing but decisions reads stay as it was computed: 8 bits are too few for a score."""
    inside = nodes_to_products(graph)
    for node in list(graph):
        if node.op_type == "DequantizeLinear" and node not in inside and node.inputs[0] is not None:
            source = node.inputs[0].producer()
            if source is not None and source.op_type == "QuantizeLinear" and source.inputs[0] is not None:
                bypass(graph, node, source.inputs[0])


def _leave_scalars(graph: ir.Graph) -> None:
    """Let constants of a single value without axes be floats: TensorRT takes no quantised ones."""
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        constants = [value.const_value for value in node.inputs if value is not None]
        if (
            source is None
            or source.const_value is None
            or source.const_value.size != 1
            or len(source.const_value.shape)
        ):
            continue
        value, scale, *zero = [constant.numpy() for constant in constants if constant is not None]
        real = np.float32((value.astype(np.float32) - (zero[0] if zero else 0)) * scale)
        constant = ir.Value(name=f"{source.name}.real", const_value=ir.tensor(np.array(real)))
        graph.initializers[str(constant.name)] = constant
        bypass(graph, node, constant)
