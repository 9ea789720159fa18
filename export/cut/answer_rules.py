"""The scores of exits that do not classify, computed in the graph from the parts of their answers.

A rule is written with what it reads: `agreement:boxes=96,classes=1`, `pixel_share:map=0.9`, `mean_softmax:map`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ...errors import ModelError, UsageError, unknown_name
from ..graph.edits import constant, reduce
from ..graph.walk import name_producers

__all__ = ["ANSWER_RULES", "AnswerRule", "fill_score", "read_answer_rule"]

SURE = 0.9
"""A pixel counts as sure from this probability on, unless the rule names another."""


class AnswerRule(NamedTuple):
    """A rule and what it reads.

    Attributes:
        name: in `ANSWER_RULES`.
        settings: its number for each part that it reads; None where it was not given.
    """

    name: str
    settings: dict[str, float | None]


Parts = Mapping[str, ir.Value]
"""The values of an exit's answer by the names of its parts."""


def agreement(tape: ir.tape.Tape, parts: Parts, before: Parts | None, rule: AnswerRule, opset: int) -> ir.Value:
    """1 - the distance to the answer of the exit before; of several parts the largest counts. The first exit has 0.

    The distance is the mean absolute difference over the scale, which is the rule's number for the part, at most 1; for whole
    numbers it is the share of values that differ.
    """
    if before is None:
        first = next(iter(rule.settings))
        return fill_score(tape, parts[first], 0.0)
    distances = [
        _distance(tape, parts[name], before[name], scale or 1.0, opset) for name, scale in rule.settings.items()
    ]
    furthest = distances[0] if len(distances) == 1 else tape.op("Max", distances)
    return tape.op("Sub", [constant(tape, 1.0), furthest])


def pixel_share(tape: ir.tape.Tape, parts: Parts, before: Parts | None, rule: AnswerRule, opset: int) -> ir.Value:
    """The share of pixels whose likeliest class has at least the rule's number as its probability (ADP-C, arXiv 2104.00749)."""
    ((name, limit),) = rule.settings.items()
    surest = _find_surest(tape, parts[name], opset)
    short = tape.op("Less", [surest, constant(tape, SURE if limit is None else limit)])
    sure = tape.op("Sub", [constant(tape, 1.0), tape.op("Cast", [short], {"to": ir.DataType.FLOAT})])
    return _mean_of_each(tape, sure, opset)


def mean_softmax(tape: ir.tape.Tape, parts: Parts, before: Parts | None, rule: AnswerRule, opset: int) -> ir.Value:
    """The mean over all pixels of the largest softmax probability (MESS, arXiv 2106.03527)."""
    ((name, _),) = rule.settings.items()
    return _mean_of_each(tape, _find_surest(tape, parts[name], opset), opset)


ANSWER_RULES: dict[str, Callable[[ir.tape.Tape, Parts, Parts | None, AnswerRule, int], ir.Value]] = {
    "agreement": agreement,
    "pixel_share": pixel_share,
    "mean_softmax": mean_softmax,
}
"""The rules by name. Each adds nodes that turn the parts of an exit's answer, and of the exit before, into a score (batch,)."""


def read_answer_rule(text: str, answer: Sequence[str]) -> AnswerRule:
    """Read a rule as it is written; one that names no part reads all of them, `agreement`, or the only one.

    Raises:
        UsageError: there is no such rule or part, or a number is not above 0.
    """
    name, _, rest = text.partition(":")
    if name not in ANSWER_RULES:
        raise unknown_name("rule", name, (*ANSWER_RULES, "gate", "gate_logit"))
    settings: dict[str, float | None] = {}
    for item in filter(None, (item.strip() for item in rest.split(","))):
        part, equals, number = item.partition("=")
        if part not in answer:
            raise unknown_name("part of an answer", part, answer)
        settings[part] = _read_number(number, text, part, is_share=name == "pixel_share") if equals else None
    if name == "mean_softmax" and any(number is not None for number in settings.values()):
        raise UsageError(f"The rule mean_softmax takes no number: write mean_softmax:{next(iter(settings))}.")
    settings = settings or dict.fromkeys(answer)
    if name != "agreement" and len(settings) > 1:
        raise UsageError(f"The rule {name} reads one part of an answer: write {name}:{next(iter(settings))}.")
    return AnswerRule(name, settings)


