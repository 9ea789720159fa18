"""What a graph computes in."""

import onnx_ir as ir

from ...bundle.manifest import Precision

QUANTISING_OPERATORS = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")


MOVING_OPERATORS = (
    *("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Tile"),
    *("Transpose", "Unsqueeze"),
)
"""Operators that compute nothing of values, but put them elsewhere."""


def find_precision(model: ir.Model, logits: ir.DataType | None) -> Precision:
    """Return what a network computes in; `logits` is the type of its logits, or of the first part of its answer.

    `fp16` is a network with a weight in half precision, or a node that computes of values in it; `fp64` one whose logits come of
    values in double precision. How an output is only stored decides nothing.
    """
    if is_quantised(model):
        return "int8"
    weights = [*model.graph.initializers.values()]
    weights += [node.outputs[0] for node in model.graph if node.op_type == "Constant"]
    computed = [
        value
        for node in model.graph
        if node.op_type not in MOVING_OPERATORS
        for value in node.inputs
        if not (node.op_type == "Cast" and _is_whole(value))
    ]
    kinds = {value.dtype for value in weights + computed if value is not None}
    if ir.DataType.FLOAT16 in kinds:
        return "fp16"
    return "fp64" if logits == ir.DataType.DOUBLE and ir.DataType.DOUBLE in kinds else "fp32"


def _is_whole(value: ir.Value | None) -> bool:
    """Tell whether a value was cast from whole numbers of 8 bits, such as pixels, all of which half precision holds exactly."""
    node = None if value is None else value.producer()
    given = node.inputs[0] if node is not None and node.op_type == "Cast" else None
    return given is not None and given.dtype in (ir.DataType.UINT8, ir.DataType.INT8)


def is_quantised(model: ir.Model) -> bool:
    """Tell whether a graph computes with quantised values."""
    return any(node.op_type in QUANTISING_OPERATORS for node in model.graph)
