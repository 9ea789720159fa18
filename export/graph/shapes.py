"""Shapes and types of a graph's values, inferred from the shapes of its inputs."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

__all__ = ["infer_shapes", "is_tensor", "name_squeezed_axes", "static_shape"]

MAKE_NO_TENSORS = (
    "Optional",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceMap",
    "SplitToSequence",
)
"""Operators whose outputs are sequences or optionals."""

AXES_ARE_INPUTS_OPSET = 13
"""The first opset whose Squeeze takes its axes as an input (ONNX changelog)."""


def infer_shapes(model: ir.Model) -> None:
    """Infer every shape anew from the shapes of the inputs. Sequences and optionals keep their types."""
    nodes = [node for graph in model.graphs() for node in graph]
    others = {value: value.type for node in nodes for value in node.outputs if not is_tensor(value)}
    others |= {v: v.type for graph in model.graphs() for v in graph.inputs if not is_tensor(v)}
    for node in model.graph:
        for output in node.outputs:
            output.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    for value, type_ in others.items():  # the pass takes them for tensors
        value.type, value.shape = type_, None


def name_squeezed_axes(model: ir.Model) -> None:
    """Let every Squeeze that names no axes drop those alone that are 1 for every batch: of one sample it would drop the batch."""
    for node in [node for graph in model.graphs() for node in graph if node.op_type == "Squeeze" and node.domain == ""]:
        source = node.inputs[0]
        if source is None or source.shape is None or node.inputs[1:2] not in ((), (None,)) or "axes" in node.attributes:
            continue
        axes = [axis for axis, size in enumerate(source.shape) if size == 1]
        if model.graph.opset_imports[""] < AXES_ARE_INPUTS_OPSET:
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)
            continue
        named = ir.node("Constant", [], {"value": ir.tensor(np.array(axes, np.int64))})
        node.graph.insert_before(node, named)  # type: ignore[union-attr]
        node.resize_inputs(2)
        node.replace_input_with(1, named.outputs[0])


def is_tensor(value: ir.Value) -> bool:
    """Return False for a sequence or an optional: its type says so, or the node that makes it."""
    if isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
        return False
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:  # a file may have thousands
        value = node.inputs[0]
        if isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
            return False
        node = value.producer()
    if node is None or node.op_type in MAKE_NO_TENSORS:
        return node is None
    position = node.outputs.index(value)
    if node.op_type == "If":
        return is_tensor(node.attributes["then_branch"].as_graph().outputs[position])
    if node.op_type == "Loop":  # the body's first output says whether to go on
        return is_tensor(node.attributes["body"].as_graph().outputs[position + 1])
    return True


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return a value's shape if every axis is known, else None."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(axis) for axis in value.shape)  # type: ignore[arg-type]
