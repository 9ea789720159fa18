"""Eight-bit integers: find the range of every value from samples, then quantise the graph with these ranges.

ONNX Runtime's quantiser does both. A quantised value is written as QuantizeLinear followed by DequantizeLinear, which engines
fuse with the operators beside them.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from ...bundle import Bundle
from ...errors import ModelError, require
from ...progress import Progress
from ...runtime.chain.samples import Samples
from ..graph.axes import first_line
from ..graph.edits import bypass_node, nodes_up_to_products
from ..graph.macs import MULTIPLIES
from ..graph.precision import is_quantised

__all__ = ["RANGE_METHODS", "Int8Options", "find_ranges", "quantize_graph"]

RANGE_METHODS = ("minmax", "percentile")

PERCENTILE, HISTOGRAM_BINS = 99.99, 2048
"""`percentile` ranges cut off the values beyond this percentile of a histogram with so many bins."""

BATCH_ROWS = 16
"""Samples that run through the graph at once while ranges are found."""

QUANTISED_OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul"),
    *("AveragePool", "GlobalAveragePool", "MaxPool", "Clip", "LeakyRelu", "Relu"),
    *("Concat", "Flatten", "Gather", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators that compute in int8. Normalisations and exponentials (Softmax, Exp, ...) lose too much in 8 bits."""

KEEPS_SMALL = (*QUANTISED_OPERATORS, "Abs", "Sqrt")
"""Operators behind which a small value is still small."""

PER_CHANNEL_OPSET = 13
"""The first opset whose QuantizeLinear takes one scale per channel."""

LEAST_MASK = 1e4
"""A constant with an absolute value of at least this is a mask: added to attention scores, it switches them off."""

logger = logging.getLogger(__name__)


class Int8Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a graph is quantised; `quantize` explains each option."""

    ranges: str = RANGE_METHODS[0]
    full_range: bool = False
    symmetric: bool = False
    float_heads: bool = False


def find_ranges(
    plain: Path,
    bundle: Bundle,
    samples: Samples,
    options: Int8Options,
    progress: Progress,
) -> Any:
    """Run samples through a graph and return the range of every value that may be quantised.

    Args:
        plain: the file of the whole graph, in fp32.
        bundle: the bundle with that graph; its inputs say how samples are passed.
        samples: what runs.
        options: how ranges are made.
        progress: called with a description, the number of samples done, and of all samples.

    Returns:
        ONNX Runtime's `TensorsData`: ranges by the names of values.

    Raises:
        ModelError: the graph's opset is too old, or a value has no range that can be used.
    """
    if (opset := ir.load(plain).graph.opset_imports[""]) < PER_CHANNEL_OPSET:
        raise ModelError(
            f"int8 has a scale per channel, which takes opset {PER_CHANNEL_OPSET}; the network has {opset}. Export it again "
            "with a newer one, or take fp16."
        )
    with contextlib.redirect_stdout(io.StringIO()):  # the calibrator prints
        calibrator = _make_calibrator(plain, options)
        for first in range(0, len(samples), BATCH_ROWS):
            try:
                calibrator.collect_data(_BatchReader(iter([_batch(bundle, samples, first)])))
            except (ValueError, MemoryError) as error:  # from numpy's histograms
                raise ModelError(
                    f"No {options.ranges} ranges can be found: a value inside the network is infinite, or far smaller for some "
                    f"samples than for others ({error}). Take ranges=minmax."
                ) from error
            progress("finding ranges", min(first + BATCH_ROWS, len(samples)), len(samples))
        ranges = calibrator.compute_data()
    if logger.isEnabledFor(logging.DEBUG):
        for name, value in ranges.items():
            logger.debug("range of %s: %.4g to %.4g", name, *(bound.item() for bound in value.range_value))
    return ranges


def _make_calibrator(plain: Path, options: Int8Options) -> Any:
    """Make ONNX Runtime's calibrator, which watches the values of a graph while batches run."""
    quantization = require("onnxruntime.quantization", extra="onnx")
    methods = {
        "minmax": quantization.CalibrationMethod.MinMax,
        "percentile": quantization.CalibrationMethod.Percentile,
    }
    extra = {"symmetric": options.symmetric, "num_bins": HISTOGRAM_BINS, "percentile": PERCENTILE}
    return quantization.calibrate.create_calibrator(
        plain,
        QUANTISED_OPERATORS,
        augmented_model_path=str(plain.with_name("watched.onnx")),
        calibrate_method=methods[options.ranges],
        extra_options=extra,
    )


