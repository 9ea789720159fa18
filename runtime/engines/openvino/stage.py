"""A stage that OpenVINO compiled, tied to memory."""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....errors import BundleError
from .. import HOST, Run
from .layouts import CHANNELS_LAST

if TYPE_CHECKING:
    import numpy as np

ALIGNMENT = 64
"""Bytes; a line of the cache, and OpenVINO's widest loads."""


class OpenVinoStage:
    """A stage compiled by OpenVINO. Each binding has an inference request of its own.

    The stage takes one sample at a time. NPUs take no more, and on the CPU OpenVINO 2026.4 computes convolutions of few channels
    wrongly in batches (the zoo's `deep-residual` is off by half from batch 2 on).
    """

    batches = False

    def __init__(
        self, ov: Any, compiled: Any, runs_on: str, *, half: bool, load: Callable[[], Any] | None = None
    ) -> None:
        self.runs_on, self.half = runs_on, half
        self._ov = ov
        self._compiled = compiled
        self._load = load
        # With open shapes, chains that share a model may get each other's answers, even if they are called in turn.
        self.clones = not any(tensor.partial_shape.is_dynamic for tensor in compiled.inputs)
        ports = [*compiled.inputs, *compiled.outputs]
        self._turned = {name for port in ports for name in port.names if name.endswith(CHANNELS_LAST)}
        self.memory = "openvino:CPU" if self._turned else HOST
        self.allocate: Callable[[tuple[int, ...], Any], Any] | None = None
        if self._turned:
            shapes = {tuple(port.shape) for port in compiled.outputs if self._turned & port.names}
            self.allocate = functools.partial(_allocate, frozenset(shapes))

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Tie arrays to an inference request without copying them, if they lie in memory as the compiled stage has them.

        Raises:
            BundleError: the stage has no input or output of a name.
        """
        copies: list[list[tuple[Any, Any]]] = [[], []]
        try:
            request = self._compiled.create_infer_request()
            for arrays, pairs in zip((inputs, outputs), copies, strict=True):
                for name, array in arrays.items():
                    port, seen = self._see(name, array)
                    if not seen.flags.c_contiguous:
                        pairs.append((seen.copy(), seen))
                        seen = pairs[-1][0]
                    request.set_tensor(port, self._ov.Tensor(seen, shared_memory=True))
        except Exception as error:
            raise BundleError(
                f"A stage and its manifest do not fit together: {reason_of(error)} Export the network anew."
            ) from error
        # What `InferRequest` does with inputs and outputs beside its base takes 2 us, and is for tensors that a call passes.
        infer = super(self._ov.InferRequest, request).infer  # type: ignore[misc]
        run = functools.partial(infer, {}, True, False)
        run.memory = inputs, outputs  # type: ignore[attr-defined]  # a shared tensor does not keep its array alive
        return functools.partial(_run_with_copies, run, *copies) if any(copies) else run

    def infer(self, inputs: Mapping[str, "np.ndarray"], outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Run the model once into new arrays."""
        request = self._compiled.create_infer_request()
        request.infer(dict(self._see(name, array) for name, array in inputs.items()))
        arrays = {}
        for name in outputs:
            turned = name + CHANNELS_LAST
            array = request.get_tensor(turned if turned in self._turned else name).data
            arrays[name] = (array.transpose(0, 3, 1, 2) if turned in self._turned else array).copy()
        return arrays

    def _see(self, name: str, array: Any) -> tuple[str, Any]:
        """Return the port of a tensor, and its array as that port has it."""
        turned = name + CHANNELS_LAST
        return (turned, array.transpose(0, 2, 3, 1)) if turned in self._turned else (name, array)

    def clone(self) -> "OpenVinoStage | None":
        """Return the stage loaded once more: on the CPU a model with one stream runs one request at a time."""
        if self._load is None:
            return self if self.clones else None
        return OpenVinoStage(self._ov, self._load(), self.runs_on, half=self.half, load=self._load)


def _allocate(channels_last: Collection[tuple[int, ...]], shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an array of a shape. If its (N, H, W, C) is among the given ones, it lies in memory so."""
    import numpy

    turned = len(shape) == 4 and (shape[0], *shape[2:], shape[1]) in channels_last
    in_memory = (shape[0], *shape[2:], shape[1]) if turned else shape
    raw = numpy.zeros(math.prod(shape) * numpy.dtype(dtype).itemsize + ALIGNMENT, numpy.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    array = raw[start : start + len(raw) - ALIGNMENT].view(dtype).reshape(in_memory)
    return array.transpose(0, 3, 1, 2) if turned else array


def _run_with_copies(run: Run, before: Sequence[tuple[Any, Any]], after: Sequence[tuple[Any, Any]]) -> None:
    """Run a stage whose arrays lie in memory otherwise than the chain's; pairs are the stage's array and the chain's."""
    for ours, theirs in before:
        ours[...] = theirs
    run()
    for ours, theirs in after:
        theirs[...] = ours


def reason_of(error: Exception) -> str:
    """Return the line of OpenVINO's errors that is meant for people."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Exception from")), type(error).__name__)
