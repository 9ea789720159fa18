"""Members joined in one graph, which reads one input.

image -> [resize, normalise] -> small -> [its labels] -> exit
  |
  +----> [resize, normalise] -> large -> [its labels] -> exit
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from msgspec.structs import replace

from ...bundle import Preprocess
from ...errors import ModelError, UsageError
from ..cut.rules import LEAST_PROBABILITY, RULES
from ..graph.axes import BATCH, first_line
from ..graph.edits import constant, reduce
from .member import Member, MemberGraph
from .resizing import make_resizing

__all__ = ["join"]

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}

KEEPS_PROBABILITIES = {"Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze"}
"""Operators behind which probabilities are still such."""


def join(
    members: Sequence[tuple[Member, MemberGraph]],
    *,
    shape: tuple[int, ...],
    classes: int,
    rule: str | None,
    answer: Sequence[str] = (),
    takes: str | None = None,
) -> tuple[ir.Model, list[str]]:
    """Join members in one graph; its outputs are their exits, called `<member>` or `<member>-<exit>`, and their gates.

    Args:
        members: with their graphs, which become part of the new one.
        shape: of one sample: what the members take, or an image (channel, height, width) with pixels from 0 to 1.
        classes: of the bundle; 0 if the members do not classify.
        rule: makes a gate for each exit, `<exit>.gate`, from all labels of the member; None makes no gates.
        answer: the parts of an answer, if the members do not classify; their outputs are then called `<exit>.<part>`.
        takes: what the input is called; as the first member's by default.

    Returns:
        The graph and the names of the exits.

    Raises:
        ModelError, UsageError: an input has another shape or dtype, or the operator sets do not fit.
    """
    graphs = _convert([graph for _, graph in members])
    first = graphs[0].model.graph
    kinds = {graph.model.graph.inputs[0].dtype for graph in graphs}
    has_images = any(member.preprocess is not None for member, _ in members)
    kind = first.inputs[0].dtype
    if kind is None or has_images or (len(kinds) > 1 and kinds <= FLOATS):
        kind = ir.DataType.FLOAT
    image = ir.Value(name=takes or first.inputs[0].name, type=ir.TensorType(kind), shape=ir.Shape([BATCH, *shape]))
    inputs = {str(image.name): image}
    taken = {str(image.name)} | {str(value.name) for graph in graphs for value in graph.model.graph.inputs}
    exits: list[str] = []
    whole = ir.Graph([image], [], nodes=[], opset_imports=dict(first.opset_imports), name="cascade")
    for (member, _), graph in zip(members, graphs, strict=True):
        ends = _take_over(whole, graph, member, inputs)
        tape = ir.tape.Tape(whole)
        for output, value in ends.items():
            name = _name_end(graph.name, output, len(ends), answer)
            while taken & {name, f"{name}.gate"}:
                name = f"{name}_"
            taken |= {name, f"{name}.gate"}
            exits.append(name)
            if answer:
                value.name = name
                whole.outputs.append(value)
            else:
                own_rule = None if rule is None else member.rule or rule
                _end(tape, whole, name, value, member, classes=classes, rule=own_rule)
        _append(whole, tape)
    whole.inputs[:] = list(inputs.values())
    return ir.Model(whole, ir_version=max(graph.model.ir_version for graph in graphs)), exits


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
            weights = {name: value.const_value for name, value in model.graph.initializers.items()}
            try:
                model = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), newest))
            except Exception as error:  # its exception types are private
                raise ModelError(
                    f"{graph.name} has opset {graph.model.opset_imports['']}, another member {newest}, and cannot be converted: "
                    f"{first_line(error)} Export it with opset {newest}."
                ) from error
            for name, value in model.graph.initializers.items():  # the converter forgets the folder of external data
                value.const_value = weights.get(name, value.const_value)
        model.graph.opset_imports.update(sets)
        converted.append(replace(graph, model=model))
    return converted


def _take_over(
    whole: ir.Graph, member_graph: MemberGraph, member: Member, inputs: dict[str, ir.Value]
) -> dict[str, ir.Value]:
    """Move a member's nodes into the whole graph, behind what makes its input; return its outputs by their names."""
    name, graph = member_graph.name, member_graph.model.graph
    image = next(iter(inputs.values()))
    own = next((value for value in graph.inputs if value.name == image.name), graph.inputs[0])
    others = [value for value in graph.inputs if value is not own]
    outputs = {str(value.name): value for value in graph.outputs}
    nodes, weights = list(graph), list(graph.initializers.values())
    inner = [node.graph for node in graph.all_nodes() if node.graph is not None and node.graph is not graph]
    inside = [*(v for g in inner for v in (*g.inputs, *g.initializers.values()))]
    for node in nodes:
        node.name = f"{name}/{node.name}"
    for value in dict.fromkeys([*weights, *inside, *(output for node in graph.all_nodes() for output in node.outputs)]):
        value.name = f"{name}/{value.name}" if value.name else value.name  # an output that is left out has no name
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
    """Record what makes a member's input of the bundle's.

    Raises:
        ModelError, UsageError: the input cannot be made of it.
    """
    given, taken = _sizes(image), _sizes(own)
    kinds = {image.dtype, own.dtype}
    if kinds <= FLOATS and len(given) == len(taken) == 3:
        return _prepare_image(tape, image, member, own, name)
    if kinds == {ir.DataType.FLOAT, ir.DataType.UINT8} and member.preprocess is not None and len(taken) == 3:
        return _prepare_image(tape, image, member, own, name)  # of a bundle whose first nodes scale the pixels
    if member.bgr or member.size is not None or member.preprocess is not None:
        raise UsageError(f"size, bgr and preprocess are for images of floats, but {name} takes {_kind(own)} {taken}.")
    if len(kinds) > 1 and not kinds <= FLOATS:
        raise ModelError(
            f"{name} takes {_kind(own)}, the first member {_kind(image)}: give networks that take the same."
        )
    if len(given) != len(taken) or any(isinstance(b, int) and a != b for a, b in zip(given, taken, strict=True)):
        raise ModelError(f"{name} takes {taken}, the bundle {given}: only images of floats are made to fit.")
    return _cast(tape, image, own.dtype)


