"""Members joined in one graph, which reads one input.

image -> [resize, normalise] -> small -> [its labels] -> exit
  |
  +----> [resize, normalise] -> large -> [its labels] -> exit
"""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from msgspec.structs import replace

from ...bundle import Preprocess
from ...errors import ModelError, UsageError
from ..graph.axes import BATCH, first_line
from ..graph.edits import constant
from .labels import Answer, add_exit, cast, sizes
from .member import Member, MemberGraph
from .resizing import make_resizing

__all__ = ["is_channels_last", "join"]

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}


def join(
    exits: Sequence[Sequence[tuple[Member, MemberGraph]]],
    *,
    shape: tuple[int, ...],
    classes: int,
    rule: str | None,
    answer: Sequence[str] = (),
    takes: str | None = None,
    normalised: Preprocess | None = None,
) -> tuple[ir.Model, list[str]]:
    """Join members in one graph; its outputs are their exits and their gates.

    Exits are called `<member>` or `<member>-<exit>`, and `vote` where several members vote.

    Args:
        exits: the members with their graphs, which become part of the new one; several vote, with one output each.
        shape: of one sample: what the members take, or an image (channel, height, width) with pixels from 0 to 1.
        classes: of the bundle; 0 if the members do not classify.
        rule: makes a gate for each exit, `<exit>.gate`, from all labels of the member; None makes no gates.
        answer: the parts of an answer, if the members do not classify; their outputs are then called `<exit>.<part>`.
        takes: what the input is called; as the first member's by default.
        normalised: how the pixels of the image are normalised already; None if they are from 0 to 1.

    Returns:
        The graph and the names of the exits.

    Raises:
        ModelError, UsageError: an input has another shape or dtype, or the operator sets do not fit.
    """
    graphs = _convert([graph for voters in exits for _, graph in voters])
    first = graphs[0].model.graph
    kinds = {graph.model.graph.inputs[0].dtype for graph in graphs}
    has_images = any(member.preprocess is not None for voters in exits for member, _ in voters)
    kind = first.inputs[0].dtype
    if kind is None or has_images or (len(kinds) > 1 and kinds <= FLOATS):
        kind = ir.DataType.FLOAT
    image = ir.Value(name=takes or first.inputs[0].name, type=ir.TensorType(kind), shape=ir.Shape([BATCH, *shape]))
    inputs = {str(image.name): image}
    taken = {str(image.name)} | {str(value.name) for graph in graphs for value in graph.model.graph.inputs}
    named: list[str] = []
    whole = ir.Graph([image], [], nodes=[], opset_imports=dict(first.opset_imports), name="cascade")
    converted = iter(graphs)
    for voters in exits:
        found: dict[str, list[Answer]] = {}
        for member, _ in voters:
            graph = next(converted)
            ends = _take_over(whole, graph, member, inputs, normalised)
            if len(voters) > 1 and len(ends) > 1:
                raise UsageError(
                    f"{graph.name} has the outputs {', '.join(ends)}, but a network that votes has one: name it "
                    "(Member(exits=[...]), --exits)."
                )
            for output, value in ends.items():
                own = _name_end(graph.name, output, len(ends), answer)
                found.setdefault("vote" if len(voters) > 1 else own, []).append(Answer(own, value, member))
        tape = ir.tape.Tape(whole)
        for name, answers in found.items():
            while taken & {name, f"{name}.gate"}:
                name = f"{name}_"
            taken |= {name, f"{name}.gate"}
            named.append(name)
            if answer:
                answers[0].value.name = name
                whole.outputs.append(answers[0].value)
            else:
                own_rule = None if rule is None else answers[0].member.rule or rule
                add_exit(tape, whole, name, answers, classes=classes, rule=own_rule)
        _append(whole, tape)
    whole.inputs[:] = list(inputs.values())
    return ir.Model(whole, ir_version=max(graph.model.ir_version for graph in graphs)), named


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
    whole: ir.Graph,
    member_graph: MemberGraph,
    member: Member,
    inputs: dict[str, ir.Value],
    normalised: Preprocess | None,
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
    own.replace_all_uses_with(_prepare(tape, image, member, own, name, normalised))
    for value in others:
        given = inputs.setdefault(str(value.name), ir.Value(name=value.name, type=value.type, shape=value.shape))
        if (given.dtype, sizes(given)) != (value.dtype, sizes(value)):
            raise ModelError(f"The input {value.name} of {name} is {sizes(value)}, another member's {sizes(given)}.")
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


