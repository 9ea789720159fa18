"""Half precision: convert a graph's weights and values to float16; logits and decisions stay in float32."""

from pathlib import Path

import onnx_ir as ir

from ...errors import require
from ..graph.edits import bypass_node, nodes_up_to_products

__all__ = ["convert_to_half"]


def convert_to_half(plain: Path) -> ir.Model:
    """Convert a graph to half precision.

    Inputs, outputs and the nodes behind the last product (the decisions) stay in float32.

    Args:
        plain: the file of the whole graph, in fp32.
    """
    onnx = require("onnx", extra="onnx")
    require("onnxruntime", extra="onnx")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = ir.load(plain).graph
    converted = nodes_up_to_products(graph)
    left = [str(node.name) for node in graph if node not in converted]
    model: ir.Model = ir.from_proto(
        convert_float_to_float16(onnx.load(plain), keep_io_types=True, node_block_list=left)
    )
    _remove_double_casts(model.graph)
    return model


def _remove_double_casts(graph: ir.Graph) -> None:
    """Remove the casts to float16 and back that the converter puts between two nodes that stay in float32."""
    for node in graph:
        value = node.inputs[0] if node.op_type == "Cast" else None
        if value is None or node.attributes.get_int("to", 0) != ir.DataType.FLOAT:
            continue
        source = value.producer()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            bypass_node(graph, node, value)
        elif source is not None and source.op_type == "Cast" and source.inputs[0] is not None:
            to_half = source.attributes.get_int("to", 0) == ir.DataType.FLOAT16
            if to_half:  # the converter's own: the network was in fp32 and has no such cast
                bypass_node(graph, node, source.inputs[0])
