"""Half precision."""

from pathlib import Path

import onnx_ir as ir

from ...errors import require
from ..graph.edits import bypass, nodes_to_products


def _halve(plain: Path) -> ir.Model:
    """Convert all but inputs, outputs and decisions to half precision."""
    onnx = require("onnx", extra="onnx")
    require("onnxruntime", extra="onnx")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = ir.load(plain).graph
    inside = nodes_to_products(graph)
    left = [str(node.name) for node in graph if node not in inside]
    halved: ir.Model = ir.from_proto(
        convert_float_to_float16(onnx.load(plain), keep_io_types=True, node_block_list=left)
    )
    for node in halved.graph:  # it casts to and fro between nodes that are left as they are
        value = node.inputs[0] if node.op_type == "Cast" else None
        if value is None or node.attributes.get_int("to", 0) != ir.DataType.FLOAT:
            continue
        source = value.producer()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            bypass(halved.graph, node, value)
        elif source is not None and source.op_type == "Cast" and source.inputs[0] is not None:
            is_added = (
                source.attributes.get_int("to", 0) == ir.DataType.FLOAT16
            )  # the parent, in fp32, has no such casts
            if is_added:
                bypass(halved.graph, node, source.inputs[0])
    return halved
