"""Small edits of a graph. New nodes are recorded on a tape (`onnx_ir.tape.Tape`), then put into the graph together."""

import numpy as np
import onnx_ir as ir

from .macs import MULTIPLIES
from .walk import ancestors

__all__ = ["bypass", "constant", "insert_tape", "nodes_to_products", "reduce"]


def constant(tape: ir.tape.Tape, value: "float | int | list[int]", name: str | None = None) -> ir.Value:
    """Record a constant: float32 for a float, int64 for a whole number or a list of them."""
    array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
    result = tape.op("Constant", [], {"value": ir.tensor(array)})
    if name is not None:
        result.name, result.dtype, result.shape = name, ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
    return result


def reduce(tape: ir.tape.Tape, operator: str, value: ir.Value, opset: int) -> ir.Value:
    """Record a reduction over the last axis, which is dropped: (batch, classes) -> (batch,).

    The axes are an input since opset 13 for ReduceSum and since opset 18 for the others (ONNX changelog); before, an attribute.
    """
    if opset < (13 if operator == "ReduceSum" else 18):
        return tape.op(operator, [value], {"axes": [-1], "keepdims": 0})
    return tape.op(operator, [value, constant(tape, [-1])], {"keepdims": 0})


def insert_tape(graph: ir.Graph, tape: ir.tape.Tape, before: ir.Node | None = None) -> None:
    """Put recorded nodes and their initializers into a graph, before a node or, without one, at the start."""
    graph.insert_before(next(iter(graph)) if before is None else before, tape.nodes)
    for initializer in tape.initializers:
        graph.register_initializer(initializer)


def nodes_to_products(graph: ir.Graph, *, themselves: bool = True) -> set[ir.Node]:
    """Return the network's products (convolutions, matrix products) and every node before them.

    Left out are the exits' decisions and all else that follows the last product. Without `themselves`, a product counts only if
    another one follows it.
    """
    products = [node for node in graph if node.op_type in MULTIPLIES]
    before = set().union(*(ancestors(value) for node in products for value in node.inputs if value is not None))
    return before.union(products) if themselves else before


def bypass(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Remove a node and let its readers read another value. If the node made an output of the graph, `value` takes its name."""
    output = node.outputs[0]
    is_graph_output = output in graph.outputs
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    if is_graph_output:
        value.name, output.name = output.name, f"{output.name}.rounded"
        value.type, value.shape = output.type, output.shape
    graph.remove(node, safe=True)
