"""The stages of a chain nested in one another, as branches of `If` nodes.

    stage 0 -> score >= threshold ? its answer
                                  : stage 1 -> score >= threshold ? its answer
                                                                  : stage 2 -> its answer

Every weight lies inside the branch that reads it, biases too: ONNX Runtime optimises a convolution's layout only then, and with
the weights outside the file takes 1.3 to 1.7 times as long.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ..bundle import Variant
from .cut.rules import Head
from .graph.walk import subgraphs

THRESHOLDS = "thresholds"
OUTPUTS = ("label", "score", "exit", "logits")
NAME_PREFIX = "offramp.stage"
"""How the values that are added to a stage are named: the network's own begin with `stage`."""


class _Part(NamedTuple):
    """A stage taken out of its file: its nodes, its weights and its exit's answer."""

    nodes: list[ir.Node]
    weights: list[ir.Value]
    head: Head


def nest_stages(
    stages: Sequence[ir.Model], variant: Variant, names: Sequence[str], thresholds: Sequence[float]
) -> ir.Model:
    """Put every stage into the branch that is taken where the one before was not sure enough.

    Args:
        stages: the graphs of the variant's stages with their weights; they are taken apart.
        variant: what they belong to.
        names: the network's inputs, in order.
        thresholds: the initial values of the input `thresholds`.

    Returns:
        A model whose inputs are the network's with a batch of one, in order, then the thresholds. An input that is called like
        an output or the thresholds has an underscore appended.
    """
    opset = stages[0].graph.opset_imports[""]
    known: dict[str, ir.Value] = {}
    parts = _take_apart(stages, variant, known)
    inputs = [known[name] for name in names if name in known]
    for value in inputs:
        while value.name in (*OUTPUTS, THRESHOLDS, *(other.name for other in inputs if other is not value)):
            value.name = f"{value.name}_"
    limits = ir.Value(name=THRESHOLDS, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([len(thresholds)]))
    limits.const_value = ir.tensor(np.array(thresholds, np.float32), name=THRESHOLDS)
    body, answer = _last_body(parts[-1], len(parts) - 1)
    for k in range(len(parts) - 2, -1, -1):
        body, answer = _branching_body(parts[k], k, body, limits, opset)
    for value, name in zip(answer, OUTPUTS, strict=True):
        value.name = name
    body.inputs[:] = [*inputs, limits]
    body.register_initializer(limits)
    for model in stages:
        body.opset_imports.update(model.graph.opset_imports)
    return ir.Model(body, ir_version=max(model.ir_version for model in stages), producer_name="offramp")


def _take_apart(stages: Sequence[ir.Model], variant: Variant, known: dict[str, ir.Value]) -> list[_Part]:
    """Empty every stage's graph and wire its inputs to what earlier stages made; `known` receives every tensor by name."""
    parts = []
    first: dict[str, int] = {}
    for k, (model, stage) in enumerate(zip(stages, variant.stages, strict=True)):
        graph, owner = model.graph, first.setdefault(stage.file, k)
        outputs = {value.name: value for value in graph.outputs}
        own, exit_ = variant.stages[owner], variant.exits[owner]
        made = {mine.name: tensor.name for mine, tensor in zip(own.outputs, stage.outputs, strict=False)}
        head = Head(outputs[exit_.logits], outputs[exit_.score], outputs[exit_.label])
        _prefix(graph, f"stage{k}.")
        for mine, tensor in zip(list(graph.inputs), stage.inputs, strict=True):
            if tensor.name in known:
                mine.replace_all_uses_with(known[tensor.name])
            else:
                mine.name = tensor.name
                mine.shape = ir.Shape([1 if axis is None else axis for axis in tensor.shape])
                known[tensor.name] = mine
        known |= {name: outputs[mine] for mine, name in made.items()}
        nodes, weights = list(graph), list(graph.initializers.values())
        graph.inputs[:], graph.outputs[:] = [], []
        graph.initializers.clear()
        graph.remove(nodes)
        parts.append(_Part(nodes, weights, head))
    return parts


