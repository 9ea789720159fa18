"""Which integer inputs of a network are indices into a table, as tokens are into an embedding."""

import onnx_ir as ir

__all__ = ["find_table_rows"]

KEEPS_VALUES = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that hand on every value of their first input."""

WIDE = {ir.DataType.INT32, ir.DataType.INT64}
"""What indices are cast to without becoming others."""


def find_table_rows(graph: ir.Graph) -> dict[str, int]:
    """Return by input how many rows the smallest table has into which all of its values are indices: {"tokens": 30522}.

    Engines for accelerators, and OpenVINO, read something for an index beyond the table; only ONNX Runtime on the CPU refuses it.
    """
    rows = {}
    for value in graph.inputs:
        if value.dtype is not None and value.dtype.is_integer():
            sizes = [size for table in _tables_read(graph, value) if (size := _rows_of(*table)) is not None]
            if sizes:
                rows[str(value.name)] = min(sizes)
    return rows


def _tables_read(graph: ir.Graph, indices: ir.Value) -> list[tuple[ir.Value, int]]:
    """Return the tables that are read at every value of an input, and the axis that it is an index of."""
    tables, stack, seen = [], [indices], set[ir.Value]()
    while stack:
        value = stack.pop()
        seen.add(value)
        for node, place in value.uses():
            if node.graph is not graph or node.domain not in ("", "ai.onnx"):
                continue  # what stands in a branch may not run
            if node.op_type == "Gather" and place == 1 and node.inputs[0] is not None:
                axis = node.attributes.get("axis")
                tables.append((node.inputs[0], 0 if axis is None else axis.as_int()))
            elif node.op_type in KEEPS_VALUES and place == 0:
                to = node.attributes.get("to")
                if to is None or ir.DataType(to.as_int()) in WIDE:
                    stack += [output for output in node.outputs if output not in seen]
    return tables


def _rows_of(table: ir.Value, axis: int) -> int | None:
    shape = table.const_value.shape if table.const_value is not None else table.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) and size > 0 else None
