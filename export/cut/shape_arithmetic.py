"""Shape arithmetic that holds after the graph is cut.

A shape read from a tensor in one stage is wrong in the next: samples may have left the batch. So each entry of a shape becomes
one of three, as in (batch size, length, 64) for tokens:

- a constant;
- the batch size, which every stage reads from a tensor of its own;
- a length, which stays the same on the way and crosses the cut as a small tensor.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ..graph.edits import insert_tape
from .boundaries import ProbedValue

BATCH_SIZE = "offramp.batch_size"
"""The value, int64 (1,), that holds the batch size."""

LENGTH = "offramp.length"
"""How names of values that hold a length begin. Each length is read once, in the stage that has the tensor."""


def read_batch_size(tape: ir.tape.Tape, value: ir.Value, axis: int) -> ir.Value:
    """Add nodes that read the batch size off a tensor's axis."""
    size = _read_size(tape, value, axis, "offramp.batch_axis")
    size.name = BATCH_SIZE
    return size


def rewrite_shapes(
    model: ir.Model, run: Callable[[Sequence[ir.Value]], list[ProbedValue]], batch_axis: int
) -> ir.Value | None:
    """Replace every Shape node whose entries are constants, the batch size, or lengths.

    Args:
        model: the graph.
        run: returns some values of the graph at several sizes.
        batch_axis: the batch axis of its first input.

    Returns:
        The value that holds the batch size; None if no node was replaced.
    """
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "Shape" and node.domain == ""]
    tape = ir.tape.Tape()
    size = read_batch_size(tape, graph.inputs[0], batch_axis)
    replaced = False
    for node, probed in zip(nodes, run([node.outputs[0] for node in nodes]), strict=True):
        kinds = [_classify_entry(i, probed) for i in range(len(probed.two))]
        if not kinds or None in kinds:
            continue
        (source,), (result,) = node.inputs, node.outputs
        assert source is not None
        local = ir.tape.Tape()  # a length is read where the tensor is, all else at the start of the graph
        parts = []
        for i, kind in enumerate(kinds):
            name = f"{LENGTH}.{result.name}.{i}"
            if kind == "batch":
                parts.append(size)
            elif kind == "length":  # `start` may count from the end, as Gather's index may
                parts.append(_read_size(local, source, node.attributes.get_int("start", 0) + i, f"{name}.axis"))
                parts[-1].name = name
            else:
                parts.append(tape.initializer(ir.tensor(np.array([probed.two[i]], np.int64)), name=name))
        new = local.op("Concat", parts, {"axis": 0})
        new.dtype, new.shape = ir.DataType.INT64, ir.Shape([len(parts)])
        insert_tape(graph, local, before=node)
        result.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        replaced = True
    if not replaced:
        return None
    insert_tape(graph, tape)
    return size


def is_length(value: ir.Value) -> bool:
    """Tell whether a value is a length that was read off a tensor."""
    node = value.producer()
    return str(value.name).startswith(f"{LENGTH}.") and node is not None and node.op_type == "Gather"


def _classify_entry(i: int, shape: ProbedValue) -> str | None:
    """Tell whether entry i of a shape is `constant`, `batch` or `length`; None if it mixes the batch with something else."""
    two, three = int(shape.two[i]), int(shape.three[i])
    changes = any(int(other[i]) != two for other in shape.others)
    if two == three:
        return "length" if changes else "constant"
    return "batch" if (two, three) == (2, 3) and not changes else None


def _read_size(tape: ir.tape.Tape, value: ir.Value, axis: int, name: str) -> ir.Value:
    index = tape.initializer(ir.tensor(np.array([axis], np.int64)), name=name)
    size = tape.op("Gather", [tape.op("Shape", [value]), index], {"axis": 0})
    size.dtype, size.shape = ir.DataType.INT64, ir.Shape([1])
    return size