def _last_body(part: _Part, k: int) -> tuple[ir.Graph, list[ir.Value]]:
    tape = ir.tape.Tape()
    answer = [*_answer(part.head, k, tape)]
    return ir.Graph([], answer, nodes=[*part.nodes, *tape.nodes], initializers=part.weights, name=f"stage{k}"), answer


def _branching_body(
    part: _Part, k: int, rest: ir.Graph, limits: ir.Value, opset: int
) -> tuple[ir.Graph, list[ir.Value]]:
    """Make the graph of a stage that ends in an `If` between its own answer and the rest of the chain."""
    tape, branch = ir.tape.Tape(), ir.tape.Tape()
    answer = _answer(part.head, k, tape)
    taken = [branch.op("Identity", [value]) for value in answer]  # a branch gives out values of its own only
    sure = _compare(tape, part.head.score, limits, k, opset)
    branches = {"then_branch": ir.Graph([], taken, nodes=branch.nodes, name=f"exit{k}"), "else_branch": rest}
    result = list(tape.op_multi_out("If", [sure], branches, num_outputs=len(OUTPUTS)))
    for i, (value, name) in enumerate(zip(answer, OUTPUTS, strict=True)):
        for new, where in ((taken[i], "taken"), (result[i], "answer")):
            new.name, new.type, new.shape = f"{NAME_PREFIX}{k}.{where}.{name}", value.type, value.shape
    return ir.Graph([], result, nodes=[*part.nodes, *tape.nodes], initializers=part.weights, name=f"stage{k}"), result


def _answer(head: Head, k: int, tape: ir.tape.Tape) -> list[ir.Value]:
    """Return label, score, exit and logits of an exit, for one sample."""
    number = _constant(tape, [k], f"{NAME_PREFIX}{k}.exit")
    for value in (head.label, head.score):
        value.shape = ir.Shape([1])
    assert head.logits.shape is not None
    head.logits.shape = ir.Shape([1, *head.logits.shape[1:]])
    return [head.label, head.score, number, head.logits]


def _compare(tape: ir.tape.Tape, score: ir.Value, limits: ir.Value, k: int, opset: int) -> ir.Value:
    """Return whether score >= thresholds[k], as the single bool that every engine takes for a condition."""
    limit = tape.op("Gather", [limits, _constant(tape, k, f"{NAME_PREFIX}{k}.at")], {"axis": 0})
    single = tape.op("Gather", [score, _constant(tape, 0, f"{NAME_PREFIX}{k}.first")], {"axis": 0})
    limit.name, single.name = f"{NAME_PREFIX}{k}.limit", f"{NAME_PREFIX}{k}.single"
    if opset >= 12:
        sure = tape.op("GreaterOrEqual", [single, limit])
    else:
        above, equal = tape.op("Greater", [single, limit]), tape.op("Equal", [single, limit])
        above.name, equal.name = f"{NAME_PREFIX}{k}.above", f"{NAME_PREFIX}{k}.equal"
        sure = tape.op("Or", [above, equal])
    sure.name = f"{NAME_PREFIX}{k}.sure"
    return sure


def _constant(tape: ir.tape.Tape, value: "int | list[int]", name: str) -> ir.Value:
    array = np.array(value, np.int64)
    made = tape.op("Constant", [], {"value": ir.tensor(array)})
    made.name, made.dtype, made.shape = name, ir.DataType.INT64, ir.Shape(array.shape)
    return made


def _prefix(graph: ir.Graph, prefix: str) -> None:
    """Rename every value and node, within branches and loops too: no name of an outer graph may come again inside it."""
    weights = list(graph.initializers.values())
    graph.initializers.clear()
    for value in weights:
        value.name = f"{prefix}{value.name}"
        graph.register_initializer(value)
    for value in graph.inputs:
        if not value.is_initializer():
            value.name = f"{prefix}{value.name}"
    for node in graph:
        node.name = f"{prefix}{node.name}"
        for value in node.outputs:
            if value.name:
                value.name = f"{prefix}{value.name}"
        for attribute in node.attributes.values():
            for inner in subgraphs(attribute):
                _prefix(inner, prefix)
