"""The exits and gates among a network's outputs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ...errors import ModelError, UsageError, unknown_name
from ...runtime.chain.parts import Parts
from ..graph.walk import name_producers
from .answers import choose_answers

__all__ = [
    "ExitSource",
    "are_probabilities",
    "check_repeats",
    "choose_exits",
    "find_exits",
    "flatten_outputs",
    "pad_gates",
    "read_exits",
]

EXITS_HINT = (
    "Name the outputs that are exits, in order, with exits=[...] (--exits). If only one is, wrap the network so that it returns "
    "that one alone, and attach() adds exits."
)


class ExitSource(NamedTuple):
    """Where an exit's answer is.

    Attributes:
        name: the exit's name.
        outputs: the names of the network's outputs that hold the parts of its answer: {"logits": ...} if the network classifies.
        row: the exit's row in the output if it stacks several exits (exit, batch, class), else None.
    """

    name: str
    outputs: dict[str, str]
    row: int | None

    @property
    def output(self) -> str:
        """The name of the output that holds its first part."""
        return next(iter(self.outputs.values()))


def check_repeats(first: Mapping[str, np.ndarray], again: Mapping[str, np.ndarray]) -> None:
    """See that a network gives the same outputs when it runs on the same samples again.

    Raises:
        ModelError: it does not.
    """
    for name, values in first.items():
        if not np.array_equal(values, again[name], equal_nan=values.dtype.kind == "f"):
            raise ModelError(
                f"Output {name} differs between two runs on the same samples: the network draws random numbers, or remembers "
                "earlier calls."
            )


def flatten_outputs(output: Any) -> dict[str, Any]:
    """Name every tensor in what a torch network returns.

    The tensors of a list or tuple are called `exit0`, `exit1`, ...; those of a dict or dataclass have their keys. Names of nested
    ones are joined by dots: `aux.exit0`.

    Raises:
        ModelError: two tensors have the same name, or a part is neither a tensor nor a container of tensors.
    """
    if isinstance(output, (list, tuple)) and not hasattr(output, "_fields"):
        output = {f"exit{k}": value for k, value in enumerate(output)}
    tensors: dict[str, Any] = {}
    _collect_tensors("", output, tensors)
    return tensors


def _collect_tensors(name: str, value: Any, tensors: dict[str, Any]) -> None:
    inner: list[tuple[str, Any]]
    if value is None:
        return
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        if (name or "output") in tensors:
            raise ModelError(f"Two outputs of the network have the same name, {name}.")
        tensors[name or "output"] = value
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
        subject = f"Output {name}" if name else "The network's output"
        if isinstance(value, (int, float)):
            raise ModelError(
                f"{subject} is a number ({type(value).__name__}), not a tensor. If it says by which exit the network left, let "
                "it return the logits of all its exits instead: offramp chooses among them by thresholds."
            )
        raise ModelError(
            f"{subject} is a {type(value).__name__}: a network returns its exits as a list, tuple, dict or dataclass of logits, "
            "or as one stacked tensor (exit, batch, class)."
        )
    for key, part in inner:
        _collect_tensors(f"{name}.{key}" if name else key, part, tensors)


def choose_exits(
    one: Mapping[str, np.ndarray],
    many: Mapping[str, np.ndarray],
    exits: Sequence[str] | None,
    gates: Sequence[str] = (),
    answer: Sequence[str] = (),
) -> list[ExitSource]:
    """Find the exits among the outputs of a network.

    Args:
        one, many: its outputs for one sample and for several, by name.
        exits: the names of the outputs that are exits, in order; None if all are but the gates.
        gates: the names of the outputs that are gates.
        answer: the names of the parts of an answer; none if the network classifies.

    Returns:
        The source of each exit's answer.

    Raises:
        UsageError: there is no output of a name, or the number of gates does not fit.
        ModelError: an exit is neither logits (batch, classes) nor a stack of them, the exits differ in their classes, logits are
            not finite, or a gate is not one float for each sample.
    """
    candidates = {name: values for name, values in many.items() if name not in gates}
    if exits is not None and len(set(exits)) < len(exits):
        raise UsageError(f"An output is named twice among the exits {', '.join(exits)}: list each once.")
    if answer:
        chosen = choose_answers(one, many, answer, exits, gates)
        sources = [ExitSource(name, outputs, None) for name, outputs in chosen.items()]
        _check_gates(many, gates, sources)
        return sources
    for name in exits or ():
        if name not in candidates:
            raise unknown_name("output", name, candidates)
    sources = [
        source
        for name in (candidates if exits is None else exits)
        for source in _find_sources(name, one[name], many[name], alone=len(candidates) == 1)
    ]
    _check_classes(sources, many)
    _check_finite(sources, many)
    _check_gates(many, gates, sources)
    return sources


def _find_sources(name: str, one: np.ndarray, many: np.ndarray, *, alone: bool) -> list[ExitSource]:
    """Return the exits in an output, from its values for one sample and for several; `alone` if it is the only output."""
    shape, axis = many.shape, _find_batch_axis(one, many)
    if len(shape) == 2 and axis == 0:
        sources = [ExitSource(name, {"logits": name}, None)]
    elif len(shape) == 3 and axis == 1:
        sources = [ExitSource(f"exit{k}" if alone else f"{name}.{k}", {"logits": name}, k) for k in range(shape[0])]
    else:
        raise ModelError(
            f"Output {name} has the shape {shape} for {'several' if axis is None else shape[axis]} samples; an exit's "
            f"logits are (batch, classes), or stacked (exit, batch, class). {EXITS_HINT} If the network does not classify, name "
            "the parts of its answers: answer=['boxes', 'classes'] (--answer)."
        )
    if many.dtype.name not in ("float16", "float32", "float64"):
        raise ModelError(f"Output {name} is {many.dtype}; logits are float16, float32 or float64. {EXITS_HINT}")
    return sources


def _check_classes(sources: Sequence[ExitSource], outputs: Mapping[str, np.ndarray]) -> None:
    """See that there are several exits with the same classes."""
    if len(sources) < 2:
        raise ModelError(
            f"The network has {len(sources)} exit; early exit needs at least two. attach() adds exits to a "
            "network in torch that returns one tensor of logits; cascade() joins two networks, ONNX files too."
        )
    classes = {source.output: outputs[source.output].shape[-1] for source in sources}
    if len(set(classes.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in classes.items())
        raise ModelError(f"The exits differ in their number of classes: {each}. {EXITS_HINT}")
    if min(classes.values()) < 2:
        raise ModelError(
            "The exits have one class only. If the network does not classify, give its answer a name: answer=['angle'] "
            "(--answer)."
        )


def _check_finite(sources: Sequence[ExitSource], outputs: Mapping[str, np.ndarray]) -> None:
    """See that no logit is NaN, and that each sample's largest is finite: minus infinity may mask a class."""
    for source, parts in zip(sources, read_exits(outputs, sources), strict=True):
        logits = parts["logits"]
        if np.isnan(logits).any() or not np.isfinite(logits.max(-1)).all():
            raise ModelError(
                f"The logits of exit {source.name} are NaN or infinite on the example, whose values are finite. Look for weights "
                f"that are NaN, a division by zero, a mask that leaves nothing, or values too large for {logits.dtype}."
            )


