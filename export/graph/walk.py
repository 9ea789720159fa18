"""Walks through a graph along its values, into branches and loops too."""

from collections.abc import Iterable, Iterator

import onnx_ir as ir


def ancestors(value: ir.Value) -> set[ir.Node]:
    """Return every node that a value depends on."""
    nodes: set[ir.Node] = set()
    stack = [value]
    while stack:
        node = stack.pop().producer()
        if node is not None and node not in nodes:
            nodes.add(node)
            stack += values_read(node)
    return nodes


def values_read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values of its own graph that a node reads, also those that only its branches and loops read."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        for inner in subgraphs(attribute):
            for deep in inner.all_nodes():
                yield from (v for v in deep.inputs if v is not None and v.graph is node.graph)
            for graph in [inner, *(g for n in inner.all_nodes() for a in n.attributes.values() for g in subgraphs(a))]:
                yield from (v for v in graph.outputs if v.graph is node.graph)


def name_producers(*values: ir.Value) -> tuple[str, ...]:
    """Return the names of the nodes that make values, for an error's `nodes`; inputs of the graph have none."""
    return tuple(str(node.name) for value in values if (node := value.producer()) is not None)


def subgraphs(attribute: ir.Attr) -> Iterable[ir.Graph]:
    """Return the graphs in a node's attribute: a branch, a loop's body."""
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else []
