"""The decision of each exit, computed in the graph: a score from 0 to 1 and a label."""

import math
from collections.abc import Callable, Collection, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from msgspec import Struct

from ...errors import UsageError, unknown_name
from ..graph.axes import BATCH
from ..graph.edits import constant, reduce

__all__ = ["RULES", "Head", "Scoring", "add_decisions", "check_rule", "constant", "decided_logits", "reduce"]

LEAST_PROBABILITY = 1e-30
"""Smaller probabilities are raised to this before their logarithm is taken."""


class Head(NamedTuple):
    """The three outputs of an exit: logits (batch, classes), score float32 (batch,), label int64 (batch,)."""

    logits: ir.Value
    score: ir.Value
    label: ir.Value


class Scoring(Struct, frozen=True, kw_only=True):
    """How the scores of all exits are made.

    Attributes:
        rule: a name in `RULES`.
        probabilities: for each exit True if it ends in a softmax; the logarithm of its output then serves as its logits.
        temperatures: one for each exit; None for 1 everywhere.
        gates: for each exit the network's own gate, (batch,) or (batch, 1), or None for an exit without one; empty if the rule
            reads no gates.
    """

    rule: str
    probabilities: tuple[bool, ...]
    temperatures: tuple[float, ...] | None = None
    gates: tuple[ir.Value | None, ...] = ()

    def temperature(self, k: int) -> float:
        """Return the temperature of exit k."""
        return self.temperatures[k] if self.temperatures else 1.0


def max_softmax(tape: ir.tape.Tape, logits: ir.Value, opset: int) -> ir.Value:
    """The largest softmax probability, as in MSDNet (arXiv 1703.09844)."""
    return reduce(tape, "ReduceMax", tape.op("Softmax", [logits], {"axis": -1}), opset)


def entropy(tape: ir.tape.Tape, logits: ir.Value, opset: int) -> ir.Value:
    """1 - H / log C with the entropy H of the softmax, as BranchyNet (arXiv 1709.01686) uses it, scaled to 0..1."""
    assert logits.shape is not None and isinstance(logits.shape[-1], int)
    log_p = tape.op("LogSoftmax", [logits], {"axis": -1})
    log_p = tape.op("Clip", [log_p, constant(tape, -1e4)])  # a masked class gives 0 * -inf, which is NaN
    minus_h = reduce(tape, "ReduceSum", tape.op("Mul", [tape.op("Exp", [log_p]), log_p]), opset)
    share = tape.op("Mul", [minus_h, constant(tape, 1 / math.log(logits.shape[-1]))])
    return tape.op("Relu", [tape.op("Add", [share, constant(tape, 1.0)])])  # rounding may lead below 0


def margin(tape: ir.tape.Tape, logits: ir.Value, opset: int) -> ir.Value:
    """The largest softmax probability less the second largest (best versus second best, Joshi et al., CVPR 2009)."""
    p = tape.op("Softmax", [logits], {"axis": -1})
    two = tape.op_multi_out("TopK", [p, constant(tape, [2])], {"axis": -1}, num_outputs=2)[0]
    first, second = (tape.op("Gather", [two, constant(tape, i)], {"axis": 1}) for i in (0, 1))
    return tape.op("Sub", [first, second])


