"""The stages of a chain nested in one another, as branches of `If` nodes.

    stage 0 -> score >= threshold ? its answer
                                  : stage 1 -> score >= threshold ? its answer
                                                                  : stage 2 -> its answer

Every weight, biases too, lies inside the branch that reads it: ONNX Runtime optimises a convolution's layout only then. With the
weights outside, the file takes 1.3 to 1.7 times as long.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ..bundle import Variant
from .cut.rules import Head
from .graph.edits import constant
from .graph.walk import subgraphs

__all__ = ["THRESHOLDS", "name_outputs", "nest_stages"]

THRESHOLDS = "thresholds"
"""The name of the optional input with a threshold for each exit but the last."""

DECIDED = ("label", "score", "exit")
"""The outputs beside the parts of the answer; a network that does not classify has no label."""

NAME_PREFIX = "offramp.stage"
"""How the names of added values begin; the network's own begin with `stage`."""


class _StageParts(NamedTuple):
    """A stage taken out of its file: its nodes, its weights and its exit's outputs."""

    nodes: list[ir.Node]
    weights: list[ir.Value]
    head: Head


def name_outputs(variant: Variant) -> tuple[str, ...]:
    """Return the names of the outputs: label, score, exit and logits, or score, exit and the parts of another answer."""
    answer = variant.exits[0].answer
    return ("score", "exit", *answer) if answer else (*DECIDED, "logits")


def nest_stages(
    stages: Sequence[ir.Model], variant: Variant, names: Sequence[str], thresholds: Sequence[float]
) -> ir.Model:
    """Put every stage into the branch that is taken when a sample does not leave at the exit before.

    Args:
        stages: the graphs of the variant's stages with their weights; they are taken apart.
        variant: the variant.
        names: the names of the network's inputs, in order.
        thresholds: the initial values of the input `thresholds`.

    Returns:
        A model. It takes the network's inputs with a batch of one, in order, then the thresholds. An input that is called like
        an output or the thresholds gets an underscore appended.
    """
    opset, outputs = stages[0].graph.opset_imports[""], name_outputs(variant)
    tensors: dict[str, ir.Value] = {}
    parts = _take_apart(stages, variant, tensors)
    inputs = [tensors[name] for name in names if name in tensors]
    for value in inputs:
        while value.name in (*outputs, THRESHOLDS, *(other.name for other in inputs if other is not value)):
            value.name = f"{value.name}_"
    limits = ir.Value(name=THRESHOLDS, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([len(thresholds)]))
    limits.const_value = ir.tensor(np.array(thresholds, np.float32), name=THRESHOLDS)
    body, answer = _make_last_body(parts[-1], len(parts) - 1)
    for k in range(len(parts) - 2, -1, -1):
        body, answer = _make_branching_body(parts[k], k, body, limits, opset)
    for value, name in zip(answer, outputs, strict=True):
        value.name = name
    body.inputs[:] = [*inputs, limits]
    body.register_initializer(limits)
    for model in stages:
        body.opset_imports.update(model.graph.opset_imports)
    return ir.Model(body, ir_version=max(model.ir_version for model in stages), producer_name="offramp")


def _take_apart(stages: Sequence[ir.Model], variant: Variant, tensors: dict[str, ir.Value]) -> list[_StageParts]:
    """Empty every stage's graph and wire its inputs to the outputs of earlier stages; `tensors` receives every tensor by name."""
    parts = []
    first_with_file: dict[str, int] = {}
    for k, (model, stage) in enumerate(zip(stages, variant.stages, strict=True)):
        # Stages that are the same computation share a file, whose outputs are named as in the first of them.
        graph, first = model.graph, first_with_file.setdefault(stage.file, k)
        outputs = {value.name: value for value in graph.outputs}
        exit_ = variant.exits[first]
        makes = {
            tensor.name: outputs[in_file.name]
            for in_file, tensor in zip(variant.stages[first].outputs, stage.outputs, strict=False)
        }
        answer = {part: tensor.name for part, tensor in exit_.answer.items()} or {"logits": exit_.logits}
        label = outputs[exit_.label] if exit_.label else None
        head = Head({part: outputs[name] for part, name in answer.items()}, outputs[exit_.score], label)
        _prefix_names(graph, f"stage{k}.")
        for value, tensor in zip(list(graph.inputs), stage.inputs, strict=True):
            if tensor.name in tensors:
                value.replace_all_uses_with(tensors[tensor.name])
            else:
                value.name = tensor.name
                value.shape = ir.Shape([1 if axis is None else axis for axis in tensor.shape])
                tensors[tensor.name] = value
        tensors |= makes
        nodes, weights = list(graph), list(graph.initializers.values())
        graph.inputs[:], graph.outputs[:] = [], []
        graph.initializers.clear()
        graph.remove(nodes)
        parts.append(_StageParts(nodes, weights, head))
    return parts


