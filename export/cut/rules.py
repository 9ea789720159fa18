"""The decision of each exit, computed in the graph: a score in [0, 1] and the label."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ...errors import UsageError, unknown_name
from ..graph.axes import BATCH

LEAST_PROBABILITY = 1e-30
"""The least probability that a logarithm is taken of."""


class Head(NamedTuple):
    """The three outputs of an exit: logits (batch, classes), score float32 (batch,), label int64 (batch,)."""

    logits: ir.Value
    score: ir.Value
    label: ir.Value


def max_softmax(tape: ir.tape.Tape, logits: ir.Value, opset: int) -> ir.Value:
    """The largest softmax probability, as in MSDNet (arXiv 1703.09844)."""
    return _reduce(tape, "ReduceMax", tape.op("Softmax", [logits], {"axis": -1}), opset)


def entropy(tape: ir.tape.Tape, logits: ir.Value, opset: int) -> ir.Value:
    """1 - H / log C with the entropy H of the softmax, as BranchyNet (arXiv 1709.01686) uses it, scaled to 0..1."""
    assert logits.shape is not None and isinstance(logits.shape[-1], int)
    log_p = tape.op("LogSoftmax", [logits], {"axis": -1})
    log_p = tape.op("Clip", [log_p, _constant(tape, -1e4)])  # 0 times minus infinity, of a masked class, is no number
    minus_h = _reduce(tape, "ReduceSum", tape.op("Mul", [tape.op("Exp", [log_p]), log_p]), opset)
    share = tape.op("Mul", [minus_h, _constant(tape, 1 / math.log(logits.shape[-1]))])
    return tape.op("Relu", [tape.op("Add", [share, _constant(tape, 1.0)])])  # rounding may lead below 0


def margin(tape: ir.tape.Tape, logits: ir.Value, opset: int) -> ir.Value:
    """The largest softmax probability less the second largest (best versus second best, Joshi et al., CVPR 2009)."""
    p = tape.op("Softmax", [logits], {"axis": -1})
    two = tape.op_multi_out("TopK", [p, _constant(tape, [2])], {"axis": -1}, num_outputs=2)[0]
    first, second = (tape.op("Gather", [two, _constant(tape, i)], {"axis": 1}) for i in (0, 1))
    return tape.op("Sub", [first, second])


RULES: dict[str, Callable[[ir.tape.Tape, ir.Value, int], ir.Value]] = {
    "max_softmax": max_softmax,
    "entropy": entropy,
    "margin": margin,
    "ensemble": max_softmax,
    "gate": max_softmax,
    "gate_logit": max_softmax,
}
"""The rules by name; each adds nodes that turn logits (batch, classes) into a score (batch,).

