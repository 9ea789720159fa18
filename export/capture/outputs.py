"""Which of a network's outputs are its exits."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ...errors import ModelError, UsageError, unknown_name

EXITS_HINT = "Name the outputs that are exits, in order, with exits=[...] (--exits)."


class ExitSource(NamedTuple):
    """Where an exit's logits are: the exit's name, the output, and the row of it where the output stacks several exits."""

    name: str
    output: str
    row: int | None


def flatten_outputs(output: Any) -> dict[str, Any]:
    """Name every tensor in what a torch network returns.

    A list's or tuple's are `exit0`, `exit1`, ...; a dict's and a dataclass's have their keys; nested ones are joined by dots.

    Raises:
        ModelError: two have the same name, or something is neither a tensor nor holds some.
    """
    if isinstance(output, (list, tuple)) and not hasattr(output, "_fields"):
        output = {f"exit{k}": value for k, value in enumerate(output)}
    found: dict[str, Any] = {}
    _flatten("", output, found)
    return found


def _flatten(name: str, value: Any, found: dict[str, Any]) -> None:
    inner: list[tuple[str, Any]]
    if value is None:
        return
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        if (name or "output") in found:
            raise ModelError(f"Two outputs of the network have the same name, {name}.")
        found[name or "output"] = value
        return
    if isinstance(value, Mapping):
        inner = [(str(key), part) for key, part in value.items()]
    elif hasattr(value, "_asdict"):
        inner = list(value._asdict().items())
    elif dataclasses.is_dataclass(value):
        inner = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, (list, tuple)):
        inner = [(str(k), part) for k, part in enumerate(value)]
    else:
        what = f"Output {name}" if name else "What the network returns"
        raise ModelError(
            f"{what} is a {type(value).__name__}: a network returns its exits as a list, tuple, dict or dataclass of logits, "
            "or as one stacked tensor (exit, batch, class)."
        )
    for key, part in inner:
        _flatten(f"{name}.{key}" if name else key, part, found)


def choose_exits(
    one: Mapping[str, np.ndarray], many: Mapping[str, np.ndarray], exits: Sequence[str] | None
) -> list[ExitSource]:
    """Find the exits among the outputs of a network.

    Args:
        one, many: what it gives for one sample and for several, by name.
        exits: the outputs that are exits, in order; None where all are.

    Returns:
        One source per exit.

    Raises:
        UsageError: there is no output of a name.
        ModelError: an output is no logits (batch, classes), nor a stack of them, or they differ in their classes.
    """
    for name in exits or ():
        if name not in many:
            raise unknown_name("output", name, many)
    if exits is not None and len(set(exits)) < len(exits):
        raise UsageError(f"An output is named twice among the exits {', '.join(exits)}: list each once.")
    sources, classes = [], {}
    for name in many if exits is None else exits:
        shape, rows = many[name].shape, _batch_axis(one[name], many[name])
        if len(shape) == 2 and rows == 0:
            sources.append(ExitSource(name, name, None))
        elif len(shape) == 3 and rows == 1:
            alone = len(many) == 1
            sources += [ExitSource(f"exit{k}" if alone else f"{name}.{k}", name, k) for k in range(shape[0])]
        else:
            raise ModelError(
                f"Output {name} has the shape {shape} for {shape[rows] if rows is not None else 'several'} samples; an exit's "
                f"logits are (batch, classes), or stacked (exit, batch, class). {EXITS_HINT}"
            )
        if many[name].dtype.name not in ("float16", "float32", "float64"):
            raise ModelError(
                f"Output {name} is {many[name].dtype}; logits are float16, float32 or float64. {EXITS_HINT}"
            )
        classes[name] = shape[-1]
    if len(sources) < 2:
        raise ModelError(f"The network has {len(sources)} exit; early exit needs at least two. attach() adds some.")
    if len(set(classes.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in classes.items())
        raise ModelError(f"The exits differ in their number of classes: {each}. {EXITS_HINT}")
    if min(classes.values()) < 2:
        raise ModelError("The exits have one class only; offramp serves classification with at least two.")
    return sources


def check_gates(outputs: Mapping[str, np.ndarray], gates: Sequence[str], sources: Sequence[ExitSource]) -> None:
    """See that a network's own gates are there: one per exit, or per exit but the last, each (batch,) or (batch, 1) of floats.

    Raises:
        UsageError: there is no output of a name, or too few or too many.
        ModelError: one has another shape.
    """
    for name in gates:
        if name not in outputs:
            raise unknown_name("output", name, outputs)
        shape = outputs[name].shape
        if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)) or outputs[name].dtype.kind != "f":
            raise ModelError(f"The gate {name} is {outputs[name].dtype} {shape}; a gate is one float per sample.")
    if gates and len(gates) not in (len(sources), len(sources) - 1):
        raise UsageError(
            f"There are {len(gates)} gates for {len(sources)} exits: give one per exit; the last may go without."
        )


def pad_gates(gates: Sequence[ir.Value], exits: int) -> list[ir.Value | None]:
    """Return one gate per exit; the last listed may have none."""
    return [*gates, *[None] * (exits - len(gates))] if gates else []


def read_exits(outputs: Mapping[str, np.ndarray], sources: Sequence[ExitSource]) -> list[np.ndarray]:
    """Return each exit's logits (N, classes) from a network's outputs."""
    return [outputs[s.output] if s.row is None else outputs[s.output][s.row] for s in sources]


def find_exits(graph: ir.Graph, outputs: Mapping[str, ir.Value], sources: Sequence[ExitSource]) -> list[ir.Value]:
    """Return the value of each exit's logits in the graph; stacked ones are followed back to the parts they were stacked from.

    Raises:
        ModelError: a stacked output is not put together along its first axis, so no exit can be had without the others.
    """
    stacked = {source.output for source in sources if source.row is not None}
    stacks = {name: _unstack(graph, outputs[name]) for name in stacked}
    for name, parts in stacks.items():
        if len(parts) != sum(s.output == name for s in sources):
            raise ModelError(f"Output {name} stacks its exits in parts of unknown size: return them as a list instead.")
    return [outputs[s.output] if s.row is None else stacks[s.output][s.row] for s in sources]


def _unstack(graph: ir.Graph, value: ir.Value) -> list[ir.Value]:
    """Return the rows that a value was put together from along its first axis."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if not _joins_rows(node):
        raise ModelError(
            f"Output {value.name} is one tensor of all exits that is not stacked from them along its first axis at the end: "
            "return the exits as a list instead."
        )
    rows: list[ir.Value] = []
    for part in node.inputs:  # type: ignore[union-attr]
        assert part is not None
        source = part.producer()
        if (
            source is not None
            and source.op_type == "Unsqueeze"
            and _unsqueezed(source) == [0]
            and source.inputs[0] is not None
        ):
            rows.append(source.inputs[0])
        elif _joins_rows(source):
            rows += _unstack(graph, part)
        else:
            rows += _take_rows(graph, part)
    return rows


