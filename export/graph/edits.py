"""Small edits of a graph."""

import onnx_ir as ir

from .macs import MULTIPLIES
from .walk import ancestors

__all__ = ["bypass_node", "nodes_up_to_products"]


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