def _prepare_image(tape: ir.tape.Tape, image: ir.Value, member: Member, own: ir.Value, name: str) -> ir.Value:
    """Record what makes a member's image of the bundle's: its size, its colours, its scale, its layout.

    Each is a product or a sum, or moves numbers, which every engine does alike.

    Raises:
        ModelError, UsageError: the image cannot be made of it.
    """
    given, taken, how = _sizes(image), _sizes(own), member.preprocess
    fits = all(a == b or not isinstance(b, int) for a, b in zip(given, taken, strict=True))
    if fits and own.dtype != ir.DataType.UINT8 and how is None and not member.bgr and member.size in (None, given[1:]):
        return _cast(tape, image, own.dtype)
    channels, is_last = given[0], isinstance(taken[0], int) and taken[0] != given[0]
    if is_last and taken[2] != channels:
        raise ModelError(
            f"{name} takes images {taken}, the bundle images {given} (channel, height, width): give members and samples (batch, "
            "channel, height, width) of the same channels."
        )
    if (member.bgr and channels != 3) or (how is not None and len(how.mean) not in (1, channels)):
        raise UsageError(f"Images of {name} have {channels} channels: bgr and the mean of preprocess do not fit.")
    if own.dtype == ir.DataType.UINT8 and how is not None and {*how.mean, *how.std} != {0.0, 1.0}:
        raise UsageError(f"{name} takes uint8 images, which it normalises itself: its preprocess has mean 0 and std 1.")
    fixed = taken[:2] if is_last else taken[1:]
    whole = [int(side or 0) for side in given[1:]]
    size = member.size or tuple(a if isinstance(a, int) else b for a, b in zip(fixed, whole, strict=True))
    if any(isinstance(a, int) and a != b for a, b in zip(fixed, size, strict=True)):
        raise UsageError(f"{name} takes images of {fixed[0]} x {fixed[1]}, not of {size[0]} x {size[1]}.")
    x = _cast(tape, image, ir.DataType.FLOAT)
    if list(size) != whole or (how is not None and how.resize == "crop" and how.crop < 1):
        resizing = make_resizing(whole, size, how or Preprocess(mean=(0.0,), std=(1.0,)))
        for side, matrix in zip(("columns", "rows"), reversed(resizing), strict=True):  # in Pillow's order
            weights = tape.initializer(ir.tensor(matrix), name=f"{name}/{side}")
            x = tape.op("MatMul", [x, weights] if side == "columns" else [weights, x])
            if how is not None and how.interpolation == "bicubic":  # which goes beyond black and white at edges
                x = tape.op("Clip", [x, constant(tape, 0.0), constant(tape, 1.0)])
    if member.bgr:
        x = tape.op("Gather", [x, constant(tape, [2, 1, 0])], {"axis": 1})
    if own.dtype == ir.DataType.UINT8:
        x = tape.op("Round", [tape.op("Mul", [x, constant(tape, 255.0)])])
    elif how is not None:
        mean, std = (np.array(part, np.float32).reshape(1, -1, 1, 1) for part in (how.mean, how.std))
        x = tape.op("Mul", [x, tape.initializer(ir.tensor(1 / std), name=f"{name}/scale")])
        x = tape.op("Add", [x, tape.initializer(ir.tensor(-mean / std), name=f"{name}/shift")])
    if is_last:
        x = tape.op("Transpose", [x], {"perm": [0, 2, 3, 1]})
    x.dtype = ir.DataType.FLOAT
    x = _cast(tape, x, own.dtype)
    if x is not image:
        x.shape = ir.Shape([BATCH, *((*size, channels) if is_last else (channels, *size))])
    return x