def _joins_rows(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Concat" and node.attributes.get_int("axis", 1) == 0


def _take_rows(graph: ir.Graph, part: ir.Value) -> list[ir.Value]:
    """Add nodes that take each row of a part that was computed as a whole."""
    count = part.shape[0] if part.shape is not None and len(part.shape) else None
    if not isinstance(count, int):
        raise ModelError(
            f"The exits are stacked from parts of unknown size ({part.name}): return them as a list instead."
        )
    tape, rows = ir.tape.Tape(graph), []
    for row in range(count):
        index = tape.initializer(ir.tensor(np.array(row, np.int64)), name=f"offramp.row.{part.name}.{row}")
        rows.append(tape.op("Gather", [part, index], {"axis": 0}))
        rows[-1].type, rows[-1].shape = part.type, ir.Shape(part.shape[1:])  # type: ignore[index]
    return rows


def _unsqueezed(node: ir.Node) -> list[int] | None:
    """Return the axes of an Unsqueeze: an attribute up to opset 12, an input since."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    return None if axes is None else [int(axis) for axis in axes.numpy().reshape(-1)]


def _batch_axis(one: np.ndarray, many: np.ndarray) -> int | None:
    changed = [i for i, (a, b) in enumerate(zip(one.shape, many.shape, strict=False)) if a != b]
    return changed[0] if len(changed) == 1 else None
