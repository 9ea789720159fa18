"""Stages that are the same computation on the same weights, such as the passes of a loop."""

from typing import Any

import onnx_ir as ir


def same_computation(a: ir.Model, b: ir.Model, makes: tuple[int, int]) -> bool:
    """Tell whether two stages compute the same from their inputs; the names of their values do not count.

    Args:
        a, b: the stages.
        makes: how many of each one's first outputs are for later stages; `b` may make fewer.
    """
    return bool(_describe_graph(a.graph, makes[1], makes[0]) == _describe_graph(b.graph, makes[1], makes[1]))


def _describe_graph(graph: ir.Graph, compared: int, makes: int) -> Any:
    """Describe a graph by operators, attributes, weights and wiring. Of its first `makes` outputs, `compared` are described."""
    numbers: dict[ir.Value, Any] = {value: ("input", i) for i, value in enumerate(graph.inputs)}
    for value in graph.initializers.values():
        numbers[value] = _describe_weight(value.const_value)
    nodes = []
    for i, node in enumerate(graph):
        attributes = sorted((name, _describe_attribute(attribute)) for name, attribute in node.attributes.items())
        if any(text is None for _, text in attributes):
            return object()  # control flow is not compared: such stages count as different
        nodes.append((node.domain, node.op_type, attributes, [None if v is None else numbers[v] for v in node.inputs]))
        numbers |= {value: (i, j) for j, value in enumerate(node.outputs)}
    outputs = list(graph.outputs)
    return nodes, [numbers[value] for value in [*outputs[:compared], *outputs[makes:]]]


def _describe_weight(tensor: Any) -> Any:
    if isinstance(tensor, ir.ExternalTensor):
        return str(tensor.location), tensor.offset, tensor.length, tensor.dtype, tuple(tensor.shape)
    return tensor.dtype, tuple(tensor.shape), tensor.tobytes()


def _describe_attribute(attribute: ir.Attr) -> str | None:
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return None
    if attribute.type == ir.AttributeType.TENSOR:
        return repr(_describe_weight(attribute.value))
    return repr(attribute.value)