def _cast(tape: ir.tape.Tape, value: ir.Value, kind: ir.DataType | None) -> ir.Value:
    if kind is None or value.dtype == kind:
        return value
    cast = tape.op("Cast", [value], {"to": kind})
    cast.dtype, cast.shape = kind, value.shape
    return cast


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
    """Make a member's answer an output of the whole graph, in the bundle's labels, and add its gate.

    Raises:
        ModelError, UsageError: it is no logits, or its labels are not the bundle's.
    """
    if value.shape is None:
        raise ModelError(f"The shape of output {name} is unknown: export the file with the shapes of its outputs.")
    shape, opset = _sizes(value), whole.opset_imports[""]
    labels = shape[-1] if shape else None
    hint = "name the outputs that are exits (Member(exits=[...]), --exits)"
    if not isinstance(labels, int) or (len(shape) > 1 and (member.classes is not None or rule is not None)):
        raise ModelError(f"Output {name} has the shape {('batch', *shape)}, but logits are (batch, classes): {hint}.")
    is_softmax, logits, table = _is_softmax(value), value, None
    if member.classes is not None:
        table = make_label_table(member.classes, labels, classes, name)
        p = _cast(tape, value, ir.DataType.FLOAT)
        p = p if is_softmax else tape.op("Softmax", [p], {"axis": -1})
        p = tape.op("MatMul", [p, tape.initializer(ir.tensor(table), name=f"{name}/labels")])
    elif labels != classes:
        raise UsageError(
            f"{name} has {labels} labels, the bundle {classes}: give classes=, the bundle's label for each, or {hint}."
        )
    else:
        p = value if rule is None else _cast(tape, value, ir.DataType.FLOAT)
        logits = p
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


def _is_softmax(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in KEEPS_PROBABILITIES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "Softmax"


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
    """Return a value's axes without the batch; none if its shape is unknown."""
    return tuple(axis if isinstance(axis, int) else axis.value for axis in value.shape or ())[1:]


def _kind(value: ir.Value) -> str:
    return value.dtype.name if value.dtype else "values of no type"