def _make_last_body(part: _StageParts, k: int) -> tuple[ir.Graph, list[ir.Value]]:
    tape = ir.tape.Tape()
    answer = [*_make_answer(part.head, k, tape)]
    return ir.Graph([], answer, nodes=[*part.nodes, *tape.nodes], initializers=part.weights, name=f"stage{k}"), answer


def _make_branching_body(
    part: _StageParts, k: int, rest: ir.Graph, limits: ir.Value, opset: int
) -> tuple[ir.Graph, list[ir.Value]]:
    """Make the graph of a stage that ends in an `If`: its own answer or the rest of the chain."""
    tape, branch = ir.tape.Tape(), ir.tape.Tape()
    answer = _make_answer(part.head, k, tape)
    taken = [branch.op("Identity", [value]) for value in answer]  # a branch returns values of its own only
    sure = _compare_score(tape, part.head.score, limits, k, opset)
    branches = {"then_branch": ir.Graph([], taken, nodes=branch.nodes, name=f"exit{k}"), "else_branch": rest}
    result = list(tape.op_multi_out("If", [sure], branches, num_outputs=len(answer)))
    for i, value in enumerate(answer):
        other = rest.outputs[i].shape  # exits may give other shapes
        for new, where in ((taken[i], "taken"), (result[i], "answer")):
            new.name, new.type, new.shape = f"{NAME_PREFIX}{k}.{where}{i}", value.type, value.shape
        if value.shape != other:
            result[i].shape = None
    return ir.Graph([], result, nodes=[*part.nodes, *tape.nodes], initializers=part.weights, name=f"stage{k}"), result


def _make_answer(head: Head, k: int, tape: ir.tape.Tape) -> list[ir.Value]:
    """Return what `name_outputs` names, of exit k for one sample."""
    number = constant(tape, [k], f"{NAME_PREFIX}{k}.exit")
    decided = [head.score] if head.label is None else [head.label, head.score]
    for value in decided:
        value.shape = ir.Shape([1])
    for value in head.parts.values():
        assert value.shape is not None
        value.shape = ir.Shape([1, *value.shape[1:]])
    return [*decided, number, *head.parts.values()]


def _compare_score(tape: ir.tape.Tape, score: ir.Value, limits: ir.Value, k: int, opset: int) -> ir.Value:
    """Return whether score >= thresholds[k], as a single bool, which every engine takes for a condition."""
    limit = tape.op("Gather", [limits, constant(tape, k, f"{NAME_PREFIX}{k}.at")], {"axis": 0})
    single = tape.op("Gather", [score, constant(tape, 0, f"{NAME_PREFIX}{k}.first")], {"axis": 0})
    limit.name, single.name = f"{NAME_PREFIX}{k}.limit", f"{NAME_PREFIX}{k}.single"
    if opset >= 12:
        sure = tape.op("GreaterOrEqual", [single, limit])
    else:
        above, equal = tape.op("Greater", [single, limit]), tape.op("Equal", [single, limit])
        above.name, equal.name = f"{NAME_PREFIX}{k}.above", f"{NAME_PREFIX}{k}.equal"
        sure = tape.op("Or", [above, equal])
    sure.name = f"{NAME_PREFIX}{k}.sure"
    return sure


def _prefix_names(graph: ir.Graph, prefix: str) -> None:
    """Put a prefix before every name, within branches and loops too: no name of an outer graph may come again inside it."""
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
                _prefix_names(inner, prefix)
