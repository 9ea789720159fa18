"""Which nodes of a graph compute in int8, and which lose too much in 8 bits and stay in float."""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from ..graph.edits import nodes_up_to_products
from ..graph.macs import MULTIPLIES

__all__ = ["QUANTISED_OPERATORS", "choose_int8_nodes"]

MOVES = (
    *("Concat", "Flatten", "Gather", "Pad", "Reshape", "Resize"),
    *("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators that take values elsewhere."""

QUANTISED_OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul"),
    *("AveragePool", "GlobalAveragePool", "MaxPool", "Clip", "LeakyRelu", "Relu"),
    *MOVES,
)
"""Operators that compute in int8. Normalisations and exponentials (Softmax, Exp, ...) lose too much in 8 bits."""

KEEPS_SMALL = (*QUANTISED_OPERATORS, "Abs", "Sqrt")
"""Operators behind which a small value is still small."""

NORMALISES = (
    *("GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"),
    "SimplifiedLayerNormalization",
)

LEAST_MASK = 1e4
"""A constant with an absolute value of at least this is a mask: added to attention scores, it switches them off."""

MASKS = ("Add", "Expand", "Max", "Mul", "Sub", "Where", *MOVES)
"""Operators whose output is masked if an input is."""


def choose_int8_nodes(graph: ir.Graph, *, float_heads: bool, float_biases: bool) -> list[str]:
    """Return the names of the nodes that shall compute in int8.

    Args:
        graph: the whole graph, sorted.
        float_heads: leave out the products that make the exits' answers.
        float_biases: biases are not quantised.
    """
    candidates = nodes_up_to_products(graph, include_products=not float_heads)
    candidates -= _find_divisors(graph) | _find_normalised_sums(graph) | _find_masked(graph)
    candidates -= {node for node in graph if _chooses(node)}
    return [
        str(node.name)
        for node in graph
        if node in candidates and node.op_type in QUANTISED_OPERATORS and (float_biases or not _has_grouped_bias(node))
    ]


def _find_masked(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that read a mask, and those behind that add to what it masks or move it: their ranges are the mask's."""
    found: set[ir.Node] = set()
    masked: set[ir.Value] = set()
    for node in graph:
        is_masked = node.op_type in MASKS and not masked.isdisjoint(node.inputs)
        if is_masked or _reads_mask(node):
            found.add(node)
            masked.update(node.outputs if node.op_type in MASKS else ())
    return found


def _reads_mask(node: ir.Node) -> bool:
    """Tell whether a constant input is a mask, such as one of minus infinity: in its range, 8 bits tell nothing else apart."""
    arrays = [value.const_value.numpy() for value in node.inputs if value is not None and value.const_value is not None]
    return any(a.dtype.kind == "f" and a.size and not (np.abs(a) < LEAST_MASK).all() for a in arrays)


def _chooses(node: ir.Node) -> bool:
    """Tell whether a product takes probabilities of some labels for those of others: in 8 bits the small ones would all be 0."""
    maker = node.inputs[0].producer() if node.op_type == "MatMul" and node.inputs[0] is not None else None
    table = node.inputs[1].const_value if maker is not None and node.inputs[1] is not None else None
    return (
        maker is not None
        and maker.op_type == "Softmax"
        and table is not None
        and bool(np.isin(table.numpy(), (0, 1)).all())
    )


def _find_divisors(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that make what others divide by, back to the product that it comes from.

    In 8 bits a small divisor is rounded to 0: linear attention, which divides by a sum of weights, then loses nearly everything.
    """
    return _find_makers((node.inputs[-1] for node in graph if node.op_type in ("Div", "Reciprocal")), KEEPS_SMALL)


def _find_normalised_sums(graph: ir.Graph) -> set[ir.Node]:
    """Return the sums that a normalisation reads, back to the products that they add up.

    The sum over a transformer's blocks has some channels or tokens far larger than all others, which decide its range. What 8
    bits leave of the others is what the normalisation makes large (FQ-ViT, arXiv 2111.13824).
    """
    found: set[ir.Node] = set()
    values: list[ir.Value | None] = []
    for node in graph:
        makers = [value.producer() if value is not None else None for value in node.inputs]
        if node.op_type in NORMALISES:
            values.append(node.inputs[0])
        elif node.op_type == "Mul" and any(maker is not None and maker.op_type == "Reciprocal" for maker in makers):
            found.add(node)
            values += node.inputs
        elif node.op_type == "ReduceMean" and node.inputs[0] is not None:
            square = makers[0]
            if any(reader.op_type == "Sub" for reader in node.inputs[0].consumers()):
                values.append(node.inputs[0])
            elif square is not None and _is_square(square):
                found.add(square)
                values.append(square.inputs[0])
    return found | _find_makers(values, ("Add", *MOVES))


def _is_square(node: ir.Node) -> bool:
    return node.op_type == "Pow" or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])


def _find_makers(values: Iterable[ir.Value | None], operators: Sequence[str]) -> set[ir.Node]:
    """Return the nodes that make values, and so on back while they are of these operators; what a product reads is left out."""
    found: set[ir.Node] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        node = value.producer() if value is not None else None
        if node is not None and node not in found and node.op_type in operators:
            found.add(node)
            todo += [] if node.op_type in MULTIPLIES else node.inputs
    return found


def _has_grouped_bias(node: ir.Node) -> bool:
    """Tell whether a node is a transposed convolution with groups and a bias.

    Its weights have a scale for each channel of a group, which are fewer than the bias has values.
    """
    return node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1 and len(node.inputs) > 2
