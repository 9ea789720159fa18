"""The record of a captured network: one graph, its exits, and a way to run the original."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir
from msgspec import Struct

from ...bundle.manifest import Precision
from ...errors import ModelError
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
        logits: the exits in order, by name; each value is (batch, classes).
        gates: for each exit the network's own gate, None for an exit without one; empty if no gates were asked for.
        reference: runs the original: inputs -> one (N, classes) array for each exit.
        name: the network's name: its class, or the file's name.
        captured_by: `dynamo`, `torchscript` or `onnx`.
        classes: how many.
        probabilities: for each exit True if it ends in a softmax.
        precision: what the network computes in.
        measure_own_error: returns how far rounding takes the original's own logits on the example, relative to the largest: a
            torch network's from the same in float64, a file's from the same without its engine's optimisations. None if it runs
            in no other way.
        order: the exits' positions in the list that the user gave.
    """

    model: ir.Model
    axes: list[Axes]
    logits: dict[str, ir.Value]
    gates: tuple[ir.Value | None, ...]
    reference: Callable[[Arrays], list[np.ndarray]]
    name: str
    captured_by: Exporter
    classes: int
    probabilities: tuple[bool, ...]
    precision: Precision
    measure_own_error: Callable[[], float | None]
    order: tuple[int, ...] = ()


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
        sources: where the logits of each exit are.
        gates: the names of the outputs that are gates.
        run: runs the original: inputs -> outputs by name.

    Raises:
        ModelError: the exits are stacked in one tensor that cannot be taken apart, or one is the same for every sample.
    """
    name_squeezed_axes(model)
    values = find_exits(model.graph, outputs, sources)
    logits = read_exits(answers, sources)
    for source, value, rows in zip(sources, values, logits, strict=True):
        if not _reads_inputs(value, model.graph.inputs) and (rows == rows[:1]).all():
            raise ModelError(
                f"Exit {source.name} does not depend on the input: its logits are the same for every sample. Leave it out: name "
                "the others with exits=[...] (--exits).",
                nodes=name_producers(value),
            )
    precision = find_precision(model, values[0].dtype)
    classes = int(logits[0].shape[1])
    for value in values:
        value.shape = ir.Shape([BATCH, classes])
    return Captured(
        model=model,
        axes=axes,
        logits={source.name: value for source, value in zip(sources, values, strict=True)},
        gates=pad_gates([outputs[gate] for gate in gates], len(sources)),
        reference=lambda inputs: read_exits(run(inputs), sources),
        name=name,
        captured_by=captured_by,
        classes=classes,
        probabilities=tuple(
            are_probabilities(rows) or _ends_in_quantised_softmax(value)
            for value, rows in zip(values, logits, strict=True)
        ),
        precision=precision,
        measure_own_error=measure_own_error,
        order=tuple(range(len(sources))),
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
