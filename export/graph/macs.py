"""Multiply-accumulates of a graph's nodes for one sample."""

import math
from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from .axes import BATCH

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


def count_macs(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, int]:
    """Count the multiply-accumulates of convolutions, matrix products and recurrent layers, by node name.

    Every other operator counts 0: its share is small and depends on the engine. Shapes are inferred at batch 1, on a copy. A
    node whose shapes cannot be inferred counts 0.

    Args:
        model: the graph.
        sizes: the size of each named axis.
    """
    single, fixed = model.clone(), {BATCH: 1, **sizes}
    for value in single.graph.inputs:
        assert value.shape is not None
        axes = [axis if isinstance(axis, int) else axis.value for axis in value.shape]
        value.shape = ir.Shape([fixed.get(axis, axis) if isinstance(axis, str) else axis for axis in axes])
    for node in single.graph:
        for output in node.outputs:
            output.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False)(single)
    return {str(node.name): _count_node(node) for node in single.graph}


def _count_node(node: ir.Node) -> int:
    shapes = [_static_shape(value) for value in [*node.inputs[:3], node.outputs[0]]]
    left, right, out = (shapes[i] if i < len(shapes) else None for i in (0, 1, -1))
    if left is None or right is None:
        return 0
    if node.op_type in ("GRU", "LSTM", "RNN"):  # every step multiplies by the input weights and by the recurrent ones
        return left[0] * (math.prod(right) + (math.prod(shapes[2]) if shapes[2] else 0))
    if out is None:
        return 0
    match node.op_type:
        case "Conv":  # the kernel is (out, in / groups, ...)
            return math.prod(out) * math.prod(right[1:])
        case "ConvTranspose":  # the kernel is (in, out / groups, ...)
            return math.prod(left) * math.prod(right[1:])
        case "Gemm":
            return math.prod(out) * (left[0] if node.attributes.get_int("transA", 0) else left[1])
        case "MatMul":
            return math.prod(out) * left[-1]
        case _:
            return 0


def _static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(axis) for axis in value.shape)  # type: ignore[arg-type]