class _BatchReader:
    """Hands batches to the calibrator, which calls `get_next` until it gets None."""

    def __init__(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def _batch(bundle: Bundle, samples: Samples, first: int) -> dict[str, np.ndarray]:
    """Return `BATCH_ROWS` samples from a row on, by the names of the inputs, each with its batch axis where the graph has it."""
    parts = [array[first : first + BATCH_ROWS] for array in samples.arrays]
    return {
        tensor.name: np.ascontiguousarray(np.moveaxis(part, 0, tensor.shape.index(None)))
        for tensor, part in zip(bundle.manifest.inputs, parts, strict=True)
    }


def quantize_graph(plain: Path, ranges: Any, options: Int8Options) -> ir.Model:
    """Put QuantizeLinear and DequantizeLinear around every operator that computes in int8.

    Args:
        plain: the file of the whole graph, in fp32.
        ranges: what `find_ranges` returned for this graph.
        options: how to quantise.

    Raises:
        ModelError: the graph has nothing that can be quantised, or the quantiser fails on it.
    """
    onnx = require("onnx", extra="onnx")
    quantization = require("onnxruntime.quantization", extra="onnx")
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    names = _nodes_to_quantize(ir.load(plain).graph, options)
    logger.debug("quantised nodes: %s", ", ".join(names))
    kind = quantization.QuantType
    with np.errstate(invalid="ignore"):  # masks have infinite ranges, which nothing uses
        quantizer = QDQQuantizer(
            load_model_with_shape_infer(plain),
            per_channel=True,
            reduce_range=not options.full_range,
            weight_qType=kind.QInt8,
            activation_qType=kind.QInt8 if options.symmetric else kind.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=names,
            nodes_to_exclude=[],
            op_types_to_quantize=list(QUANTISED_OPERATORS),
            extra_options={
                "ActivationSymmetric": options.symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not options.symmetric,
            },
        )
        try:
            quantizer.quantize_model()
        except Exception as error:  # whatever its code for an operator raises
            raise ModelError(
                f"ONNX Runtime's quantiser fails on the network: {first_line(error)}. symmetric=True (--symmetric) leaves biases "
                "in float, which may pass; fp16 (--to fp16) does without the quantiser."
            ) from error
    model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(quantizer.model.model.SerializeToString()))
    _leave_logits_in_float(model.graph)
    if options.symmetric:
        _leave_scalars_in_float(model.graph)
    if not is_quantised(model):
        raise ModelError(
            "Nothing in the network can be quantised: it has no convolution or matrix product of known weights."
        )
    return model


def _nodes_to_quantize(graph: ir.Graph, options: Int8Options) -> list[str]:
    """Return the names of the nodes that shall compute in int8."""
    candidates = nodes_up_to_products(graph, include_products=not options.float_heads) - _find_divisors(graph)
    return [
        str(node.name)
        for node in graph
        if node in candidates
        and node.op_type in QUANTISED_OPERATORS
        and not _reads_mask(node)
        and (options.symmetric or not _has_grouped_bias(node))
    ]


def _reads_mask(node: ir.Node) -> bool:
    """Tell whether a constant input is a mask, such as one of minus infinity: in its range, 8 bits tell nothing else apart."""
    arrays = [value.const_value.numpy() for value in node.inputs if value is not None and value.const_value is not None]
    return any(a.dtype.kind == "f" and a.size and not (np.abs(a) < LEAST_MASK).all() for a in arrays)


def _find_divisors(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that make what others divide by, back to the product that it comes from.

    In 8 bits a small divisor is rounded to 0: linear attention, which divides by a sum of weights, then loses nearly everything.
    """
    found: set[ir.Node] = set()
    todo = [node.inputs[-1] for node in graph if node.op_type in ("Div", "Reciprocal")]
    while todo:
        value = todo.pop()
        node = value.producer() if value is not None else None
        if node is not None and node not in found and node.op_type in KEEPS_SMALL:
            found.add(node)
            todo += [] if node.op_type in MULTIPLIES else node.inputs
    return found


def _has_grouped_bias(node: ir.Node) -> bool:
    """Tell whether a node is a transposed convolution with groups and a bias.

    Its weights have a scale for each channel of a group, which are fewer than the bias has values.
    """
    return node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1 and len(node.inputs) > 2


def _leave_logits_in_float(graph: ir.Graph) -> None:
    """Remove the quantisation of values that only decisions read: a score of 8 bits is too coarse for thresholds."""
    before_logits = nodes_up_to_products(graph)
    for node in list(graph):
        if node.op_type == "DequantizeLinear" and node not in before_logits and node.inputs[0] is not None:
            source = node.inputs[0].producer()
            if source is not None and source.op_type == "QuantizeLinear" and source.inputs[0] is not None:
                bypass_node(graph, node, source.inputs[0])


def _leave_scalars_in_float(graph: ir.Graph) -> None:
    """Replace quantised constants of shape () by floats: TensorRT does not take them quantised."""
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if source is None or source.const_value is None or tuple(source.const_value.shape) != ():
            continue
        constants = [value.const_value for value in node.inputs if value is not None]
        value, scale, *zero = [constant.numpy() for constant in constants if constant is not None]
        real = np.float32((value.astype(np.float32) - (zero[0] if zero else 0)) * scale)
        constant = ir.Value(name=f"{source.name}.real", const_value=ir.tensor(np.array(real)))
        graph.initializers[str(constant.name)] = constant
        bypass_node(graph, node, constant)
