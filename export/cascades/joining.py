"""Members joined in one graph, which reads one input.

image -> [resize, normalise] -> small -> [its labels] -> exit
  |
  +----> [resize, normalise] -> large -> [its labels] -> exit
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from ...bundle import Preprocess
from ...errors import ModelError, UsageError
from ..cut.rules import LEAST_PROBABILITY, RULES
from ..graph.axes import BATCH, first_line
from ..graph.edits import constant, reduce
from .member import Member, MemberGraph
from .resizing import make_resizing

__all__ = ["join"]

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}

MODES = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}


def join(
    members: Sequence[tuple[Member, MemberGraph]],
    *,
    shape: tuple[int, ...],
    classes: int,
    rule: str | None,
    answer: Sequence[str] = (),
) -> ir.Model:
    """Join members in one graph; its outputs are their exits, called `<member>` or `<member>-<exit>`, and their gates.

    Args:
        members: with their graphs, which become part of the new one.
        shape: of one sample: what the members take, or an image (channel, height, width) with pixels from 0 to 1.
        classes: of the bundle; 0 if the members do not classify.
        rule: makes a gate for each exit, `<exit>.gate`, from all labels of the member; None makes no gates.
        answer: the parts of an answer, if the members do not classify; their outputs are then called `<exit>.<part>`.

    Raises:
        ModelError, UsageError: an input has another shape or dtype, or the operator sets do not fit.
    """
    graphs = _convert([graph for _, graph in members])
    first = graphs[0].model.graph
    image = ir.Value(name=first.inputs[0].name, type=first.inputs[0].type, shape=ir.Shape([BATCH, *shape]))
    inputs = {str(image.name): image}
    whole = ir.Graph([image], [], nodes=[], opset_imports=dict(first.opset_imports), name="cascade")
    for (member, _), graph in zip(members, graphs, strict=True):
        ends = _take_over(whole, graph, member, inputs)
        tape = ir.tape.Tape(whole)
        for output, value in ends.items():
            name = _name_end(graph.name, output, len(ends), answer)
            if answer:
                value.name = name
                whole.outputs.append(value)
            else:
                own_rule = None if rule is None else member.rule or rule
                _end(tape, whole, name, value, member, classes=classes, rule=own_rule)
        _append(whole, tape)
    whole.inputs[:] = list(inputs.values())
    return ir.Model(whole, ir_version=max(graph.model.ir_version for graph in graphs))


def _convert(graphs: Sequence[MemberGraph]) -> list[MemberGraph]:
    """Bring all members to one operator set, the newest among them.

    Raises:
        ModelError: one cannot be converted, or they use different versions of another set.
    """
    newest = max(graph.model.opset_imports[""] for graph in graphs)
    sets: dict[str, int] = {}
    for graph in graphs:
        for domain, version in graph.model.opset_imports.items():
            if domain and sets.setdefault(domain, version) != version:
                raise ModelError(f"The members use different versions of the operators {domain}: export them anew.")
    converted = []
    for graph in graphs:
        model = graph.model
        if model.opset_imports[""] < newest:
            try:
                model = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), newest))
            except Exception as error:  # its exception types are private
                raise ModelError(
                    f"{graph.name} has opset {graph.model.opset_imports['']}, another member {newest}, and cannot be converted: "
                    f"{first_line(error)} Export it with opset {newest}."
                ) from error
        model.graph.opset_imports.update(sets)
        converted.append(MemberGraph(graph.name, model))
    return converted


def _take_over(
    whole: ir.Graph, member_graph: MemberGraph, member: Member, inputs: dict[str, ir.Value]
) -> dict[str, ir.Value]:
    """Move a member's nodes into the whole graph, behind what makes its input; return its outputs by their names."""
    name, graph = member_graph.name, member_graph.model.graph
    image = next(iter(inputs.values()))
    own, *others = graph.inputs
    outputs = {str(value.name): value for value in graph.outputs}
    nodes, weights = list(graph), list(graph.initializers.values())
    for node in nodes:
        node.name = f"{name}/{node.name}"
    for value in [*weights, *(output for node in nodes for output in node.outputs)]:
        value.name = f"{name}/{value.name}"
    tape = ir.tape.Tape(whole)
    own.replace_all_uses_with(_prepare(tape, image, member, own, name))
    for value in others:
        given = inputs.setdefault(str(value.name), ir.Value(name=value.name, type=value.type, shape=value.shape))
        if (given.dtype, _sizes(given)) != (value.dtype, _sizes(value)):
            raise ModelError(f"The input {value.name} of {name} is {_sizes(value)}, another member's {_sizes(given)}.")
        value.replace_all_uses_with(given)
    graph.outputs.clear()
    graph.remove(nodes)
    graph.initializers.clear()
    for weight in weights:
        whole.register_initializer(weight)
    _append(whole, tape)
    whole.extend(nodes)
    return outputs


def _append(whole: ir.Graph, tape: ir.tape.Tape) -> None:
    """Put recorded nodes and their initializers at the end of a graph."""
    whole.extend(tape.nodes)
    for initializer in tape.initializers:
        whole.register_initializer(initializer)


def _name_end(member: str, output: str, outputs: int, answer: Sequence[str]) -> str:
    """Return what an output is called in the whole graph: `small`, `small-exit0`, `small.boxes` or `small-exit0.boxes`."""
    if output in answer:
        return f"{member}.{output}"
    if outputs > 1:
        return f"{member}-{output}"
    return f"{member}.{answer[0]}" if answer else member


