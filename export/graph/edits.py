"""Small edits of a graph. New nodes are recorded on a tape (`onnx_ir.tape.Tape`), then put into the graph together."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from .macs import MULTIPLIES
from .walk import ancestors

__all__ = [
    "MOST_DEDUPLICATED_BYTES",
    "bypass_node",
    "constant",
    "extract_graph",
    "insert_tape",
    "nodes_up_to_products",
    "reduce",
]

MOST_DEDUPLICATED_BYTES = 1 << 40
"""Weights up to this size are compared and stored once if they are equal: all of them."""


def constant(tape: ir.tape.Tape, value: "float | int | list[int]", name: str | None = None) -> ir.Value:
    """Record a constant: float32 for a float, int64 for a whole number or a list of them."""
    array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
    result = tape.op("Constant", [], {"value": ir.tensor(array)})
    if name is not None:
        result.name, result.dtype, result.shape = name, ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
    return result


def reduce(
    tape: ir.tape.Tape, operator: str, value: ir.Value, opset: int, *, axis: int = -1, keepdims: bool = False
) -> ir.Value:
    """Record a reduction over one axis, which is dropped unless `keepdims`: (batch, classes) -> (batch,).

    The axes are an input since opset 13 for ReduceSum and since opset 18 for the others (ONNX changelog); before, an attribute.
    """
    if opset < (13 if operator == "ReduceSum" else 18):
        return tape.op(operator, [value], {"axes": [axis], "keepdims": int(keepdims)})
    return tape.op(operator, [value, constant(tape, [axis])], {"keepdims": int(keepdims)})


def insert_tape(graph: ir.Graph, tape: ir.tape.Tape, before: ir.Node | None = None) -> None:
    """Put recorded nodes and their initializers into a graph, before a node or, without one, at the start."""
    graph.insert_before(next(iter(graph)) if before is None else before, tape.nodes)
    for initializer in tape.initializers:
        graph.register_initializer(initializer)


def extract_graph(graph: ir.Graph, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Graph:
    """Copy the part of a graph that makes `outputs` of `inputs`. Its weights stand in the order of their names."""
    part = ir.convenience.extract(graph, inputs, outputs)
    weights = sorted(part.initializers.values(), key=lambda value: str(value.name))  # `extract` holds them in a set
    part.initializers.clear()
    for value in weights:
        part.register_initializer(value)
    return part


def nodes_up_to_products(graph: ir.Graph, *, include_products: bool = True) -> set[ir.Node]:
    """Return the products of a network (convolutions, matrix products, ...) and every node that a product depends on.

    The nodes behind the last product are left out: the decisions, and a bias or activation of the logits.

    Args:
        graph: the whole graph.
        include_products: True takes every product; False only those that another product depends on, so not the products that
            make logits.
    """
    products = [node for node in graph if node.op_type in MULTIPLIES]
    inputs = [value for node in products for value in node.inputs if value is not None]
    before = set().union(*(ancestors(value) for value in inputs))
    return before.union(products) if include_products else before


def bypass_node(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Remove a node: its readers read `value` instead of its output.

    If the output is an output of the graph, `value` becomes that output and takes its name.
    """
    output = node.outputs[0]
    is_output = output in graph.outputs
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    if is_output:
        value.name, output.name = output.name, f"{output.name}.rounded"
        value.type, value.shape = output.type, output.shape
    graph.remove(node, safe=True)
