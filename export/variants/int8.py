"""Eight-bit integers: find the range of every value from samples, then quantise the graph with these ranges.

ONNX Runtime's quantiser does both. A quantised value is written as QuantizeLinear followed by DequantizeLinear, which engines
fuse with the operators beside them.
"""

import contextlib
import io
import logging
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
from ..graph.edits import bypass_node, insert_tape, nodes_up_to_products
from ..graph.precision import is_quantised
from .int8_nodes import QUANTISED_OPERATORS, choose_int8_nodes

__all__ = ["RANGE_METHODS", "Int8Options", "find_ranges", "quantize_graph"]

RANGE_METHODS = ("minmax", "percentile")

PERCENTILE, HISTOGRAM_BINS = 99.99, 2048
"""`percentile` ranges cut off the values beyond this percentile of a histogram with so many bins."""

BATCH_ROWS, MOST_BYTES = 16, 1 << 30
"""Samples that run through the graph at once while ranges are found: fewer where all of their values take more memory."""

PER_CHANNEL_OPSET = 13
"""The first opset whose QuantizeLinear takes one scale per channel."""

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
    watched = (_Extremes if options.ranges == "minmax" else _Histograms)(plain, symmetric=options.symmetric)
    rows = max(1, min(BATCH_ROWS, MOST_BYTES // max(1, watched.count_bytes(_batch(bundle, samples, 0, 1)))))
    logger.debug("samples at once while ranges are found: %d", rows)
    for first in range(0, len(samples), rows):
        watched.collect(_batch(bundle, samples, first, rows))
        progress("finding ranges", min(first + rows, len(samples)), len(samples))
    ranges = watched.make_ranges()
    if logger.isEnabledFor(logging.DEBUG):
        for name, value in ranges.items():
            logger.debug("range of %s: %.4g to %.4g", name, *(bound.item() for bound in value.range_value))
    return ranges


class _Watched:
    """A graph that also returns its values which may be quantised, or what `reductions` make of them.

    Reductions stand behind what they reduce and run in that order: ONNX Runtime's default order runs the graph to its end first,
    and keeps every value till then.
    """

    reductions: tuple[str, ...] = ()

    def __init__(self, plain: Path, *, symmetric: bool) -> None:
        ort = require("onnxruntime", extra="onnx")
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        self.symmetric = symmetric
        model: ir.Model = ir.from_proto(load_model_with_shape_infer(plain))
        values = _values_to_watch(model.graph)
        self.names = [str(value.name) for value in values]
        self.outputs = [result.name for value in values for result in self._reduce(model.graph, value)]
        ir.save(model, file := plain.with_name("watched.onnx"))
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        settings.enable_mem_pattern = False  # it would hold the memory of all values twice
        settings.log_severity_level = 4
        self.session = ort.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])

    def _reduce(self, graph: ir.Graph, value: ir.Value) -> list[ir.Value]:
        """Let the graph return what is watched of a value."""
        tape = ir.tape.Tape()
        results = [
            tape.op(operator, [value], {} if operator == "Size" else {"keepdims": 0}) for operator in self.reductions
        ] or [value]
        producer = value.producer()
        if producer is None:
            insert_tape(graph, tape)
        else:
            graph.insert_after(producer, tape.nodes)
        for operator, result in zip(self.reductions, results, strict=False):
            result.name = f"{value.name}.{operator}"
            result.type = ir.TensorType(ir.DataType.INT64) if operator == "Size" else value.type
        graph.outputs.extend(result for result in results if not result.is_graph_output())
        return results

    def run(self, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
        return list(self.session.run(self.outputs, batch))


class _Extremes(_Watched):
    """The smallest and the largest element of each value."""

    reductions = ("ReduceMin", "ReduceMax", "Size")

    def __init__(self, plain: Path, *, symmetric: bool) -> None:
        super().__init__(plain, symmetric=symmetric)
        self.lowest, self.highest = np.full((2, len(self.names)), np.nan, np.float32)

    def count_bytes(self, batch: dict[str, np.ndarray]) -> int:
        return 4 * int(sum(self.run(batch)[2::3]))

    def collect(self, batch: dict[str, np.ndarray]) -> None:
        found = self.run(batch)
        self.lowest, self.highest = np.fmin(self.lowest, found[0::3]), np.fmax(self.highest, found[1::3])

    def make_ranges(self) -> Any:
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

        lowest, highest = self.lowest, self.highest
        if self.symmetric:
            highest = np.fmax(np.abs(lowest), np.abs(highest))
            lowest = -highest
        pairs = zip(lowest.reshape(-1, 1), highest.reshape(-1, 1), strict=True)
        return TensorsData(CalibrationMethod.MinMax, dict(zip(self.names, pairs, strict=True)))


class _Histograms(_Watched):
    """A histogram of each value, whose bins follow the first batch; the range ends at a percentile."""

    def __init__(self, plain: Path, *, symmetric: bool) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        super().__init__(plain, symmetric=symmetric)
        self.collector = HistogramCollector("percentile", symmetric, HISTOGRAM_BINS, HISTOGRAM_BINS, PERCENTILE, "same")

    def count_bytes(self, batch: dict[str, np.ndarray]) -> int:
        return sum(value.nbytes for value in self.run(batch))

    def collect(self, batch: dict[str, np.ndarray]) -> None:
        found = self.run(batch)[::-1]
        with contextlib.redirect_stdout(io.StringIO()):  # the collector prints
            for name in self.names:
                try:
                    self.collector.collect({name: [found.pop()]})  # one at a time, since it copies
                except (ValueError, MemoryError) as error:
                    raise ModelError(
                        "No percentile ranges can be found: a value inside the network is infinite, or far smaller for some "
                        f"samples than for others ({error}). Take ranges=minmax."
                    ) from error

    def make_ranges(self) -> Any:
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

        with contextlib.redirect_stdout(io.StringIO()):
            return TensorsData(CalibrationMethod.Percentile, self.collector.compute_collection_result())


def _values_to_watch(graph: ir.Graph) -> list[ir.Value]:
    """Return the floating-point values that operators of int8 read or make; weights are not among them."""
    values = (
        value
        for node in graph
        if node.op_type in QUANTISED_OPERATORS
        for value in (*node.inputs, *node.outputs)
        if value is not None and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and not value.is_initializer()
    )
    return list(dict.fromkeys(values))


def _batch(bundle: Bundle, samples: Samples, first: int, rows: int) -> dict[str, np.ndarray]:
    """Return samples from a row on, by the names of the inputs, each with its batch axis where the graph has it."""
    parts = [array[first : first + rows] for array in samples.arrays]
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

    names = choose_int8_nodes(ir.load(plain).graph, float_heads=options.float_heads, float_biases=options.symmetric)
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
