"""What members answer, in the bundle's labels: each by itself, or several that vote."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from msgspec import Struct

from ...errors import ModelError, UsageError
from ..cut.rules import LEAST_PROBABILITY, RULES
from ..graph.axes import BATCH
from ..graph.edits import constant, reduce
from .member import Member

__all__ = ["Answer", "add_exit", "cast", "make_label_table", "sizes"]

KEEPS_PROBABILITIES = {"Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze"}
"""Operators behind which probabilities are still such."""


class Answer(Struct, frozen=True):
    """An output of a member.

    Attributes:
        name: what messages and weights call it.
        value: (batch, labels), logits or probabilities.
        member: the member.
    """

    name: str
    value: ir.Value
    member: Member


def add_exit(
    tape: ir.tape.Tape, whole: ir.Graph, name: str, answers: Sequence[Answer], *, classes: int, rule: str | None
) -> None:
    """Make a member's answer, or the vote of several, an output of the whole graph in the bundle's labels, and add its gate.

    Args:
        tape: records what is computed.
        whole: gets the output `name` and, with a rule, `<name>.gate`.
        name: of the exit.
        answers: of one member, or one each of those that vote.
        classes: of the bundle.
        rule: makes the gate; None makes none.

    Raises:
        ModelError, UsageError: one is no logits, or its labels are not the bundle's.
    """
    votes = len(answers) > 1
    tables = [_read_table(answer, classes, reads_logits=votes or rule is not None) for answer in answers]
    drops_labels = any(table is not None and not table.any(1).all() for table in tables)
    answer, table = answers[0], tables[0]
    if votes:
        p = _count_votes(tape, answers, tables, classes)
    elif table is not None:
        p = tape.op("MatMul", [_find_probabilities(tape, answer.value), _store(tape, answer, table)])
    else:
        p = answer.value if rule is None else cast(tape, answer.value, ir.DataType.FLOAT)
    logits = p
    if votes or table is not None or (rule is not None and _is_softmax(answer.value)):
        logits = tape.op("Log", [tape.op("Clip", [p, constant(tape, LEAST_PROBABILITY)])])
        logits.dtype, logits.shape = ir.DataType.FLOAT, ir.Shape([BATCH, classes])
    if rule is not None:
        opset = whole.opset_imports[""]
        gate = reduce(tape, "ReduceMax", p, opset) if drops_labels else RULES[rule](tape, logits, opset)
        gate.name, gate.dtype, gate.shape = f"{name}.gate", ir.DataType.FLOAT, ir.Shape([BATCH])
        whole.outputs.append(gate)
    logits.name = name
    whole.outputs.append(logits)


def _count_votes(
    tape: ir.tape.Tape, answers: Sequence[Answer], tables: Sequence[np.ndarray | None], classes: int
) -> ir.Value:
    """Record (votes + mean probability) / (members + 1) of each of the bundle's labels, float32 (batch, classes).

    The largest is that of the commonest label, of several the most probable in the mean; how large it is says first how many
    agree, as in ABC (arXiv 2407.02348), and then how sure they are. It sums up to 1 if every member's labels are the bundle's.
    """
    labels, counted, probabilities = constant(tape, list(range(classes))), [], []
    for answer, table in zip(answers, tables, strict=True):
        p = _find_probabilities(tape, answer.value)
        if table is not None:  # labels that the bundle has not come behind, so that a vote for one is counted for none
            others = np.eye(len(table), dtype=np.float32)[:, ~table.any(1)]
            p = tape.op("MatMul", [p, _store(tape, answer, np.hstack([table, others]))])
        named = tape.op("ArgMax", [p], {"axis": -1, "keepdims": 1})
        counted.append(tape.op("Cast", [tape.op("Equal", [named, labels])], {"to": ir.DataType.FLOAT}))
        if table is not None and others.shape[1]:
            p = tape.op("Slice", [p, constant(tape, [0]), constant(tape, [classes]), constant(tape, [1])])
        probabilities.append(p)
    mean = tape.op("Mul", [tape.op("Sum", probabilities), constant(tape, 1 / len(answers))])
    total = tape.op("Add", [tape.op("Sum", counted), mean])
    return tape.op("Mul", [total, constant(tape, 1 / (len(answers) + 1))])


def _find_probabilities(tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
    floats = cast(tape, value, ir.DataType.FLOAT)
    return floats if _is_softmax(value) else tape.op("Softmax", [floats], {"axis": -1})


def _is_softmax(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in KEEPS_PROBABILITIES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "Softmax"


def _store(tape: ir.tape.Tape, answer: Answer, table: np.ndarray) -> ir.Value:
    return tape.initializer(ir.tensor(table), name=f"{answer.name}/labels")


def _read_table(answer: Answer, classes: int, *, reads_logits: bool) -> np.ndarray | None:
    """Return which of a member's labels is which of the bundle's; None if they are the same.

    Raises:
        ModelError: it is no logits; exits that are stacked in one output are no logits where each is read by itself.
        UsageError: its labels are not the bundle's.
    """
    name, member = answer.name, answer.member
    if answer.value.shape is None:
        raise ModelError(f"The shape of output {name} is unknown: export the file with the shapes of its outputs.")
    shape = sizes(answer.value)
    labels = shape[-1] if shape else None
    hint = "name the outputs that are exits (Member(exits=[...]), --exits)"
    if len(shape) == 2 and isinstance(labels, int) and (member.classes is not None or reads_logits):
        raise ModelError(
            f"Output {name} has three axes, as exits have that are stacked in one tensor: here each is an output of its own, "
            f"(batch, classes). Return a list of them. If it is no exit, {hint}."
        )
    if not isinstance(labels, int) or (len(shape) > 1 and (member.classes is not None or reads_logits)):
        raise ModelError(f"Output {name} has the shape {('batch', *shape)}, but logits are (batch, classes): {hint}.")
    if member.classes is not None:
        return make_label_table(member.classes, labels, classes, name)
    if labels != classes:
        raise UsageError(
            f"{name} has {labels} labels, the bundle {classes}: give classes= (--labels), the bundle's label for each, or "
            f"{hint}."
        )
    return None


def make_label_table(
    given: "Sequence[int | None] | Mapping[int, int]", labels: int, classes: int, name: str
) -> np.ndarray:
    """Return which of a member's labels is which of the bundle's, float32 (labels, classes) of 0 and 1.

    Raises:
        UsageError: a label is unknown on either side, or there is not one entry for each of the member's.
    """
    pairs = dict(given) if isinstance(given, Mapping) else dict(enumerate(given))
    if not isinstance(given, Mapping) and len(given) != labels:
        raise UsageError(
            f"classes of {name} has {len(given)} entries for its {labels} labels: give one each, None (--labels: -) to "
            "pass on."
        )
    table = np.zeros((labels, classes), np.float32)
    for own, label in pairs.items():
        if not 0 <= own < labels or (label is not None and not 0 <= label < classes):
            raise UsageError(
                f"classes of {name} makes its label {own} the bundle's {label}: it has labels 0 to {labels - 1}, the bundle 0 to "
                f"{classes - 1}."
            )
        if label is not None:
            table[own, label] = 1
    if not table.any():
        raise UsageError(f"classes of {name} keeps none of its labels.")
    return table


def cast(tape: ir.tape.Tape, value: ir.Value, kind: ir.DataType | None) -> ir.Value:
    """Record a value in another dtype; the value itself if that is its own, or None."""
    if kind is None or value.dtype == kind:
        return value
    result = tape.op("Cast", [value], {"to": kind})
    result.dtype, result.shape = kind, value.shape
    return result


def sizes(value: ir.Value) -> tuple[int | str | None, ...]:
    """Return a value's axes without the batch; none if its shape is unknown."""
    return tuple(axis if isinstance(axis, int) else axis.value for axis in value.shape or ())[1:]
