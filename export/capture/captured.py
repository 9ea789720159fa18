"""What capturing a network gives: one graph, its exits, and a way to run the original."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from ..graph.axes import Axes

Arrays = Sequence[np.ndarray]
"""One array per input, each in its own layout."""


class Captured(NamedTuple):
    """A captured network.

    Attributes:
        model: the graph; in its inputs' shapes the batch is called `batch` and other dynamic axes have their names.
        axes: the names of the axes of every input.
        logits: the exits in order, by name; each value is (batch, classes).
        gates: what the network itself says of how sure each exit is, None where it says nothing; empty if it was not asked.
        reference: runs the original: inputs -> one (N, classes) array per exit.
        name: what the network is called.
        how: what captured it: `dynamo`, `torchscript` or `onnx`.
        noise: how far the original is from itself when its engine optimises otherwise, relative to its largest logit.
    """

    model: ir.Model
    axes: list[Axes]
    logits: dict[str, ir.Value]
    gates: list[ir.Value | None]
    reference: Callable[[Arrays], list[np.ndarray]]
    name: str
    how: str
    noise: float = 0.0


def infer_shapes(model: ir.Model) -> None:
    """Infer every shape anew from those of the inputs."""
    for node in model.graph:
        for output in node.outputs:
            output.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
