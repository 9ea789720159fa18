"""Add variants in lower precision: int8 by ONNX Runtime's quantiser, or half precision. Needs no torch.

The whole graph is quantised, with all exits, and then cut where its values are quantised already.
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

from ..bundle import Bundle, Origin, Variant, open_bundle
from ..bundle.golden import read_golden
from ..bundle.manifest import Precision
from ..bundle.writing import check_variant_name, commit, new_variant
from ..errors import ModelError, UsageError, require, unknown
from ..runtime.chain.samples import Samples, convert_samples
from .axes import axes_of, other_lengths
from .cut import ancestors
from .macs import MULTIPLIES
from .onnx_file import is_quantised
from .probe import Prober
from .session import open_session
from .variant import WEIGHTS, WHOLE, cut_variant
from .verify import relative_error

RANGES = ("minmax", "percentile")

QUANTISED = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul"),
    *("AveragePool", "GlobalAveragePool", "MaxPool", "Clip", "LeakyRelu", "Relu"),
    *("Concat", "Flatten", "Gather", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators that compute in int8. Those that normalise, or take exponents, lose too much by it."""

PERCENTILE, BINS, BATCH_ROWS = 99.99, 2048, 16

PER_CHANNEL = 13
"""The opset since which QuantizeLinear takes a scale per channel."""

EXTREME = 1e4
"""Constants from here on are masks, which leave out what they are added to."""


