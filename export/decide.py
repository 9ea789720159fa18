"""The decision of each exit, computed in the graph: a score in [0, 1] and the label."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ..errors import unknown
from .capture import BATCH


class Head(NamedTuple):
    """The three outputs of an exit: logits (batch, classes), score float32 (batch,), label int64 (batch,)."""

    logits: ir.Value
    score: ir.Value
    label: ir.Value


def max_softmax(tape: ir.tape.Tape, logits: ir.Value, opset: int) -> ir.Value:
    """The largest softmax probability, as in MSDNet (arXiv 1703.09844)."""
    return _reduce(tape, "ReduceMax", tape.op("Softmax", [logits], {"axis": -1}), opset)


RULES: dict[str, Callable[[ir.tape.Tape, ir.Value, int], ir.Value]] = {"max_softmax": max_softmax}
"""The rules by name; each adds nodes that turn logits (batch, classes) into a score (batch,)."""


def add_decisions(model: ir.Model, logits: dict[str, ir.Value], rule: str) -> list[Head]:
    """Add score and label to every exit and make all three the graph's outputs, named `<exit>.logits` and so on.

    Raises:
        UsageError: the rule is unknown.
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    graph, opset = model.graph, model.graph.opset_imports[""]
    tape = ir.tape.Tape(graph)
    heads = []
    for value in logits.values():
        if value.dtype != ir.DataType.FLOAT:  # the runtime reads float32, whatever the network computes in
            shape = value.shape
            value = tape.op("Cast", [value], {"to": ir.DataType.FLOAT})
            value.dtype, value.shape = ir.DataType.FLOAT, shape
        score = RULES[rule](tape, value, opset)
        label = tape.op("ArgMax", [value], {"axis": -1, "keepdims": 0})
        score.dtype, score.shape = ir.DataType.FLOAT, ir.Shape([BATCH])
        label.dtype, label.shape = ir.DataType.INT64, ir.Shape([BATCH])
        heads.append(Head(value, score, label))
    _name_outputs(graph, dict(zip(logits, heads, strict=True)))
    graph.outputs[:] = [value for head in heads for value in head]
    return heads


def _reduce(tape: ir.tape.Tape, op: str, value: ir.Value, opset: int) -> ir.Value:
    """Reduce the last axis away; the axes became an input with opset 18 (ONNX operator changelog)."""
    if opset < 18:
        return tape.op(op, [value], {"axes": [-1], "keepdims": 0})
    axes = tape.initializer(ir.tensor(np.array([-1], np.int64)), name=f"offramp.axes.{value.name}")
    return tape.op(op, [value, axes], {"keepdims": 0})


def _name_outputs(graph: ir.Graph, heads: dict[str, Head]) -> None:
    """Name the outputs, renaming any value of the network that is called the same."""
    ours = {f"{exit_}.{part}": value for exit_, head in heads.items() for part, value in head._asdict().items()}
    values = [*graph.inputs, *graph.initializers.values(), *(o for node in graph.all_nodes() for o in node.outputs)]
    taken = {value.name for value in values}
    for value in values:
        if value.name in ours and value is not ours[value.name]:
            while (name := f"{value.name}_") in taken:
                value.name = name
            value.name = name
            taken.add(name)
    for name, value in ours.items():
        value.name = name
