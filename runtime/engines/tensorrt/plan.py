"""A TensorRT plan that runs: its tensors tied to memory of the GPU, copies and kernels recorded as one CUDA graph."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....errors import BundleError, MissingError, UnsupportedError
from .. import Run

if TYPE_CHECKING:
    import numpy as np

    from .cuda import Gpu


ON_DLA, ON_GPU = "[DlaLayer]", "[GpuLayer]"
"""How the builder's messages begin that say where it placed a layer."""


@functools.cache
def log_of(trt: Any) -> Any:
    """Return the one logger that TensorRT is given; it keeps what went wrong and where layers were placed, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.clear()

        def clear(self) -> None:
            self.said: list[str] = []
            self.placed: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.said = [*self.said[-3:], message]
            elif message.startswith((ON_DLA, ON_GPU)):
                self.placed.append(message)

    return Log()


def said_by(trt: Any) -> str:
    """Return what TensorRT has said last of what went wrong."""
    return " ".join(log_of(trt).said) or "it gives no reason."


def tensor_names(engine: Any) -> list[str]:
    """Return the names of a plan's inputs and outputs."""
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]


class TensorRtStage:
    """A plan that was loaded; each binding has an execution context of its own, and all share the GPU's stream."""

    batches = False  # a DLA knows fixed shapes only, and a Jetson's memory is short
    clones = True

    def __init__(
        self, trt: Any, gpu: "Gpu", runtime: Any, engine: Any, runs_on: str, number: int, *, half: bool
    ) -> None:
        self.runs_on = runs_on
        self.half = half
        self.memory = f"cuda-driver:{number}"
        self.allocate: Callable[[tuple[int, ...], Any], Any] | None = gpu.allocate
        self._trt, self._gpu, self._runtime, self._engine = trt, gpu, runtime, engine

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Tie arrays and blocks of the GPU's memory to an execution context of its own.

        An array is copied to the GPU before each run, or from it afterwards. Copies and kernels are launched together as one CUDA
        graph, where TensorRT lets them be recorded.

        Raises:
            BundleError: the stage has no input or output of a name, or one of another dtype or shape.
            MissingError: the GPU has no memory left.
        """
        import numpy

        gpu = self._gpu
        gpu.enter()
        log_of(self._trt).clear()
        context = self._engine.create_execution_context()
        if context is None:
            raise MissingError(f"The GPU has no room for another chain: {said_by(self._trt)}")
        blocks = self._tie(context, {**inputs, **outputs})

        def stage(tied: Mapping[str, Any]) -> list[tuple[Any, Any, Any]]:
            arrays = {name: value for name, value in tied.items() if isinstance(value, numpy.ndarray)}
            return [(gpu.pin(array.shape, array.dtype), blocks[name], array) for name, array in arrays.items()]

        fills, reads = stage(inputs), stage(outputs)

        def enqueue(stream: int) -> None:
            for pinned, block, _ in fills:
                gpu.upload(block, pinned, stream)
            if not context.execute_async_v3(stream):
                raise MissingError(f"TensorRT does not run a stage: {said_by(self._trt)}")
            for pinned, block, _ in reads:
                gpu.download(pinned, block, stream)

        enqueue(gpu.stream)  # once before it is recorded, since TensorRT prepares some things at the first run
        gpu.wait()
        launch = gpu.capture(enqueue) or functools.partial(enqueue, gpu.stream)

        def run() -> None:
            gpu.enter()
            for pinned, _, array in fills:
                pinned[...] = array
            launch()
            gpu.wait()
            for pinned, _, array in reads:
                array[...] = pinned

        run.keeps = enqueue, blocks  # type: ignore[attr-defined]  # a recorded graph does not keep what it works on
        return run

    def _tie(self, context: Any, bound: dict[str, Any]) -> dict[str, Any]:
        """Give every tensor of the plan its place on the GPU, by name: a block of the chain's, or one of its own."""
        import numpy

        trt, engine, blocks = self._trt, self._engine, {}
        names = tensor_names(engine)
        if strange := [name for name in bound if name not in names]:
            raise self._misfit(strange[0], "is not in the plan")
        for name in names:
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                if name not in bound:
                    raise self._misfit(name, "is not among what the chain has")
                if not context.set_input_shape(name, tuple(bound[name].shape)):
                    raise self._misfit(name, f"does not take the shape {tuple(bound[name].shape)}")
        for name in names:
            shape, dtype = tuple(context.get_tensor_shape(name)), numpy.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            value = bound.get(name)
            if value is not None and (tuple(value.shape), value.dtype) != (shape, dtype):
                raise self._misfit(name, f"is {dtype} {shape}, not {value.dtype} {tuple(value.shape)}")
            if value is None or isinstance(value, numpy.ndarray):
                value = self._gpu.allocate(shape, dtype)
            blocks[name] = value
            if not context.set_tensor_address(name, blocks[name].address):
                raise self._misfit(name, f"takes no address: {said_by(trt)}")
        return blocks

    def infer(self, inputs: Mapping[str, "np.ndarray"], outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Refuse: a chain asks for it where shapes are not known beforehand, and here they are fixed."""
        raise UnsupportedError("TensorRT runs stages of fixed shapes only.")

    def _misfit(self, name: str, what: str) -> BundleError:
        return BundleError(f"A stage and its manifest do not fit together: {name} {what}. Export the network anew.")
