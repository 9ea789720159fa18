"""Shape arithmetic made to survive the cut.

A shape that is read from a tensor in one stage is wrong in the next once samples have left the batch. So every shape is
written as constants and one value, the batch size, which each stage can read from a tensor of its own.
"""

import numpy as np
import onnx_ir as ir

from .capture import BATCH

BATCH_SIZE = "offramp.batch_size"
"""The value, int64 (1,), that holds the batch size."""


def read_batch_size(tape: ir.tape.Tape, value: ir.Value, axis: int) -> ir.Value:
    """Add nodes that read the batch size off a tensor's axis."""
    index = tape.initializer(ir.tensor(np.array([axis], np.int64)), name="offramp.batch_axis")
    size = tape.op("Gather", [tape.op("Shape", [value]), index], {"axis": 0})
    size.dtype, size.shape, size.name = ir.DataType.INT64, ir.Shape([1]), BATCH_SIZE
    return size


def rewrite_shapes(model: ir.Model) -> ir.Value | None:
    """Replace every Shape node whose result is known up to the batch size.

    Returns:
        The batch size, or None where no such node was.
    """
    graph = model.graph
    known = [node for node in graph if node.op_type == "Shape" and node.domain == "" and _is_known(node)]
    if not known:
        return None
    tape = ir.tape.Tape()
    size = read_batch_size(tape, graph.inputs[0], 0)
    for node in known:
        (source,), (result,) = node.inputs, node.outputs
        assert source is not None and source.shape is not None
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(source.shape))
        parts = [_as_value(tape, axis, size, f"{result.name}.{i}") for i, axis in enumerate(source.shape[start:end])]
        new = tape.op("Concat", parts, {"axis": 0})
        new.dtype, new.shape = ir.DataType.INT64, ir.Shape([len(parts)])
        result.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    first = next(iter(graph))
    graph.insert_before(first, tape.nodes)
    for initializer in tape.initializers:
        graph.register_initializer(initializer)
    return size


def _is_known(node: ir.Node) -> bool:
    source = node.inputs[0]
    if source is None or source.shape is None or len(source.shape) == 0:
        return False
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(source.shape))
    axes = source.shape[start:end]
    return len(axes) > 0 and all(isinstance(axis, int) or axis.value == BATCH for axis in axes)


def _as_value(tape: ir.tape.Tape, axis: "int | ir.SymbolicDim", size: ir.Value, name: str) -> ir.Value:
    if isinstance(axis, int):
        return tape.initializer(ir.tensor(np.array([axis], np.int64)), name=f"offramp.{name}")
    return size