def _check_gates(outputs: Mapping[str, np.ndarray], gates: Sequence[str], sources: Sequence[ExitSource]) -> None:
    """See that each gate is (batch,) or (batch, 1) of floats, and that each exit has one; the last may go without."""
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


def pad_gates(gates: Sequence[ir.Value], exits: int) -> tuple[ir.Value | None, ...]:
    """Return one gate for each exit, None for a last exit without one; nothing if there are no gates."""
    return (*gates, *[None] * (exits - len(gates))) if gates else ()


def read_exits(outputs: Mapping[str, np.ndarray], sources: Sequence[ExitSource]) -> list[Parts]:
    """Return the parts of each exit's answers from a network's outputs; logits are (N, classes)."""
    exits = []
    for source in sources:
        parts = {part: outputs[name] for part, name in source.outputs.items()}
        if "logits" in parts:
            logits = parts["logits"] if source.row is None else parts["logits"][source.row]
            parts["logits"] = logits.reshape(-1, logits.shape[-1])  # a squeeze may have dropped the batch of one sample
        exits.append(parts)
    return exits


def are_probabilities(logits: np.ndarray) -> bool:
    """Tell whether an exit gives probabilities: no value is below 0, and each row adds up to 1."""
    return bool((logits >= 0).all() and np.allclose(logits.astype(np.float64).sum(-1), 1, atol=2e-3))


