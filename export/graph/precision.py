"""What a graph computes in."""

import onnx_ir as ir

from ...bundle.manifest import Precision

QUANTISING_OPERATORS = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")


def find_precision(model: ir.Model, logits: ir.DataType | None) -> Precision:
    """Return what a network computes in; `logits` is the type of its logits.

    `fp16` is a network with any value or weight in half precision.
    """
    if is_quantised(model):
        return "int8"
    values = [output for node in model.graph for output in node.outputs]
    if any(value.dtype == ir.DataType.FLOAT16 for value in [*values, *model.graph.initializers.values()]):
        return "fp16"
    return "fp64" if logits == ir.DataType.DOUBLE else "fp32"


def is_quantised(model: ir.Model) -> bool:
    """Tell whether a graph computes with quantised values."""
    return any(node.op_type in QUANTISING_OPERATORS for node in model.graph)
