"""Small edits of a graph."""

import onnx_ir as ir

from .macs import MULTIPLIES
from .walk import ancestors


def nodes_to_products(graph: ir.Graph, *, themselves: bool = True) -> set[ir.Node]:
    """Return the products of the network and what lies before them: not the decisions, nor what else follows the last one.

    Without `themselves` a product is left out unless another one follows it.
    """
    products = [node for node in graph if node.op_type in MULTIPLIES]
    before = set().union(*(ancestors(value) for node in products for value in node.inputs if value is not None))
    return before.union(products) if themselves else before


def bypass(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let what reads a node's output read another value instead, which takes its name if it is an output of the graph."""
    gone = node.outputs[0]
    is_output = gone in graph.outputs
    gone.replace_all_uses_with(value, replace_graph_outputs=True)
    if is_output:
        value.name, gone.name = gone.name, f"{gone.name}.rounded"
        value.type, value.shape = gone.type, gone.shape
    graph.remove(node, safe=True)