`ensemble` first replaces the logits by the mean log-probability of the heads so far. `gate` and `gate_logit` read the network's
own gates instead; the rule here serves a last exit without one.
"""


def check_rule(rule: str, gates: Sequence[str], temperatures: Sequence[float] | None) -> None:
    """See that a rule can be used, before anything is captured.

    Raises:
        UsageError: it is unknown, or gates or temperatures do not fit it.
    """
    if rule not in RULES:
        raise unknown_name("rule", rule, RULES)
    if bool(gates) != rule.startswith("gate"):
        raise UsageError(
            "The rules gate and gate_logit need gates=[...], the names of the gate outputs, and no other does."
        )
    if temperatures is not None:
        if not all(0 < t < math.inf for t in temperatures):
            raise UsageError(f"Temperatures are above 0, not {list(temperatures)}.")
        if gates:
            raise UsageError(
                "A gate's score is the network's own: a temperature does not change it. Leave temperatures out."
            )


def add_decisions(
    model: ir.Model,
    logits: dict[str, ir.Value],
    rule: str,
    *,
    gates: Sequence[ir.Value | None] = (),
    temperatures: Sequence[float] | None = None,
    probabilities: Sequence[bool],
) -> list[Head]:
    """Add score and label to every exit and make all three the graph's outputs, named `<exit>.logits` and so on.

    Args:
        model: the graph.
        logits: (batch, classes) of every exit by its name.
        rule: how the score is made.
        gates: for the gate rules, what the network says of each exit, (batch,) or (batch, 1); None has the rule's own score.
        temperatures: one per exit.
        probabilities: which exits end in a softmax: their logarithm is what logits would be.
    """
    graph, opset = model.graph, model.graph.opset_imports[""]
    tape = ir.tape.Tape(graph)
    heads: list[Head] = []
    total = None
    for k, value in enumerate(logits.values()):
        shape = value.shape
        if value.dtype != ir.DataType.FLOAT:  # the runtime reads float32, whatever the network computes in
            value = tape.op("Cast", [value], {"to": ir.DataType.FLOAT})
        scaled = (
            tape.op("Log", [tape.op("Clip", [value, _constant(tape, LEAST_PROBABILITY)])])
            if probabilities[k]
            else value
        )
        if temperatures is not None and temperatures[k] != 1:
            scaled = tape.op("Mul", [scaled, _constant(tape, 1 / temperatures[k])])
        if rule == "ensemble":
            log_p = tape.op("LogSoftmax", [scaled], {"axis": -1})
            total = log_p if total is None else tape.op("Add", [total, log_p])
            value = scaled = tape.op("Mul", [total, _constant(tape, 1 / (k + 1))])
        value.dtype, value.shape = ir.DataType.FLOAT, shape
        scaled.dtype, scaled.shape = ir.DataType.FLOAT, shape
        gate = gates[k] if gates else None
        score = RULES[rule](tape, scaled, opset) if gate is None else _gate(tape, gate, rule)
        label = tape.op("ArgMax", [value], {"axis": -1, "keepdims": 0})
        score.dtype, score.shape = ir.DataType.FLOAT, ir.Shape([BATCH])
        label.dtype, label.shape = ir.DataType.INT64, ir.Shape([BATCH])
        heads.append(Head(value, score, label))
    _name_outputs(graph, dict(zip(logits, heads, strict=True)))
    graph.outputs[:] = [value for head in heads for value in head]
    return heads


def are_probabilities(logits: np.ndarray) -> bool:
    """Tell whether an exit gives probabilities: none below 0, and each row adds up to 1."""
    return bool((logits >= 0).all() and np.allclose(logits.astype(np.float64).sum(-1), 1, atol=2e-3))


def decided_logits(
    logits: Sequence[np.ndarray], rule: str, temperatures: Sequence[float] | None, *, probabilities: Sequence[bool]
) -> list[np.ndarray]:
    """Return what the rule makes of the original's logits before it scores them: the ensemble's, or the same."""
    if rule != "ensemble":
        return list(logits)
    total, found = np.float64(0), []
    for k, values in enumerate(logits):
        wide = values.astype(np.float64)
        scaled = (np.log(np.maximum(wide, LEAST_PROBABILITY)) if probabilities[k] else wide) / (
            temperatures[k] if temperatures else 1
        )
        scaled -= scaled.max(-1, keepdims=True)
        total = total + scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        found.append((total / (k + 1)).astype(values.dtype))
    return found


def _gate(tape: ir.tape.Tape, gate: ir.Value, rule: str) -> ir.Value:
    flat = tape.op("Reshape", [gate, _constant(tape, [-1])])
    if gate.dtype != ir.DataType.FLOAT:
        flat = tape.op("Cast", [flat], {"to": ir.DataType.FLOAT})
    return tape.op("Sigmoid", [flat]) if rule == "gate_logit" else flat


def _constant(tape: ir.tape.Tape, value: "float | int | list[int]") -> ir.Value:
    array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
    return tape.op("Constant", [], {"value": ir.tensor(array)})


def _reduce(tape: ir.tape.Tape, op: str, value: ir.Value, opset: int) -> ir.Value:
    """Reduce the last axis away; the axes became an input with opset 13 for sums and 18 for the rest (ONNX changelog)."""
    if opset < (13 if op == "ReduceSum" else 18):
        return tape.op(op, [value], {"axes": [-1], "keepdims": 0})
    return tape.op(op, [value, _constant(tape, [-1])], {"keepdims": 0})


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