def find_exits(
    graph: ir.Graph, outputs: Mapping[str, ir.Value], sources: Sequence[ExitSource]
) -> list[dict[str, ir.Value]]:
    """Return the values of each exit's answer in the graph; stacked ones are followed back to what they were stacked from.

    Raises:
        ModelError: a stacked output is not put together along its first axis, so an exit needs all others computed.
    """
    stacked = {source.output for source in sources if source.row is not None}
    stacks = {name: _unstack(graph, outputs[name]) for name in stacked}
    for name, parts in stacks.items():
        if len(parts) != sum(s.output == name for s in sources):
            raise ModelError(
                f"Output {name} stacks its exits in parts of unknown size: return them as a list instead.",
                nodes=name_producers(outputs[name]),
            )
    return [
        {part: outputs[name] if s.row is None else stacks[name][s.row] for part, name in s.outputs.items()}
        for s in sources
    ]


def _unstack(graph: ir.Graph, value: ir.Value) -> list[ir.Value]:
    """Return the rows that a value was put together from along its first axis."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or not _joins_rows(node):
        raise ModelError(
            f"Output {value.name} is one tensor of all exits that is not stacked from them along its first axis at the end: "
            "return the exits as a list instead.",
            nodes=name_producers(value),
        )
    rows: list[ir.Value] = []
    for part in node.inputs:
        assert part is not None
        source = part.producer()
        adds_axis = source is not None and source.op_type == "Unsqueeze" and _find_unsqueezed_axes(source) == [0]
        if source is not None and adds_axis and source.inputs[0] is not None:
            rows.append(source.inputs[0])
        elif source is not None and _joins_rows(source):
            rows += _unstack(graph, part)
        else:
            rows += _take_rows(graph, part)
    return rows


def _joins_rows(node: ir.Node) -> bool:
    return node.op_type == "Concat" and node.attributes.get_int("axis", 1) == 0


def _take_rows(graph: ir.Graph, part: ir.Value) -> list[ir.Value]:
    """Add nodes that take each row of a part that was computed as a whole."""
    count = part.shape[0] if part.shape is not None and len(part.shape) else None
    if not isinstance(count, int):
        raise ModelError(
            f"The exits are stacked from parts of unknown size ({part.name}): return them as a list instead.",
            nodes=name_producers(part),
        )
    tape, rows = ir.tape.Tape(graph), []
    for row in range(count):
        index = tape.initializer(ir.tensor(np.array(row, np.int64)), name=f"offramp.row.{part.name}.{row}")
        rows.append(tape.op("Gather", [part, index], {"axis": 0}))
        rows[-1].type, rows[-1].shape = part.type, ir.Shape(part.shape[1:])  # type: ignore[index]
    return rows


def _find_unsqueezed_axes(node: ir.Node) -> list[int] | None:
    """Return the axes that an Unsqueeze adds: an attribute up to opset 12, an input since. None if they are not constant."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    return None if axes is None else [int(axis) for axis in axes.numpy().reshape(-1)]


def _find_batch_axis(one: np.ndarray, many: np.ndarray) -> int | None:
    """Return the axis of an output that differs between one sample and several. A squeeze without axes drops it of one sample."""
    last = many.ndim - 2
    if last >= 0 and one.shape == (*many.shape[:last], *many.shape[last + 1 :]):
        return last
    changed = [i for i, (a, b) in enumerate(zip(one.shape, many.shape, strict=False)) if a != b]
    return changed[0] if len(changed) == 1 else None
