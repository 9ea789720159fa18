"""The record of a captured network: one graph, its exits, and a way to run the original."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir
from msgspec import Struct

from ...bundle.manifest import Precision
from ...errors import ModelError
from ...runtime.chain.parts import Parts
from ..graph.axes import BATCH, Axes
from ..graph.precision import find_precision
from ..graph.shapes import name_squeezed_axes
from ..graph.walk import ancestors, name_producers, values_read
from .outputs import ExitSource, are_probabilities, find_exits, pad_gates, read_exits

Exporter = Literal["dynamo", "torchscript", "onnx"]

Arrays = Sequence[np.ndarray]
"""One array for each input, each in its own layout."""


class Captured(Struct, frozen=True, kw_only=True):
    """A captured network.

    Attributes:
        model: the graph. In the shapes of its inputs the batch axis is called `batch`, other dynamic axes have their names.
        axes: the names of the axes of every input.
        exits: the parts of each exit's answer by their names, by exit, in order: {"logits": (batch, classes)} if the network
            classifies.
        gates: for each exit the network's own gate, None for an exit without one; empty if no gates were asked for.
        reference: runs the original: inputs -> the parts of each exit's answers, (N, ...).
        name: the network's name: its class, or the file's name.
        captured_by: `dynamo`, `torchscript` or `onnx`.
        classes: how many; 0 if the network does not classify.
        probabilities: for each exit True if it ends in a softmax.
        precision: what the network computes in.
        measure_own_error: returns how far rounding takes the original's own answers on the example, relative to the largest: a
            torch network's from the same in float64, a file's from the same without its engine's optimisations. None if it runs
            in no other way.
        order: the exits' positions in the list that the user gave.
        is_fixed: the original is a file that is fixed to batches of one; the graph is not any more, unless shapes inside it are.
    """

    model: ir.Model
    axes: list[Axes]
    exits: dict[str, dict[str, ir.Value]]
    gates: tuple[ir.Value | None, ...]
    reference: Callable[[Arrays], list[Parts]]
    name: str
    captured_by: Exporter
    classes: int
    probabilities: tuple[bool, ...]
    precision: Precision
    measure_own_error: Callable[[], float | None]
    order: tuple[int, ...] = ()
    is_fixed: bool = False


def describe_captured(
    model: ir.Model,
    axes: list[Axes],
    *,
    outputs: Mapping[str, ir.Value],
    answers: Mapping[str, np.ndarray],
    sources: Sequence[ExitSource],
    gates: Sequence[str],
    run: Callable[[Arrays], Mapping[str, np.ndarray]],
    name: str,
    captured_by: Exporter,
    measure_own_error: Callable[[], float | None],
) -> Captured:
    """Find the exits in a captured graph.

    Args:
        model, axes, name, captured_by, measure_own_error: as in `Captured`.
        outputs: the graph's outputs by the names that the network gives them.
        answers: the original's outputs for several samples, by the same names.
        sources: where the answer of each exit is.
        gates: the names of the outputs that are gates.
        run: runs the original: inputs -> outputs by name.

    Raises:
        ModelError: the exits are stacked in one tensor that cannot be taken apart, or one is the same for every sample.
    """
    name_squeezed_axes(model)
    values = find_exits(model.graph, outputs, sources)
    answers_of = read_exits(answers, sources)
    for source, exit_values, exit_parts in zip(sources, values, answers_of, strict=True):
        _check_depends(source.name, exit_values, exit_parts, model.graph.inputs)
    precision = find_precision(model, next(iter(values[0].values())).dtype)
    classes = int(answers_of[0]["logits"].shape[1]) if "logits" in answers_of[0] else 0
    for exit_values, exit_parts in zip(values, answers_of, strict=True):
        for part, value in exit_values.items():
            _describe_value(value, exit_parts[part], is_logits=classes > 0)
    return Captured(
        model=model,
        axes=axes,
        exits={source.name: value for source, value in zip(sources, values, strict=True)},
        gates=pad_gates([outputs[gate] for gate in gates], len(sources)),
        reference=lambda inputs: read_exits(run(inputs), sources),
        name=name,
        captured_by=captured_by,
        classes=classes,
        probabilities=tuple(
            classes > 0 and (are_probabilities(parts["logits"]) or _ends_in_quantised_softmax(exit_values["logits"]))
            for exit_values, parts in zip(values, answers_of, strict=True)
        ),
        precision=precision,
        measure_own_error=measure_own_error,
        order=tuple(range(len(sources))),
    )


def _describe_value(value: ir.Value, found: np.ndarray, *, is_logits: bool) -> None:
    """Write the shape of a part of an answer into the graph, and its dtype where the graph does not say it."""
    if is_logits:
        value.shape = ir.Shape([BATCH, found.shape[-1]])
    elif value.shape is None or value.dtype is None:
        value.shape = ir.Shape([BATCH, *[None] * (found.ndim - 1)])
        value.dtype = ir.DataType.from_numpy(found.dtype)


def _check_depends(name: str, values: dict[str, ir.Value], found: Parts, inputs: Sequence[ir.Value]) -> None:
    """See that an exit depends on the network's input; some parts of its answer need not.

    Raises:
        ModelError: it does not.
    """
    if all(not _reads_inputs(values[part], inputs) and (found[part] == found[part][:1]).all() for part in values):
        raise ModelError(
            f"Exit {name} does not depend on the input: its answer is the same for every sample. Leave it out: name the others "
            "with exits=[...] (--exits).",
            nodes=name_producers(*values.values()),
        )


def _reads_inputs(value: ir.Value, inputs: Sequence[ir.Value]) -> bool:
    """Tell whether a value is computed of the inputs, or of their shapes alone."""
    reading = (node for node in ancestors(value) if node.op_type not in ("Shape", "Size"))
    return value in inputs or any(read in inputs for node in reading for read in values_read(node))


def _ends_in_quantised_softmax(value: ir.Value) -> bool:
    """Tell whether a value is a softmax in whole steps, whose sums are off by half a step for each class."""
    operators = []
    while (node := value.producer()) is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear", "Identity"):
        operators.append(node.op_type)
        assert node.inputs[0] is not None
        value = node.inputs[0]
    return "DequantizeLinear" in operators and node is not None and node.op_type == "Softmax"
