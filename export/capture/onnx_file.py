"""From an ONNX file that somebody else exported to one graph with the logits of every exit. Needs no torch."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, NameFixPass

from ...errors import DataError, MissingError, ModelError, UsageError, require
from ...files import os_errors_explained
from ..graph.axes import BATCH, Axes, first_line, resolve_axes, take_samples
from ..graph.running import open_session, relative_error
from .captured import Arrays, Captured, infer_shapes
from .outputs import ExitSource, check_gates, choose_exits, find_exits, pad_gates, read_exits


class OnnxFile:
    """An ONNX file that ONNX Runtime has loaded.

    Attributes:
        model: its graph, functions inlined.
        inputs: its inputs without the weights that old files list among them.
        axes: the names of the axes of every input: those given, or those that the file says are dynamic.
    """

    def __init__(self, path: str | os.PathLike[str], axes: Any = None) -> None:
        require("onnxruntime", extra="onnx")
        self.path = path = Path(path)
        with os_errors_explained(path, "read"):
            if not path.is_file():
                raise UsageError(
                    f"{path} is a folder, not an ONNX file." if path.exists() else f"There is no file {path}."
                )
        if not os.access(path, os.R_OK):
            raise MissingError(f"Cannot read {path}. Check its permissions.")
        try:
            self.session = open_session(path)
            self.model = ir.load(path)
            if "" not in self.model.graph.opset_imports:  # the default domain by its other name
                self.model.graph.opset_imports[""] = self.model.graph.opset_imports.pop("ai.onnx", 0)
            InlinePass()(self.model)
            NameFixPass()(self.model)
        except Exception as error:  # protobuf's and ONNX Runtime's exception types are private
            raise ModelError(f"{path} is not an ONNX file that ONNX Runtime loads: {first_line(error)}") from error
        opset = self.model.graph.opset_imports[""]
        if opset < 11:
            raise ModelError(f"{path} has opset {opset}, but 11 or newer is needed. Export it again with a newer one.")
        for found in self.session.get_inputs():
            if not found.type.startswith("tensor("):
                raise ModelError(f"The input {found.name} of {path} is a {found.type}, not a tensor.")
        if _has_sparse_weights(path):
            raise ModelError(f"{path} has sparse weights, which are not cut. Store them dense.")
        self.inputs = [value for value in self.model.graph.inputs if not value.is_initializer()]
        if not self.inputs:
            raise ModelError(f"{path} has no inputs.")
        self.model.graph.inputs[:] = self.inputs  # before IR version 4 weights were listed among the inputs
        for value in [*self.model.graph.initializers.values(), *(o for n in self.model.graph for o in n.outputs)]:
            if str(value.name).startswith("offramp."):  # a graph that was cut before has names that are given out anew
                value.name = f"was.{value.name}"
        self.shapes = [list(found.shape) for found in self.session.get_inputs()]
        self.axes = self._name_axes(axes)
        self.fixed = any(isinstance(s[own.index(BATCH)], int) for s, own in zip(self.shapes, self.axes, strict=True))

    def _name_axes(self, axes: Any) -> list[Axes]:
        """Name the dynamic axes of every input; the batch is the one that is called as the first axis of the exits is."""
        names = [str(value.name) for value in self.inputs]
        outputs = [found.shape for found in self.session.get_outputs() if found.shape]
        batch = next((shape[0] for shape in outputs if isinstance(shape[0], str)), None)
        found: dict[str, Axes] = {}
        for name, shape in zip(names, self.shapes, strict=True):
            if not shape:
                raise ModelError(f"The input {name} of {self.path} is a single number without a batch axis.")
            at = shape.index(batch) if batch is not None and batch in shape else 0
            listed = [None if isinstance(a, int) else a or f"{name}.{i}" for i, a in enumerate(shape)]
            found[name] = tuple(BATCH if i == at else f"{a}_" if a == BATCH else a for i, a in enumerate(listed))
        examples = [np.empty((0,) * len(shape)) for shape in self.shapes]
        given = axes or {}
        if not isinstance(given, Mapping) and len(names) == 1:
            given = {names[0]: given}
        resolved = resolve_axes({**found, **given} if isinstance(given, Mapping) else given, names, examples)
        for name, shape, own in zip(names, self.shapes, resolved, strict=True):
            for size, axis in zip(shape, own, strict=True):
                if axis == BATCH and isinstance(size, int) and size != 1:
                    raise ModelError(f"{self.path} is fixed to batches of {size}. Export it with a dynamic batch axis.")
                if axis not in (None, BATCH) and isinstance(size, int):
                    raise ModelError(
                        f"The axis {axis} of input {name} of {self.path} is fixed to {size}. Export it dynamic."
                    )
                if axis is None and not isinstance(size, int):
                    raise ModelError(
                        f"The axis {size} of input {name} of {self.path} is dynamic: give it a name in axes."
                    )
        return resolved

    def draw(self, rows: int) -> list[np.ndarray]:
        """Draw standard normal samples; named axes are 16 long.

        Raises:
            UsageError: an input is not of floats.
        """
        rng, arrays = np.random.default_rng(0), []
        for value, shape, own in zip(self.inputs, self.shapes, self.axes, strict=True):
            if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
                kind = value.dtype.name if value.dtype else "of no type"
                raise UsageError(f"The input {value.name} is {kind}: pass an example, random ones make no sense.")
            sizes = [rows if name == BATCH else 16 if name else size for size, name in zip(shape, own, strict=True)]
            arrays.append(rng.standard_normal(sizes).astype(value.dtype.numpy()))
        return arrays

    def check(self, arrays: Arrays) -> None:
        """See that an example fits the inputs.

        Raises:
            DataError: a shape or dtype does not.
        """
        if len(arrays) != len(self.inputs):
            raise DataError(f"The example has {len(arrays)} inputs; {self.path} takes {len(self.inputs)}.")
        for array, value, shape, own in zip(arrays, self.inputs, self.shapes, self.axes, strict=True):
            assert value.dtype is not None
            sizes = zip(array.shape, shape, own, strict=False)
            if array.ndim != len(shape) or any(name is None and a != b for a, b, name in sizes):
                wanted = tuple(name or size for size, name in zip(shape, own, strict=True))
                raise DataError(f"The example of {value.name} has the shape {array.shape}; the network takes {wanted}.")
            if array.dtype != value.dtype.numpy():
                raise DataError(
                    f"The example of {value.name} is {array.dtype}; the network takes {value.dtype.numpy()}."
                )

    def run(self, inputs: Arrays, session: Any = None) -> dict[str, np.ndarray]:
        """Run the file as it is, sample by sample where its batch is fixed to one; in another session if one is given."""
        session = session or self.session
        names = [found.name for found in self.session.get_inputs()]
        outputs = [found.name for found in self.session.get_outputs() if found.type.startswith("tensor(")]
        rows = inputs[0].shape[self.axes[0].index(BATCH)]
        parts = [take_samples(inputs, self.axes, [i]) for i in range(rows)] if self.fixed else [inputs]
        answers = [session.run(outputs, dict(zip(names, part, strict=True))) for part in parts]
        # A stack (exit, batch, class) has the batch in its middle.
        joined = [
            np.concatenate(v, 1 if v[0].ndim == 3 else 0) if v[0].ndim else v[0] for v in zip(*answers, strict=True)
        ]
        return dict(zip(outputs, joined, strict=True))

    def capture(self, example: Arrays, *, exits: Sequence[str] | None = None, gates: Sequence[str] = ()) -> Captured:
        """Find the exits, and make the batch dynamic where it is fixed to one.

        Raises:
            UsageError: a name is not an output's.
            ModelError: the file does not run on the example, or its outputs are not several exits.
        """
        try:
            one, many = self.run(take_samples(example, self.axes, [0])), self.run(example)
        except Exception as error:
            raise ModelError(f"{self.path} does not run on the example: {first_line(error)}") from error
        gone = set(gates)
        sources = choose_exits(
            {k: v for k, v in one.items() if k not in gone}, {k: v for k, v in many.items() if k not in gone}, exits
        )
        check_gates(many, gates, sources)
        for value, own, shape in zip(self.inputs, self.axes, self.shapes, strict=True):
            value.shape = ir.Shape([name or size for name, size in zip(own, shape, strict=True)])
        infer_shapes(self.model)
        outputs = {str(value.name): value for value in self.model.graph.outputs}
        values = find_exits(self.model.graph, outputs, sources)
        logits = {source.name: value for source, value in zip(sources, values, strict=True)}
        chosen = pad_gates([outputs[name] for name in gates], len(sources))
        noise = self._measure_noise(example, read_exits(many, sources), sources) if is_quantised(self.model) else 0.0
        return Captured(
            self.model,
            self.axes,
            logits,
            chosen,
            lambda x: read_exits(self.run(x), sources),
            self.path.stem,
            "onnx",
            noise,
        )

    def _measure_noise(self, example: Arrays, logits: list[np.ndarray], sources: Sequence[ExitSource]) -> float:
        """Return how far the logits change when the engine does not optimise: a quantised value between two steps may fall."""
        session = open_session(self.path, optimise="ORT_DISABLE_ALL")
        plain = read_exits(self.run(example, session), sources)
        return max(relative_error(a, b) for a, b in zip(plain, logits, strict=True))


def is_quantised(model: ir.Model) -> bool:
    """Tell whether a graph computes with quantised values."""
    operators = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")
    return any(node.op_type in operators for node in model.graph)


def _has_sparse_weights(path: Path) -> bool:
    onnx = require("onnx", extra="onnx")
    return bool(onnx.load(path, load_external_data=False).graph.sparse_initializer)
