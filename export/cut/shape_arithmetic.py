"""Shape arithmetic made to survive the cut.

A shape that is read from a tensor in one stage is wrong in the next once samples have left the batch. So every shape is
written as constants, the batch size, which each stage can read from a tensor of its own, and lengths, which do not change on the
way and cross the cut as small tensors.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from .boundaries import ProbedValue

BATCH_SIZE = "offramp.batch_size"
"""The value, int64 (1,), that holds the batch size."""

LENGTH = "offramp.length"
"""How the values are named that hold a length; each is read once, in the stage that has the tensor."""


def read_batch_size(tape: ir.tape.Tape, value: ir.Value, axis: int) -> ir.Value:
    """Add nodes that read the batch size off a tensor's axis."""
    size = _read_size(tape, value, axis, "offramp.batch_axis")
    size.name = BATCH_SIZE
    return size


def rewrite_shapes(
    model: ir.Model, probe: Callable[[Sequence[ir.Value]], list[ProbedValue]], batch_axis: int
) -> ir.Value | None:
    """Replace every Shape node whose entries are constants, the batch size, or lengths.

    Args:
        model: the graph.
        probe: runs it at several sizes up to some values.
        batch_axis: of its first input.

    Returns:
        The batch size, or None where no such node was.
    """
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "Shape" and node.domain == ""]
    tape = ir.tape.Tape()
    size = read_batch_size(tape, graph.inputs[0], batch_axis)
    replaced = False
    for node, seen in zip(nodes, probe([node.outputs[0] for node in nodes]), strict=True):
        kinds = [_kind(i, seen) for i in range(len(seen.two))]
        if not kinds or None in kinds:
            continue
        (source,), (result,) = node.inputs, node.outputs
        assert source is not None
        own = ir.tape.Tape()  # a length is read where the tensor is, all else at the start of the graph
        parts = []
        for i, kind in enumerate(kinds):
            name = f"{LENGTH}.{result.name}.{i}"
            if kind == "batch":
                parts.append(size)
            elif kind == "length":  # `start` may count from the end, as Gather's index may
                parts.append(_read_size(own, source, node.attributes.get_int("start", 0) + i, f"{name}.axis"))
                parts[-1].name = name
            else:
                parts.append(tape.initializer(ir.tensor(np.array([seen.two[i]], np.int64)), name=name))
        new = own.op("Concat", parts, {"axis": 0})
        new.dtype, new.shape = ir.DataType.INT64, ir.Shape([len(parts)])
        graph.insert_before(node, own.nodes)
        for initializer in own.initializers:
            graph.register_initializer(initializer)
        result.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        replaced = True
    if not replaced:
        return None
    graph.insert_before(next(iter(graph)), tape.nodes)
    for initializer in tape.initializers:
        graph.register_initializer(initializer)
    return size


def is_length(value: ir.Value) -> bool:
    """Tell whether a value is a length that was read off a tensor."""
    node = value.producer()
    return str(value.name).startswith(f"{LENGTH}.") and node is not None and node.op_type == "Gather"


def _kind(i: int, seen: ProbedValue) -> str | None:
    """Tell what an entry of a shape is; None where it mixes the batch with something."""
    two, three = int(seen.two[i]), int(seen.three[i])
    longer = any(int(other[i]) != two for other in seen.others)
    if two == three:
        return "length" if longer else "constant"
    return "batch" if (two, three) == (2, 3) and not longer else None


def _read_size(tape: ir.tape.Tape, value: ir.Value, axis: int, name: str) -> ir.Value:
    index = tape.initializer(ir.tensor(np.array([axis], np.int64)), name=name)
    size = tape.op("Gather", [tape.op("Shape", [value]), index], {"axis": 0})
    size.dtype, size.shape = ir.DataType.INT64, ir.Shape([1])
    return size