RULES: dict[str, Callable[[ir.tape.Tape, ir.Value, int], ir.Value]] = {
    "max_softmax": max_softmax,
    "entropy": entropy,
    "margin": margin,
    "ensemble": max_softmax,
    "gate": max_softmax,
    "gate_logit": max_softmax,
}
"""The rules by name. Each adds nodes that turn logits (batch, classes) into a score (batch,).

`ensemble` first replaces the logits by the mean log-probability of the heads so far. `gate` and `gate_logit` read the network's
own gates; their function here serves only a last exit without a gate.
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
        if not isinstance(temperatures, Collection) or not all(
            isinstance(t, Real) and 0 < t < math.inf for t in temperatures
        ):
            raise UsageError(
                f"Temperatures are a list of numbers above 0, one for each exit, not {temperatures!r:.60}."
            )
        if gates:
            raise UsageError(
                "A gate's score is the network's own: a temperature does not change it. Leave temperatures out."
            )


def add_decisions(model: ir.Model, logits: dict[str, ir.Value], scoring: Scoring) -> list[Head]:
    """Add score and label to every exit and make all three the graph's outputs, named `<exit>.logits` and so on.

    Args:
        model: the graph.
        logits: (batch, classes) of every exit by its name.
        scoring: how the scores are made.
    """
    graph, opset = model.graph, model.graph.opset_imports[""]
    tape = ir.tape.Tape(graph)
    heads: list[Head] = []
    total = None
    for k, value in enumerate(logits.values()):
        shape = value.shape
        if value.dtype != ir.DataType.FLOAT:  # the runtime reads float32 only
            value = tape.op("Cast", [value], {"to": ir.DataType.FLOAT})
        scaled = _scale(tape, value, scoring, k)
        if scoring.rule == "ensemble":
            log_p = tape.op("LogSoftmax", [scaled], {"axis": -1})
            total = log_p if total is None else tape.op("Add", [total, log_p])
            value = scaled = tape.op("Mul", [total, constant(tape, 1 / (k + 1))])
        value.dtype, value.shape = ir.DataType.FLOAT, shape
        scaled.dtype, scaled.shape = ir.DataType.FLOAT, shape
        gate = scoring.gates[k] if scoring.gates else None
        make_score = RULES[scoring.rule]
        score = make_score(tape, scaled, opset) if gate is None else _score_of_gate(tape, gate, scoring.rule)
        label = tape.op("ArgMax", [value], {"axis": -1, "keepdims": 0})
        score.dtype, score.shape = ir.DataType.FLOAT, ir.Shape([BATCH])
        label.dtype, label.shape = ir.DataType.INT64, ir.Shape([BATCH])
        heads.append(Head(value, score, label))
    _name_outputs(graph, dict(zip(logits, heads, strict=True)))
    graph.outputs[:] = [value for head in heads for value in head]
    return heads


def decided_logits(logits: Sequence[np.ndarray], scoring: Scoring) -> list[np.ndarray]:
    """Compute in numpy which logits the graph's exits give for the original's: the ensemble's, or else the same."""
    if scoring.rule != "ensemble":
        return list(logits)
    total, ensembles = np.float64(0), []
    for k, values in enumerate(logits):
        wide = values.astype(np.float64)
        scaled = np.log(np.maximum(wide, LEAST_PROBABILITY)) if scoring.probabilities[k] else wide
        scaled = scaled / scoring.temperature(k)
        scaled -= scaled.max(-1, keepdims=True)
        total = total + scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        ensembles.append((total / (k + 1)).astype(values.dtype))
    return ensembles


def _scale(tape: ir.tape.Tape, value: ir.Value, scoring: Scoring, k: int) -> ir.Value:
    """Record the logits that exit k's score is made of: the logarithm of probabilities, divided by the temperature."""
    if scoring.probabilities[k]:
        value = tape.op("Log", [tape.op("Clip", [value, constant(tape, LEAST_PROBABILITY)])])
    temperature = scoring.temperature(k)
    return value if temperature == 1 else tape.op("Mul", [value, constant(tape, 1 / temperature)])


def _score_of_gate(tape: ir.tape.Tape, gate: ir.Value, rule: str) -> ir.Value:
    flat = tape.op("Reshape", [gate, constant(tape, [-1])])
    if gate.dtype != ir.DataType.FLOAT:
        flat = tape.op("Cast", [flat], {"to": ir.DataType.FLOAT})
    return tape.op("Sigmoid", [flat]) if rule == "gate_logit" else flat


def _name_outputs(graph: ir.Graph, heads: dict[str, Head]) -> None:
    """Name the outputs. A value of the network that already bears such a name gets underscores appended."""
    outputs = {f"{name}.{part}": value for name, head in heads.items() for part, value in head._asdict().items()}
    values = [*graph.inputs, *graph.initializers.values(), *(o for node in graph.all_nodes() for o in node.outputs)]
    taken = {value.name for value in values}
    for value in values:
        if value.name in outputs and value is not outputs[value.name]:
            while (name := f"{value.name}_") in taken:
                value.name = name
            value.name = name
            taken.add(name)
    for name, value in outputs.items():
        value.name = name
