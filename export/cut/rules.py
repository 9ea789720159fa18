"""The decision of each exit, computed in the graph: a score from 0 to 1 and, of logits, a label."""

import math
from collections.abc import Callable, Collection, Sequence
from numbers import Real

import numpy as np
import onnx_ir as ir
from msgspec import Struct

from ...errors import UsageError, unknown_name
from ...runtime.chain.parts import Parts
from ..graph.axes import BATCH
from ..graph.edits import constant, reduce
from ..graph.walk import ancestors
from .answer_rules import ANSWER_RULES, fill_score, read_answer_rule

__all__ = ["RULES", "Head", "Scoring", "add_decisions", "check_rule", "constant", "decided_answers", "reduce"]

LEAST_PROBABILITY = 1e-30
"""Smaller probabilities are raised to this before their logarithm is taken."""


class Head(Struct, frozen=True):
    """The outputs of an exit.

    Attributes:
        parts: the parts of its answer by name: {"logits": (batch, classes)}, or what the network gives.
        score: float32 (batch,).
        label: int64 (batch,); None if the network does not classify.
    """

    parts: dict[str, ir.Value]
    score: ir.Value
    label: ir.Value | None = None

    @property
    def by_name(self) -> dict[str, ir.Value]:
        """All outputs, by the names that follow the exit's: those of the parts, `score`, `label`."""
        return self.parts | {"score": self.score} | ({} if self.label is None else {"label": self.label})

    @property
    def outputs(self) -> list[ir.Value]:
        """All outputs."""
        return list(self.by_name.values())


class Scoring(Struct, frozen=True, kw_only=True):
    """How the scores of all exits are made.

    Attributes:
        rule: a name in `RULES`, or a rule that `read_answer_rule` reads.
        probabilities: for each exit True if it ends in a softmax; the logarithm of its output then serves as its logits.
        temperatures: one for each exit; None for 1 everywhere.
        gates: for each exit the network's own gate, (batch,) or (batch, 1), or None for an exit without one; empty if the rule
            reads no gates.
    """

    rule: str
    probabilities: tuple[bool, ...] = ()
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
    "patience": max_softmax,
    "gate": max_softmax,
    "gate_logit": max_softmax,
}
"""The rules by name. Each adds nodes that turn logits (batch, classes) into a score (batch,).

`ensemble` first replaces the logits by the mean log-probability of the heads so far. `patience` reads labels. `gate` and
`gate_logit` read the network's own gates; their function here serves only a last exit without a gate.
"""


def check_rule(
    rule: str, gates: Sequence[str], temperatures: Sequence[float] | None, answer: Sequence[str] = ()
) -> None:
    """See that a rule can be used, before anything is captured.

    Raises:
        UsageError: it is unknown, or gates or temperatures do not fit it.
    """
    if answer and not rule.startswith("gate"):
        read_answer_rule(rule, answer)
    elif rule not in RULES:
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
        if gates or answer or rule == "patience":
            raise UsageError(
                "A temperature divides the logits that a score is made of, and here none is. Leave temperatures out."
            )


def add_decisions(model: ir.Model, exits: dict[str, dict[str, ir.Value]], scoring: Scoring) -> list[Head]:
    """Add a score to every exit, and a label to logits; make them outputs of the graph, named `<exit>.logits` and so on.

    Args:
        model: the graph.
        exits: the parts of every exit's answer, by its name.
        scoring: how the scores are made.
    """
    graph = model.graph
    if all("logits" in parts for parts in exits.values()):
        heads = _classify(graph, [parts["logits"] for parts in exits.values()], scoring)
    else:
        heads = _score_answers(graph, list(exits.values()), scoring)
    _name_outputs(graph, dict(zip(exits, heads, strict=True)))
    graph.outputs[:] = [value for head in heads for value in head.outputs]
    return heads


def _classify(graph: ir.Graph, logits: Sequence[ir.Value], scoring: Scoring) -> list[Head]:
    """Add score and label to the logits (batch, classes) of every exit."""
    opset = graph.opset_imports[""]
    tape = ir.tape.Tape(graph)
    heads: list[Head] = []
    total = run = None
    for k, value in enumerate(logits):
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
        if scoring.rule == "patience":
            run = _count_alike(tape, label, heads[-1].label if heads else None, run)
            score = tape.op("Mul", [run, constant(tape, 1 / len(logits))])
        score.dtype, score.shape = ir.DataType.FLOAT, ir.Shape([BATCH])
        label.dtype, label.shape = ir.DataType.INT64, ir.Shape([BATCH])
        heads.append(Head({"logits": value}, score, label))
    return heads


def _count_alike(tape: ir.tape.Tape, label: ir.Value, before: ir.Value | None, run: ir.Value | None) -> ir.Value:
    """Return how many heads in a row, up to this one, give its label, as float32 (batch,).

    Over the number of exits that is the rule `patience`, as in PABEE (arXiv 2006.04152): at the threshold p / exits the network
    leaves once p heads agree.
    """
    if before is None or run is None:
        same = tape.op("Equal", [label, label])
        return tape.op("Cast", [same], {"to": ir.DataType.FLOAT})
    same = tape.op("Cast", [tape.op("Equal", [label, before])], {"to": ir.DataType.FLOAT})
    return tape.op("Add", [tape.op("Mul", [same, run]), constant(tape, 1.0)])


def _score_answers(graph: ir.Graph, exits: Sequence[dict[str, ir.Value]], scoring: Scoring) -> list[Head]:
    """Add a score to the answers of exits that do not classify."""
    opset, tape = graph.opset_imports[""], ir.tape.Tape(graph)
    rule = None if scoring.gates else read_answer_rule(scoring.rule, list(exits[0]))
    heads: list[Head] = []
    before = None
    seen: set[ir.Node | ir.Value | None] = {None, *graph.inputs}
    for k, parts in enumerate(exits):
        # What an earlier exit has computed already gets a name of its own here.
        own = {
            name: _name_again(tape, value) if value in seen or value.producer() in seen else value
            for name, value in parts.items()
        }
        seen |= {node for value in parts.values() for node in ancestors(value)} | {*parts.values()}
        gate = scoring.gates[k] if scoring.gates else None
        if rule is not None:
            score = ANSWER_RULES[rule.name](tape, own, before, rule, opset)
        elif gate is not None:
            score = _score_of_gate(tape, gate, scoring.rule)
        else:
            score = fill_score(tape, next(iter(own.values())), 1.0)  # the last exit always answers
        score.dtype, score.shape = ir.DataType.FLOAT, ir.Shape([BATCH])
        heads.append(Head(own, score))
        before = own
    return heads


def _name_again(tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
    result = tape.op("Identity", [value])
    result.type, result.shape = value.type, value.shape
    return result


def decided_answers(answers: Sequence[Parts], scoring: Scoring) -> list[Parts]:
    """Compute in numpy which answers the graph's exits give for the original's: the ensemble's, or else the same."""
    if scoring.rule != "ensemble":
        return list(answers)
    total, ensembles = np.float64(0), []
    for k, parts in enumerate(answers):
        values = parts["logits"]
        wide = values.astype(np.float64)
        scaled = np.log(np.maximum(wide, LEAST_PROBABILITY)) if scoring.probabilities[k] else wide
        scaled = scaled / scoring.temperature(k)
        scaled -= scaled.max(-1, keepdims=True)
        total = total + scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        ensembles.append({"logits": (total / (k + 1)).astype(values.dtype)})
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
    outputs = {f"{name}.{part}": value for name, head in heads.items() for part, value in head.by_name.items()}
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
