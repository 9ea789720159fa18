"""The rule `fitted`: a logistic function of what an exit says, whose weights were fitted to samples.

What it reads of an exit's logits (batch, classes), all float32 (batch,):

    probability   of the likeliest class, by the softmax
    lead          of the largest logit over the second largest, clipped
    entropy       1 - H / log C, as the rule `entropy`
    agreement     the share of the exits before that give its label; the first exit has none
"""

import math

import numpy as np
import onnx_ir as ir
from msgspec import Struct

from ..graph.axes import BATCH
from ..graph.edits import constant, reduce
from .rules import LEAST_PROBABILITY, Head

__all__ = ["LEAST_LOG_PROBABILITY", "ExitWeights", "add_fitted_scores", "read_features", "score_features"]

LEAST_LOG_PROBABILITY = -1e4
"""A class that is masked by minus infinity counts as if its log-probability were this."""


class ExitWeights(Struct, frozen=True):
    """The fitted score of an exit: the logistic function of `bias` plus the features times `weights`.

    Attributes:
        bias: added to the sum.
        weights: of probability, lead and entropy, and of agreement if there are exits before.
        most_lead: the lead is clipped to this.
        is_probability: True if the exit ends in a softmax; the logarithm of its output then serves as its logits.
    """

    bias: float
    weights: tuple[float, ...]
    most_lead: float
    is_probability: bool = False


def read_features(
    logits: np.ndarray, labels: np.ndarray, k: int, *, most_lead: float, is_probability: bool
) -> np.ndarray:
    """Return the features of exit k in numpy, float64 (N, 3), or (N, 4) behind other exits.

    Args:
        logits: of exit k, float (N, classes).
        labels: of all exits, int (N, exits).
        k: the exit.
        most_lead, is_probability: as for `ExitWeights`.
    """
    z = logits.astype(np.float64)
    z = np.log(np.maximum(z, LEAST_PROBABILITY)) if is_probability else z
    z = z - z.max(-1, keepdims=True)
    log_p = np.maximum(z - np.log(np.exp(z).sum(-1, keepdims=True)), LEAST_LOG_PROBABILITY)
    second, first = np.sort(log_p, -1)[:, -2:].T
    p = np.exp(log_p)
    columns = [
        np.exp(first),
        np.minimum(first - second, most_lead),
        1 + (p * log_p).sum(-1) / math.log(logits.shape[-1]),
    ]
    if k:
        columns.append((labels[:, :k] == labels[:, k : k + 1]).mean(-1))
    return np.stack(columns, 1)


def score_features(features: np.ndarray, fitted: ExitWeights) -> np.ndarray:
    """Return the scores of features in numpy, (N,)."""
    with np.errstate(over="ignore"):
        scores: np.ndarray = 1 / (1 + np.exp(-(fitted.bias + features @ np.array(fitted.weights))))
    return scores


def add_fitted_scores(graph: ir.Graph, heads: list[Head], fitted: list[ExitWeights | None]) -> None:
    """Replace the scores of all exits but the last, in place; the last exit always answers, and keeps its score.

    Args:
        graph: the whole graph, whose exits give logits and labels.
        heads: its exits.
        fitted: the weights of each but the last; None for one that keeps its score too.
    """
    tape, opset = ir.tape.Tape(graph), graph.opset_imports[""]
    for k, weights in enumerate(fitted):
        if weights is None:
            continue
        score = _record_score(tape, heads, k, weights, opset)
        name, old = heads[k].score.name, heads[k].score
        old.name = f"{name}.parent"
        score.name, score.dtype, score.shape = name, ir.DataType.FLOAT, ir.Shape([BATCH])
        graph.outputs[:] = [score if value is old else value for value in graph.outputs]


def _record_score(tape: ir.tape.Tape, heads: list[Head], k: int, fitted: ExitWeights, opset: int) -> ir.Value:
    """Record the score of exit k in few nodes, for each costs time: what only scales or shifts is part of weights and bias."""
    logits = heads[k].parts["logits"]
    assert logits.shape is not None and isinstance(logits.shape[-1], int)
    of_probability, of_lead, of_entropy, *of_agreement = fitted.weights
    of_minus_h = of_entropy / math.log(logits.shape[-1])
    if fitted.is_probability:
        logits = tape.op("Log", [tape.op("Clip", [logits, constant(tape, LEAST_PROBABILITY)])])
    log_p = tape.op("LogSoftmax", [logits], {"axis": -1})
    log_p = tape.op(
        "Clip", [log_p, constant(tape, LEAST_LOG_PROBABILITY)]
    )  # a masked class gives 0 * -inf, which is NaN
    two = tape.op_multi_out("TopK", [log_p, constant(tape, [2])], {"axis": -1}, num_outputs=2)[0]
    first, second = (tape.op("Gather", [two, constant(tape, i)], {"axis": 1}) for i in (0, 1))
    lead = tape.op("Min", [tape.op("Sub", [first, second]), constant(tape, fitted.most_lead)])
    minus_h = reduce(tape, "ReduceSum", tape.op("Mul", [tape.op("Exp", [log_p]), log_p]), opset)
    terms = [(tape.op("Exp", [first]), of_probability), (lead, of_lead), (minus_h, of_minus_h)]
    terms += [(_count_agreeing(tape, heads, k), weight / k) for weight in of_agreement]
    total = constant(tape, fitted.bias + of_entropy)
    for value, weight in terms:
        total = tape.op("Add", [total, tape.op("Mul", [value, constant(tape, weight)])])
    return tape.op("Sigmoid", [total])


def _count_agreeing(tape: ir.tape.Tape, heads: list[Head], k: int) -> ir.Value:
    """Record how many exits before k give its label, float32 (batch,)."""
    same = [
        tape.op("Cast", [tape.op("Equal", [heads[k].label, head.label])], {"to": ir.DataType.FLOAT})
        for head in heads[:k]
    ]
    return same[0] if k == 1 else tape.op("Sum", same)