def quantize(
    path: str | os.PathLike[str] | Bundle,
    data: Any = None,
    *,
    to: str = "int8",
    variant: str | None = None,
    name: str | None = None,
    ranges: str = "minmax",
    samples: int = 512,
    full_range: bool = False,
    symmetric: bool = False,
    float_heads: bool = False,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Bundle:
    """Add a variant in lower precision.

    Weights in int8 have a scale per channel. By default they use 7 of their 8 bits: on processors without VNNI, sums of products
    overflow else, which costs accuracy and confidence in silence. Values between layers are uint8, and cross the cuts as such;
    logits stay as they are.

    Args:
        path: the bundle's folder, or a bundle already opened.
        data: for int8: samples as the network takes them, best of those that it was trained on. Labels are not needed.
        to: `int8` or `fp16`.
        variant: the variant to start from, in fp32; the first by default.
        name: of the new variant; by default `int8` or `fp16`, with what the old one is called besides its precision.
        ranges: how a value's range is found from the samples: `minmax`, all of it; `percentile`, without the outermost 0.01 %.
        samples: how many of the samples to use, drawn at random.
        full_range: use all 8 bits of the weights, for devices whose sums do not overflow: VNNI, Arm's dot product, GPUs, NPUs.
        symmetric: quantise values around 0 and leave biases as they are, as TensorRT asks for; slower on processors.
        float_heads: leave the products that make the logits in float, as Qualcomm's NPUs ask for, which take no product of int8
            whose result stays in float.
        seed: draws the samples.
        progress: called with what is being done, how much is done and how much there is.

    Returns:
        The bundle with the new variant in it.

    Raises:
        UsageError: an argument does not make sense, the name is taken, or the variant is not in fp32.
        DataError: the samples do not fit.
        ModelError: nothing in the network can be quantised, no ranges can be found, or it gives no finite logits any more.
        CheckError: the new chain does not say what the new whole network says.
        BundleError, MissingError: as for `open_bundle`; MissingError too where the bundle cannot be written.
    """
    root = path.path if isinstance(path, Bundle) else Path(path)
    if to not in ("int8", "fp16"):
        raise unknown("precision", to, ("int8", "fp16"))
    if ranges not in RANGES:
        raise unknown("way to find ranges", ranges, RANGES)
    if to == "fp16" and (ranges != RANGES[0] or full_range or symmetric or float_heads):
        raise UsageError("ranges, full_range, symmetric and float_heads say how int8 is made: leave them out for fp16.")
    if samples < 1:
        raise UsageError(f"samples={samples}: ranges are found from at least one.")
    bundle = open_bundle(root)
    chosen = None
    if to == "int8":
        if data is None:
            raise UsageError("int8 needs samples to find the ranges of values from: give data.")
        chosen = convert_samples(data, bundle.manifest.inputs)
        rows = np.random.default_rng(seed).permutation(len(chosen))[
            :samples
        ]  # the first batch decides how wide bins are
        chosen = Samples(tuple(part[rows] for part in chosen.arrays))
    with new_variant(root) as folder:  # it holds the lock: from here on nobody else changes what is read
        bundle = open_bundle(root)
        parent = bundle.variant(variant)
        if parent.precision != "fp32":
            raise UsageError(f"Variant {parent.name} is in {parent.precision}; quantise one in fp32.")
        name = check_variant_name(name or _name(parent, to), bundle)
        settings: dict[str, str | int | float | None] = {}
        with tempfile.TemporaryDirectory(prefix="offramp.") as scratch:
            plain = _simplify(bundle, parent, Path(scratch))
            if chosen is None:
                model = _halve(plain)
            else:
                settings = {
                    "ranges": ranges,
                    "samples": len(chosen),
                    "seed": seed,
                    "weight_bits": 8 if full_range else 7,
                    "symmetric": int(symmetric),
                    **({"float_heads": 1} if float_heads else {}),
                }
                found = _find_ranges(plain, bundle, chosen, ranges, symmetric, progress)
                model = _insert(plain, found, full_range=full_range, symmetric=symmetric, float_heads=float_heads)
        _save(model, folder, parent)
        new = _cut(bundle, parent, folder, name, "int8" if to == "int8" else "fp16", settings)
        return commit(root, folder, replace(bundle.manifest, variants=(*bundle.manifest.variants, new)))


def _name(parent: Variant, to: str) -> str:
    """Say `int8` for `fp32`, and `pruned40-int8` for `pruned40` or `pruned40-fp32`."""
    rest = parent.name.removesuffix(parent.precision).rstrip("-.")
    return f"{rest}-{to}" if rest else to


def _simplify(bundle: Bundle, parent: Variant, scratch: Path) -> Path:
    """Write the whole graph with its constants computed and its normalisations folded into convolutions, weights included."""
    # What is written refers to the same weights, beside it.
    shutil.copyfile(bundle.file(parent, parent.weights), scratch / parent.weights)
    plain = scratch / "plain.onnx"
    open_session(bundle.file(parent, parent.whole), optimise="ORT_ENABLE_BASIC", optimised=plain)
    return plain


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
    inside = _before_products(model.graph, themselves=not float_heads)
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


def _before_products(graph: ir.Graph, *, themselves: bool = True) -> set[ir.Node]:
    """Return the products of the network and what lies before them: not the decisions, nor what else follows the last one.

    Without `themselves` a product is left out unless another one follows it.
    """
    products = [node for node in graph if node.op_type in MULTIPLIES]
    before = set().union(*(ancestors(value) for node in products for value in node.inputs if value is not None))
    return before.union(products) if themselves else before


def _leave_logits(graph: ir.Graph) -> None:
    """Let what nothing but decisions reads stay as it was computed: 8 bits are too few for a score."""
    inside = _before_products(graph)
    for node in list(graph):
        if node.op_type == "DequantizeLinear" and node not in inside and node.inputs[0] is not None:
            source = node.inputs[0].producer()
            if source is not None and source.op_type == "QuantizeLinear" and source.inputs[0] is not None:
                _bypass(graph, node, source.inputs[0])


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
        _bypass(graph, node, constant)


def _halve(plain: Path) -> ir.Model:
    """Convert all but inputs, outputs and decisions to half precision."""
    onnx = require("onnx", extra="onnx")
    require("onnxruntime", extra="onnx")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = ir.load(plain).graph
    inside = _before_products(graph)
    left = [str(node.name) for node in graph if node not in inside]
    halved: ir.Model = ir.from_proto(
        convert_float_to_float16(onnx.load(plain), keep_io_types=True, node_block_list=left)
    )
    for node in halved.graph:  # it casts to and fro between nodes that are left as they are
        value = node.inputs[0] if node.op_type == "Cast" else None
        if value is None or node.attributes.get_int("to", 0) != ir.DataType.FLOAT:
            continue
        source = value.producer()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            _bypass(halved.graph, node, value)
        elif source is not None and source.op_type == "Cast" and source.inputs[0] is not None:
            is_added = (
                source.attributes.get_int("to", 0) == ir.DataType.FLOAT16
            )  # the parent, in fp32, has no such casts
            if is_added:
                _bypass(halved.graph, node, source.inputs[0])
    return halved


def _bypass(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let what reads a node's output read another value instead, which takes its name if it is an output of the graph."""
    gone = node.outputs[0]
    is_output = gone in graph.outputs
    gone.replace_all_uses_with(value, replace_graph_outputs=True)
    if is_output:
        value.name, gone.name = gone.name, f"{gone.name}.rounded"
        value.type, value.shape = gone.type, gone.shape
    graph.remove(node, safe=True)


def _save(model: ir.Model, folder: Path, parent: Variant) -> None:
    """Write the graph and its weights, its outputs called as they were."""
    wanted = [name for end in parent.exits for name in (end.logits, end.score, end.label)]
    outputs = {value.name: value for value in model.graph.outputs}
    model.graph.outputs[:] = [outputs[name] for name in wanted]
    for value in (value for node in model.graph for value in node.outputs if not value.is_graph_output()):
        value.type = value.shape = None  # what they were before; shapes are inferred anew where they are needed
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.dtype = value.const_value.dtype
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    DeduplicateInitializersPass(size_limit=1 << 40)(model)
    model.graph.metadata_props.clear()
    ir.save(model, folder / WHOLE, external_data=WEIGHTS)
    (folder / WEIGHTS).touch()  # a network so small that every weight lies in the graph


def _cut(
    bundle: Bundle,
    parent: Variant,
    folder: Path,
    name: str,
    precision: Precision,
    settings: dict[str, str | int | float | None],
) -> Variant:
    """Cut the graph in a folder into stages that say what it says as a whole."""
    inputs = read_golden(bundle, parent).inputs
    axes = [axes_of(tensor) for tensor in bundle.manifest.inputs]
    logits = [end.logits for end in parent.exits]
    names = [tensor.name for tensor in bundle.manifest.inputs]

    def run(session: Any, x: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(session.run(logits, dict(zip(names, x, strict=True))))

    whole = open_session(folder / WHOLE)
    plain, fast = run(open_session(folder / WHOLE, optimise="ORT_DISABLE_ALL"), inputs), run(whole, inputs)
    if not all(np.isfinite(values).all() for values in (*plain, *fast)):
        raise ModelError(f"In {precision} the network gives logits that are not finite. Leave this precision out.")
    noise = max(relative_error(a, b) for a, b in zip(plain, fast, strict=True))
    prober = Prober(inputs, axes, other_lengths(inputs, axes, lambda x: run(whole, x)), folder)
    return cut_variant(
        ir.load(folder / WHOLE),
        prober,
        name=name,
        precision=precision,
        rule=parent.rule,
        inputs=bundle.manifest.inputs,
        classes=bundle.manifest.classes,
        exits=[end.name for end in parent.exits],
        temperatures=[end.temperature for end in parent.exits],
        reference=lambda x: run(whole, x),
        noise=noise,
        origin=Origin(parent.name, "quantize", settings),
    )