def _prepare(
    tape: ir.tape.Tape, image: ir.Value, member: Member, own: ir.Value, name: str, normalised: Preprocess | None
) -> ir.Value:
    """Record what makes a member's input of the bundle's.

    Raises:
        ModelError, UsageError: the input cannot be made of it.
    """
    given, taken = sizes(image), sizes(own)
    kinds = {image.dtype, own.dtype}
    if kinds <= FLOATS and len(given) == len(taken) == 3:
        return _prepare_image(tape, image, member, own, name, normalised)
    if kinds == {ir.DataType.FLOAT, ir.DataType.UINT8} and member.preprocess is not None and len(taken) == 3:
        return _prepare_image(
            tape, image, member, own, name, normalised
        )  # of a bundle whose first nodes scale the pixels
    if member.bgr or member.size is not None or member.preprocess is not None:
        raise UsageError(f"size, bgr and preprocess are for images of floats, but {name} takes {_kind(own)} {taken}.")
    if len(kinds) > 1 and not kinds <= FLOATS:
        raise ModelError(
            f"{name} takes {_kind(own)}, the first member {_kind(image)}: give networks that take the same."
        )
    if len(given) != len(taken) or any(isinstance(b, int) and a != b for a, b in zip(given, taken, strict=True)):
        raise ModelError(f"{name} takes {taken}, the bundle {given}: only images of floats are made to fit.")
    return cast(tape, image, own.dtype)


def _prepare_image(
    tape: ir.tape.Tape, image: ir.Value, member: Member, own: ir.Value, name: str, normalised: Preprocess | None
) -> ir.Value:
    """Record what makes a member's image of the bundle's: its size, its colours, its scale, its layout.

    Each is a product or a sum, or moves numbers, which every engine does alike.

    Raises:
        ModelError, UsageError: the image cannot be made of it.
    """
    given, taken, how = sizes(image), sizes(own), member.preprocess
    fits = all(a == b or not isinstance(b, int) for a, b in zip(given, taken, strict=True))
    is_given_last = is_channels_last(given) and given[2] in (taken[0], taken[2])
    channels, whole = (given[2], given[:2]) if is_given_last else (given[0], given[1:])
    if fits and own.dtype != ir.DataType.UINT8 and how is None and not member.bgr and member.size in (None, whole):
        return cast(tape, image, own.dtype)
    is_last = taken[2] == channels if is_given_last else isinstance(taken[0], int) and taken[0] != channels
    if is_last and taken[2] != channels:
        raise ModelError(
            f"{name} takes images {taken}, the bundle images {given}: give members and samples of the same channels, (batch, "
            "channel, height, width) or (batch, height, width, channel)."
        )
    if (member.bgr and channels != 3) or (how is not None and len(how.mean) not in (1, channels)):
        raise UsageError(f"Images of {name} have {channels} channels: bgr and the mean of preprocess do not fit.")
    if own.dtype == ir.DataType.UINT8 and how is not None and {*how.mean, *how.std} != {0.0, 1.0}:
        raise UsageError(f"{name} takes uint8 images, which it normalises itself: its preprocess has mean 0 and std 1.")
    fixed = taken[:2] if is_last else taken[1:]
    full = [int(side or 0) for side in whole]
    size = member.size or tuple(a if isinstance(a, int) else b for a, b in zip(fixed, full, strict=True))
    if any(isinstance(a, int) and a != b for a, b in zip(fixed, size, strict=True)):
        raise UsageError(f"{name} takes images of {fixed[0]} x {fixed[1]}, not of {size[0]} x {size[1]}.")
    x = cast(tape, image, ir.DataType.FLOAT)
    if is_given_last:
        x = tape.op("Transpose", [x], {"perm": [0, 3, 1, 2]})
    if how is not None and normalised is not None:
        x = _scale(tape, x, np.array(normalised.std), np.array(normalised.mean), f"{name}/pixels")
    if list(size) != full or (how is not None and how.resize == "crop" and how.crop < 1):
        resizing = make_resizing(full, size, how or Preprocess(mean=(0.0,), std=(1.0,)))
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
        mean, std = np.array(how.mean), np.array(how.std)
        x = _scale(tape, x, 1 / std, -mean / std, name)
    if is_last:
        x = tape.op("Transpose", [x], {"perm": [0, 2, 3, 1]})
    x.dtype = ir.DataType.FLOAT
    x = cast(tape, x, own.dtype)
    if x is not image:
        x.shape = ir.Shape([BATCH, *((*size, channels) if is_last else (channels, *size))])
    return x


def is_channels_last(shape: Sequence[int | str | None]) -> bool:
    """Tell whether floats of three axes are images (height, width, channel)."""
    known = [axis for axis in shape if isinstance(axis, int)]
    return len(shape) == len(known) == 3 and known[2] <= 4 < known[0]


def _scale(tape: ir.tape.Tape, x: ir.Value, scale: np.ndarray, shift: np.ndarray, name: str) -> ir.Value:
    """Record x * scale + shift, with one number of each for every channel."""
    for operator, numbers, what in (("Mul", scale, "scale"), ("Add", shift, "shift")):
        weights = ir.tensor(numbers.astype(np.float32).reshape(1, -1, 1, 1))
        x = tape.op(operator, [x, tape.initializer(weights, name=f"{name}/{what}")])
    return x


def _kind(value: ir.Value) -> str:
    return value.dtype.name if value.dtype else "values of no type"
