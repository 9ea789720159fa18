"""A stage in RKNNLite, on the board: what the NPU has in place of the stage's inputs and outputs, and how it is run."""

import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ....errors import BundleError, MissingError, UnsupportedError
from .. import HOST, Run

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Edge", "RknnHeader", "RknnStage"]


class Edge(Struct, frozen=True):
    """An input or output of a stage, and what the NPU has in its place.

    Attributes:
        name: its name in the stage.
        tensor: its name on the NPU; None for an output that is an input of the stage in 8 bits, which the NPU need not see.
        input: the name of that input.
        scale, zero_point: set if the stage has 8 bits and the NPU float32: real = (quantised - zero_point) * scale, as in ONNX.
    """

    name: str
    tensor: str | None = None
    input: str | None = None
    scale: float | None = None
    zero_point: int = 0


class RknnHeader(Struct, frozen=True):
    """The line of JSON before a `.rknn` file.

    Attributes:
        toolkit: the version of rknn-toolkit2 that built it.
        inputs, outputs: the edges of the stage.
        npu: the number of the NPU's layers by dtype, such as `{"int8": 12}`.
        cpu: the operators that are left to the CPU.
    """

    toolkit: str
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    npu: dict[str, int]
    cpu: tuple[str, ...]


class RknnStage:
    """A stage in RKNNLite. It takes one sample at a time, and its bindings share one context."""

    memory = HOST
    allocate = None
    batches = False
    clones = False
    half = True

    def __init__(self, lite: Any, header: RknnHeader, runs_on: str) -> None:
        self.runs_on = runs_on
        self._lite, self._header = lite, header
        weakref.finalize(self, lite.release)

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Tie arrays to the stage. Each run copies what the NPU returns into the outputs.

        Raises:
            BundleError: the stage has no input or output of a name.
        """
        in_edges = {edge.name: edge for edge in self._header.inputs}
        out_edges = {edge.name: edge for edge in self._header.outputs}
        if strange := {*inputs} ^ {*in_edges} | {*outputs} - {*out_edges}:
            raise BundleError(
                f"A stage and its manifest do not fit together: {', '.join(sorted(strange))}. Export the network anew."
            )
        returned = [edge.name for edge in self._header.outputs if edge.tensor is not None]
        copies: list[tuple[Any, Edge, Any]] = []
        for name, array in outputs.items():
            edge = out_edges[name]
            source = returned.index(name) if edge.input is None else inputs[edge.input]
            copies.append((array, edge, source))
        return functools.partial(self._run, [(inputs[name], edge) for name, edge in in_edges.items()], copies)

    def _run(self, feeds: list[tuple[Any, Edge]], copies: list[tuple[Any, Edge, Any]]) -> None:
        """Run the NPU. `copies` are an output's array, its edge, and the number of the NPU's output or an input's array."""
        results = self._infer([_dequantise(array, edge) for array, edge in feeds])
        for place, edge, source in copies:
            _put(results[source] if isinstance(source, int) else source, place, edge)

    def _infer(self, arrays: list["np.ndarray"]) -> list["np.ndarray"]:
        import numpy as np

        # Every version of RKNNLite takes four axes as NHWC; how to tell it otherwise differs between versions.
        nhwc = [np.ascontiguousarray(np.moveaxis(array, 1, 3)) if array.ndim == 4 else array for array in arrays]
        results = self._lite.inference(inputs=nhwc)
        expected = sum(edge.tensor is not None for edge in self._header.outputs)
        if results is None or len(results) != expected:
            raise MissingError(
                f"The NPU failed: RKNNLite gave {len(results or ())} outputs of {expected}, and says why on stderr. Does the "
                "stage read a type that it does not know? It takes int8, uint8, int16, float16 and float32."
            )
        return list(results)

    def infer(self, inputs: Mapping[str, "np.ndarray"], outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Refuse: a chain asks this of stages whose shapes are not known before, and an NPU's shapes are fixed."""
        raise UnsupportedError("NPUs take fixed shapes only.")

    def clone(self) -> None:
        """Return None: all bindings share one context."""


def _dequantise(array: "np.ndarray", edge: Edge) -> "np.ndarray":
    if edge.scale is None:
        return array
    import numpy as np

    return (array.astype(np.float32) - np.float32(edge.zero_point)) * np.float32(edge.scale)


def _put(result: "np.ndarray", place: "np.ndarray", edge: Edge) -> None:
    """Write an output of the NPU into the chain's array: quantised as ONNX's QuantizeLinear does, labels as integers."""
    import numpy as np

    values = result.reshape(place.shape)
    if edge.scale is not None:
        info = np.iinfo(place.dtype)
        values = np.clip(np.rint(values / np.float32(edge.scale)) + edge.zero_point, info.min, info.max)
    elif place.dtype.kind in "iu" and values.dtype.kind == "f":
        values = np.rint(values)
    np.copyto(place, values, casting="unsafe")
