"""A TensorRT plan that runs. Its tensors are tied to the GPU's memory; copies and kernels are recorded as one CUDA graph."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....errors import BundleError, MissingError, UnsupportedError
from .. import Run
from .bindings import last_errors, log_of, tensor_names

if TYPE_CHECKING:
    import numpy as np

    from .cuda import Gpu


class TensorRtStage:
    """A loaded plan. Each binding has an execution context of its own; all share the GPU's stream."""

    batches = False  # a DLA takes fixed shapes only, and a Jetson has little memory
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
        graph, if TensorRT lets them be recorded.

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
            raise MissingError(f"The GPU has no room for another chain: {last_errors(self._trt)}")
        blocks = self._tie(context, {**inputs, **outputs})

        def pin_arrays(bound: Mapping[str, Any]) -> list[tuple[Any, Any, Any]]:
            """Return for each array pinned memory of its size, its block on the GPU, and the array."""
            arrays = {name: value for name, value in bound.items() if isinstance(value, numpy.ndarray)}
            return [(gpu.pin(array.shape, array.dtype), blocks[name], array) for name, array in arrays.items()]

        uploads, downloads = pin_arrays(inputs), pin_arrays(outputs)

        def enqueue(stream: int) -> None:
            for pinned, block, _ in uploads:
                gpu.upload(block, pinned, stream)
            if not context.execute_async_v3(stream):
                raise MissingError(f"TensorRT does not run a stage: {last_errors(self._trt)}")
            for pinned, block, _ in downloads:
                gpu.download(pinned, block, stream)

        enqueue(gpu.stream)  # once before recording, since TensorRT prepares some things at the first run
        gpu.wait()
        launch = gpu.capture(enqueue) or functools.partial(enqueue, gpu.stream)

        def run() -> None:
            gpu.enter()
            for pinned, _, array in uploads:
                pinned[...] = array
            launch()
            gpu.wait()
            for pinned, _, array in downloads:
                array[...] = pinned

        run.keeps = enqueue, blocks  # type: ignore[attr-defined]  # a recorded graph does not keep its memory alive
        return run

    def _tie(self, context: Any, bound: dict[str, Any]) -> dict[str, Any]:
        """Give every tensor of the plan a block on the GPU, the chain's or a new one. Return the blocks by name."""
        import numpy

        trt, engine, blocks = self._trt, self._engine, {}
        names = tensor_names(engine)
        if strange := [name for name in bound if name not in names]:
            raise _misfit(strange[0], "is not in the plan")
        for name in names:
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                if name not in bound:
                    raise _misfit(name, "is not among what the chain has")
                if not context.set_input_shape(name, tuple(bound[name].shape)):
                    raise _misfit(name, f"does not take the shape {tuple(bound[name].shape)}")
        for name in names:
            shape, dtype = tuple(context.get_tensor_shape(name)), numpy.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            value = bound.get(name)
            if value is not None and (tuple(value.shape), value.dtype) != (shape, dtype):
                raise _misfit(name, f"is {dtype} {shape}, not {value.dtype} {tuple(value.shape)}")
            if value is None or isinstance(value, numpy.ndarray):
                value = self._gpu.allocate(shape, dtype)
            blocks[name] = value
            if not context.set_tensor_address(name, blocks[name].address):
                raise _misfit(name, f"takes no address: {last_errors(trt)}")
        return blocks

    def infer(self, inputs: Mapping[str, "np.ndarray"], outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Refuse: a chain asks this of stages whose shapes are not known before, and here shapes are fixed."""
        raise UnsupportedError("TensorRT runs stages of fixed shapes only.")

    def clone(self) -> "TensorRtStage":
        """Return the stage itself: its bindings run at once."""
        return self


def _misfit(tensor: str, problem: str) -> BundleError:
    return BundleError(f"A stage and its manifest do not fit together: {tensor} {problem}. Export the network anew.")