def _prepare(tape: ir.tape.Tape, image: ir.Value, member: Member, own: ir.Value, name: str) -> ir.Value:
    """Record what makes a member's input of the image: its size, its colours, its scale, its layout.

    Each is a product or a sum, or moves numbers, which every engine does alike.

    Raises:
        ModelError: the input cannot be made of it.
    """
    given, taken = _sizes(image), _sizes(own)
    if len(given) != 3 or len(taken) != 3:
        if given != taken:
            raise ModelError(f"{name} takes {taken}, the first input is {given}: only images are made to fit.")
        return image
    if image.dtype != own.dtype and not {image.dtype, own.dtype} <= FLOATS:
        raise ModelError(
            f"{name} takes {_kind(own)}, the first member {_kind(image)}: give networks that take the same."
        )
    if image.dtype not in FLOATS:
        if given != taken:
            raise ModelError(f"{name} takes {taken}, the first member {given}: only images of floats are made to fit.")
        return image
    channels, is_last = given[0], taken[0] != given[0]
    if is_last and taken[2] != channels:
        raise ModelError(f"{name} takes images of shape {taken}, but the bundle's have {channels} channels.")
    fixed = taken[:2] if is_last else taken[1:]
    whole = [int(side or 0) for side in given[1:]]
    size = member.size or tuple(a if isinstance(a, int) else b for a, b in zip(fixed, whole, strict=True))
    if any(isinstance(a, int) and a != b for a, b in zip(fixed, size, strict=True)):
        raise UsageError(f"{name} takes images of {fixed[0]} x {fixed[1]}, not of {size[0]} x {size[1]}.")
    x = image
    if list(size) != whole:
        rows, columns = make_resizing(whole, size, member.preprocess or Preprocess(mean=(0.0,), std=(1.0,)))
        x = tape.op("MatMul", [tape.initializer(ir.tensor(rows), name=f"{name}/rows"), x])
        x = tape.op("MatMul", [x, tape.initializer(ir.tensor(columns), name=f"{name}/columns")])
    if member.bgr:
        x = tape.op("Gather", [x, constant(tape, [2, 1, 0])], {"axis": 1})
    if member.preprocess is not None:
        mean, std = (
            np.array(part, np.float32).reshape(1, -1, 1, 1) for part in (member.preprocess.mean, member.preprocess.std)
        )
        x = tape.op("Mul", [x, tape.initializer(ir.tensor(1 / std), name=f"{name}/scale")])
        x = tape.op("Add", [x, tape.initializer(ir.tensor(-mean / std), name=f"{name}/shift")])
    if is_last:
        x = tape.op("Transpose", [x], {"perm": [0, 2, 3, 1]})
    if own.dtype is not None and own.dtype != image.dtype:
        x = tape.op("Cast", [x], {"to": own.dtype})
    if x is not image and own.dtype is not None:
        x.dtype, x.shape = own.dtype, ir.Shape([BATCH, *((*size, channels) if is_last else (channels, *size))])
    return x


def _end(
    tape: ir.tape.Tape,
    whole: ir.Graph,
    name: str,
    value: ir.Value,
    member: Member,
    *,
    classes: int,
    rule: str | None,
) -> None:
    """Make a member's answer an output of the whole graph, in the bundle's labels, and add its gate."""
    labels, producer, opset = _sizes(value)[-1], value.producer(), whole.opset_imports[""]
    is_softmax = producer is not None and producer.op_type == "Softmax"
    logits, table = value, None
    if member.classes is not None:
        table = make_label_table(member.classes, int(labels or 0), classes, name)
        p = value if is_softmax else tape.op("Softmax", [value], {"axis": -1})
        p = tape.op("MatMul", [p, tape.initializer(ir.tensor(table), name=f"{name}/labels")])
    elif labels != classes:
        raise UsageError(
            f"{name} has {labels} labels, the bundle {classes}: give classes=, the bundle's label for each."
        )
    else:
        p = value
    if table is not None or (is_softmax and rule is not None):
        logits = tape.op("Log", [tape.op("Clip", [p, constant(tape, LEAST_PROBABILITY)])])
        logits.dtype, logits.shape = ir.DataType.FLOAT, ir.Shape([BATCH, classes])
    if rule is not None:
        is_partial = table is not None and not table.any(1).all()
        gate = reduce(tape, "ReduceMax", p, opset) if is_partial else RULES[rule](tape, logits, opset)
        gate.name, gate.dtype, gate.shape = f"{name}.gate", ir.DataType.FLOAT, ir.Shape([BATCH])
        whole.outputs.append(gate)
    logits.name = name
    whole.outputs.append(logits)


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
            f"classes of {name} has {len(given)} entries for its {labels} labels: give one each, None to pass on."
        )
    table = np.zeros((labels, classes), np.float32)
    for own, label in pairs.items():
        if not 0 <= own < labels or (label is not None and not 0 <= label < classes):
            raise UsageError(
                f"classes of {name} calls its label {own} {label} in the bundle: it has labels 0 to {labels - 1}, the bundle "
                f"0 to {classes - 1}."
            )
        if label is not None:
            table[own, label] = 1
    if not table.any():
        raise UsageError(f"classes of {name} keeps none of its labels.")
    return table


def _sizes(value: ir.Value) -> tuple[int | str | None, ...]:
    """Return a value's axes without the batch."""
    assert value.shape is not None
    return tuple(axis if isinstance(axis, int) else axis.value for axis in value.shape)[1:]


def _kind(value: ir.Value) -> str:
    return value.dtype.name if value.dtype else "values of no type"