def _read_number(number: str, rule: str, part: str, *, is_share: bool) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf or (is_share and value > 1):
        most = " up to 1" if is_share else ""
        raise UsageError(f"The rule {rule!r:.80} gives {number!r:.20} for {part}, which is no number above 0{most}.")
    return value


def _distance(tape: ir.tape.Tape, ours: ir.Value, theirs: ir.Value, scale: float, opset: int) -> ir.Value:
    """Return the distance of two values (batch, ...) of one shape, float32 (batch,), 0 to 1.

    Raises:
        ModelError: their shapes differ.
    """
    shapes = [[axis if isinstance(axis, int) else None for axis in value.shape or ()] for value in (ours, theirs)]
    if len(shapes[0]) != len(shapes[1]) or any(a != b and None not in (a, b) for a, b in zip(*shapes, strict=True)):
        raise ModelError(
            f"The rule agreement compares {ours.name} {shapes[0]} with {theirs.name} {shapes[1]}, which have other shapes: name "
            "the parts that all exits give alike (agreement:PART=SCALE), or take another rule.",
            nodes=name_producers(ours, theirs),
        )
    if ours.dtype is not None and ours.dtype.is_floating_point():
        ours, theirs = (_to_float(tape, value) for value in (ours, theirs))
        far = tape.op("Mul", [tape.op("Abs", [tape.op("Sub", [ours, theirs])]), constant(tape, 1 / scale)])
    else:
        equal = tape.op("Cast", [tape.op("Equal", [ours, theirs])], {"to": ir.DataType.FLOAT})
        far = tape.op("Sub", [constant(tape, 1.0), equal])
    return tape.op("Min", [_mean_of_each(tape, far, opset), constant(tape, 1.0)])


def _find_surest(tape: ir.tape.Tape, scores: ir.Value, opset: int) -> ir.Value:
    """Return the probability of the likeliest class of each pixel, (batch, ...), from (batch, classes, ...).

    The power of the likeliest class is exp(0), so its softmax is 1 over the sum of all powers. Engines compute a Softmax over an
    axis in the middle several times slower. Of a single class it is the sigmoid's, or that of its opposite.

    Raises:
        ModelError: there is no axis of classes.
    """
    shape = scores.shape
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        raise ModelError(
            f"{scores.name} has the shape {shape}, but the rules pixel_share and mean_softmax read (batch, classes, ...). If the "
            "classes come last, as in (batch, time, classes), let the network transpose them: x.transpose(1, 2).",
            nodes=name_producers(scores),
        )
    scores = _to_float(tape, scores)
    if shape[1] == 1:
        p = tape.op("Sigmoid", [scores])
        return tape.op("Max", [p, tape.op("Sub", [constant(tape, 1.0), p])])
    top = reduce(tape, "ReduceMax", scores, opset, axis=1, keepdims=True)
    powers = tape.op("Exp", [tape.op("Sub", [scores, top])])
    return tape.op("Reciprocal", [reduce(tape, "ReduceSum", powers, opset, axis=1)])


def _mean_of_each(tape: ir.tape.Tape, value: ir.Value, opset: int) -> ir.Value:
    """Return the mean of each sample's values: (batch, ...) -> (batch,)."""
    return reduce(tape, "ReduceMean", tape.op("Flatten", [value], {"axis": 1}), opset)


def _to_float(tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
    return value if value.dtype == ir.DataType.FLOAT else tape.op("Cast", [value], {"to": ir.DataType.FLOAT})


def fill_score(tape: ir.tape.Tape, value: ir.Value, number: float) -> ir.Value:
    """Return one number for each sample of a value (batch, ...)."""
    shape = tape.op("Shape", [value])
    batch = tape.op("Gather", [shape, constant(tape, [0])], {"axis": 0})
    return tape.op("ConstantOfShape", [batch], {"value": ir.tensor(np.array([number], np.float32))})
