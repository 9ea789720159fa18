"""Multiply-accumulates of a graph's nodes for one sample."""

import math
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from .axes import BATCH
from .shapes import infer_shapes, static_shape

MULTIPLIES = (
    "Attention",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "DeformConv",
    "Einsum",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "GRU",
    "Gemm",
    "If",
    "LSTM",
    "Loop",
    "MatMul",
    "MatMulInteger",
    "MatMulNBits",
    "MultiHeadAttention",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
    "Scan",
)
"""Operators that multiply matrices or may contain such a product. `count_macs` knows some of them only."""

RECURRENT = ("GRU", "LSTM", "RNN")

Shape = tuple[int, ...]
"""A shape at batch 1, every axis known."""


def count_macs(
    model: ir.Model,
    sizes: Mapping[str, int],
    measure: Callable[[Sequence[str]], Mapping[str, Shape]] | None = None,
) -> dict[str, int]:
    """Count the multiply-accumulates of convolutions, matrix products and recurrent layers, by node name.

    Every other operator counts 0: its share is small and depends on the engine. Shapes are inferred at batch 1, on a copy. A
    product whose shapes are not known counts 0.

    Args:
        model: the graph.
        sizes: the size of each named axis.
        measure: returns the shapes of values by name. It is asked for those that inference leaves unknown, once if at all.
    """
    single, fixed = model.clone(), {BATCH: 1, **sizes}
    for value in single.graph.inputs:
        assert value.shape is not None
        axes = [axis if isinstance(axis, int) else axis.value for axis in value.shape]
        value.shape = ir.Shape([fixed.get(axis, axis) if isinstance(axis, str) else axis for axis in axes])
    infer_shapes(single)
    read = {value: static_shape(value) for node in single.graph for value in _values_counted(node)}
    unknown = [str(value.name) for value, shape in read.items() if shape is None]
    measured = measure(unknown) if measure is not None and unknown else {}
    shapes = {value: shape or measured.get(str(value.name)) for value, shape in read.items()}
    return {str(node.name): _count_node(node, shapes) for node in single.graph}


def _values_counted(node: ir.Node) -> list[ir.Value]:
    """Return the values whose shapes say how much a product multiplies: its operands and its output."""
    if node.op_type not in MULTIPLIES:
        return []
    values = [node.inputs[i] if i < len(node.inputs) else None for i in _operands(node)]
    values += [] if node.op_type in RECURRENT else [node.outputs[0]]
    return [value for value in values if value is not None and value.name]


def _operands(node: ir.Node) -> tuple[int, ...]:
    """Return the positions of the inputs that are multiplied."""
    if node.op_type in ("QLinearConv", "QLinearMatMul"):  # each operand is followed by its scale and zero point
        return (0, 3)
    return (0, 1, 2) if node.op_type in RECURRENT else (0, 1)


def _count_node(node: ir.Node, shapes: Mapping[ir.Value, Shape | None]) -> int:
    inputs = [node.inputs[i] if i < len(node.inputs) else None for i in _operands(node)]
    left, right, *more = (None if value is None else shapes.get(value) for value in [*inputs, None])
    out = shapes.get(node.outputs[0])
    if not left or not right:
        return 0
    if node.op_type in RECURRENT:  # every step multiplies by the input weights and by the recurrent ones
        steps = left[1 if node.attributes.get_int("layout", 0) else 0]
        return steps * (math.prod(right) + (math.prod(more[0]) if more[0] else 0))
    if out is None:
        return 0
    match node.op_type:
        case (
            "Conv" | "ConvInteger" | "DeformConv" | "FusedConv" | "QLinearConv"
        ):  # the kernel is (out, in / groups, ...)
            return math.prod(out) * math.prod(right[1:])
        case "ConvTranspose":  # the kernel is (in, out / groups, ...)
            return math.prod(left) * math.prod(right[1:])
        case "Gemm" | "FusedGemm":
            return math.prod(out) * (left[0] if node.attributes.get_int("transA", 0) else left[1])
        case "FusedMatMul":
            return math.prod(out) * left[-2 if node.attributes.get_int("transA", 0) else -1]
        case "MatMul" | "MatMulInteger" | "QLinearMatMul":
            return math.prod(out) * left[-1]
        case "MatMulNBits":
            return math.prod(out) * node.attributes.get_int("K", 0)
        case "Einsum":
            return _count_einsum(node.attributes.get_string("equation", ""), left, right)
        case "Attention" | "MultiHeadAttention" if node.op_type != "Attention" or node.domain == "":
            return (math.prod(left) + math.prod(out)) * right[-2]  # queries by keys, then their shares by values
        case _:
            return 0


def _count_einsum(equation: str, left: Shape, right: Shape) -> int:
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if "." in equation or [len(term) for term in terms] != [len(left), len(right)]:
        return 0
    return math.prod({**dict(zip(terms[0], left, strict=True)), **dict(zip(terms[1], right, strict=True))}.values())
