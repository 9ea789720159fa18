"""Somebody else's ONNX file as one graph with the answers of every exit. Needs no torch."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace
from onnx_ir.passes.common import InlinePass, NameFixPass

from ...bundle import Tensor
from ...errors import DataError, MissingError, ModelError, UsageError, require
from ...files import os_errors_explained
from ...runtime.chain.samples import check_kind, show_shape
from ..graph.axes import BATCH, EXPORT_DYNAMIC, Axes, count_samples, first_line, resolve_axes, take_samples
from ..graph.running import failed_nodes, largest_error, open_session
from ..graph.shapes import infer_shapes
from .captured import Arrays, Captured, describe_captured
from .outputs import ExitSource, check_repeats, choose_exits, read_exits

LEAST_OPSET = 11
"""The oldest opset that is read."""

log = logging.getLogger(__name__)


class OnnxFile:
    """An ONNX file that ONNX Runtime has loaded.

    Attributes:
        path: the file.
        session: runs it.
        model: its graph, functions inlined.
        inputs: its inputs without the weights that old files list among them.
        shapes: the inputs' shapes as the file gives them: a number, a name or None for each axis.
        axes: the names of the axes of every input: those that were given, else those that the file says are dynamic.
        is_fixed: whether its batch is fixed to one sample.
        stacks: whether an output of three axes stacks exits (exit, batch, class).
    """

    def __init__(self, path: str | os.PathLike[str], axes: Any = None) -> None:
        require("onnxruntime", extra="onnx")
        self.path = path = Path(path)
        self.session, self.model = _load(self.path)
        for given in self.session.get_inputs():
            if not given.type.startswith("tensor("):
                raise ModelError(f"The input {given.name} of {path} is a {given.type}, not a tensor.", path=path)
        if _has_sparse_weights(self.path):
            raise ModelError(f"{path} has sparse weights, which are not cut. Store them dense.", path=path)
        self.inputs = [value for value in self.model.graph.inputs if not value.is_initializer()]
        if not self.inputs:
            raise ModelError(f"{path} has no inputs.", path=path)
        self.model.graph.inputs[:] = self.inputs  # before IR version 4 weights were listed among the inputs
        for value in [*self.model.graph.initializers.values(), *(o for n in self.model.graph for o in n.outputs)]:
            if str(value.name).startswith("offramp."):  # left from an earlier export, which gave out the same names
                value.name = f"was.{value.name}"
        self.shapes = [list(given.shape) for given in self.session.get_inputs()]
        self.axes = self._name_axes(axes)
        self.stacks = True
        self.is_fixed = any(
            isinstance(s[axis_names.index(BATCH)], int) for s, axis_names in zip(self.shapes, self.axes, strict=True)
        )

    def _name_axes(self, axes: Any) -> list[Axes]:
        """Name the dynamic axes of every input. The batch is the axis named like the exits' first axis, or else the first.

        Raises:
            UsageError: the axes that the user gave do not fit.
            ModelError: the file fixes an axis that should be dynamic, or an axis that it leaves open has no name.
        """
        names = [str(value.name) for value in self.inputs]
        outputs = [output.shape for output in self.session.get_outputs() if output.shape]
        batch = next((shape[0] for shape in outputs if isinstance(shape[0], str)), None)
        by_file: dict[str, Axes] = {}
        for name, shape in zip(names, self.shapes, strict=True):
            if not shape:
                raise self._error(f"The input {name} of {self.path} is a single number without a batch axis.")
            at = shape.index(batch) if batch is not None and batch in shape else 0
            listed = [None if isinstance(a, int) else a or f"{name}.{i}" for i, a in enumerate(shape)]
            by_file[name] = tuple(BATCH if i == at else f"{a}_" if a == BATCH else a for i, a in enumerate(listed))
        by_user = axes or {}
        if not isinstance(by_user, Mapping) and len(names) == 1:
            by_user = {names[0]: by_user}
        if isinstance(by_user, Mapping):
            by_user = {**by_file, **by_user}
        resolved = resolve_axes(by_user, names, [np.empty((0,) * len(shape)) for shape in self.shapes])
        for name, shape, axis_names in zip(names, self.shapes, resolved, strict=True):
            for size, axis in zip(shape, axis_names, strict=True):
                self._check_axis(name, size, axis)
        return resolved

    def _check_axis(self, name: str, size: "int | str | None", axis: str | None) -> None:
        """See that the file gives an axis of input `name` the size (a number, or a name or None) that its name asks for."""
        if axis == BATCH and isinstance(size, int) and size != 1:
            raise self._error(f"{self.path} is fixed to batches of {size}. {EXPORT_DYNAMIC}")
        if axis not in (None, BATCH) and isinstance(size, int):
            raise self._error(f"The axis {axis} of input {name} of {self.path} is fixed to {size}. Export it dynamic.")
        if axis is None and not isinstance(size, int):
            raise self._error(f"The axis {size} of input {name} of {self.path} is dynamic: give it a name in axes.")

    def _error(self, message: str) -> ModelError:
        return ModelError(message, path=self.path)

    def draw(self, rows: int) -> list[np.ndarray]:
        """Draw standard normal samples; named axes are 16 long.

        Raises:
            UsageError: an input takes no floats.
        """
        rng, arrays = np.random.default_rng(0), []
        for value, shape, axis_names in zip(self.inputs, self.shapes, self.axes, strict=True):
            if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
                kind = value.dtype.name if value.dtype else "of no type"
                raise UsageError(
                    f"The input {value.name} is {kind}: random values make no sense, give samples (--data)."
                )
            sizes = [
                rows if name == BATCH else 16 if name else size for size, name in zip(shape, axis_names, strict=True)
            ]
            arrays.append(rng.standard_normal(sizes).astype(value.dtype.numpy()))
        return arrays

    def convert(self, arrays: Arrays) -> list[np.ndarray]:
        """Return an example in the inputs' dtypes, as a loaded network converts its samples.

        Raises:
            DataError: the number of inputs, a shape or a kind of dtype does not fit, or an integer is too large.
        """
        converted = []
        if len(arrays) != len(self.inputs):
            raise DataError(
                f"The example has {len(arrays)} inputs; {self.path} takes {len(self.inputs)}.", path=self.path
            )
        for array, value, shape, axis_names in zip(arrays, self.inputs, self.shapes, self.axes, strict=True):
            assert value.dtype is not None
            axes = [None if name == BATCH else name or size for size, name in zip(shape, axis_names, strict=True)]
            sizes = zip(array.shape, shape, axis_names, strict=False)
            if array.ndim != len(shape) or any(name is None and a != b for a, b, name in sizes):
                raise DataError(
                    f"The example of {value.name} has the shape {array.shape}; the network takes {show_shape(axes)}."
                )
            dtype: Any = value.dtype.numpy()
            if array.size:
                check_kind(array, Tensor(name=str(value.name), dtype=dtype.name, shape=tuple(axes)))
            converted.append(array.astype(dtype, copy=False))
        return converted

    def run(self, inputs: Arrays, session: Any = None) -> dict[str, np.ndarray]:
        """Run the file as it is, sample by sample if its batch is fixed to one; `session` runs it instead of its own."""
        session = session or self.session
        names = [value.name for value in self.session.get_inputs()]
        outputs = [value.name for value in self.session.get_outputs() if value.type.startswith("tensor(")]
        rows = inputs[0].shape[self.axes[0].index(BATCH)]
        parts = [take_samples(inputs, self.axes, [i]) for i in range(rows)] if self.is_fixed else [inputs]
        answers = [session.run(outputs, dict(zip(names, part, strict=True))) for part in parts]
        joined = [
            np.concatenate(part, 1 if part[0].ndim == 3 and self.stacks else 0) if part[0].ndim else part[0]
            for part in zip(*answers, strict=True)
        ]
        return dict(zip(outputs, joined, strict=True))

    def capture(
        self,
        example: Arrays,
        *,
        exits: Sequence[str] | None = None,
        gates: Sequence[str] = (),
        answer: Sequence[str] = (),
    ) -> Captured:
        """Find the exits, and make a batch that is fixed to one dynamic.

        Raises:
            UsageError: a name is not an output's.
            ModelError: the file does not run on the example, or its outputs are not several exits.
        """
        self._check_outputs([*(() if answer else exits or ()), *gates])
        self.stacks = not answer
        one, many = self._run_example(example)
        sources = choose_exits(one, many, exits, gates, answer)
        for value, axis_names, shape in zip(self.inputs, self.axes, self.shapes, strict=True):
            value.shape = ir.Shape([name or size for name, size in zip(axis_names, shape, strict=True)])
        infer_shapes(self.model)
        captured = describe_captured(
            self.model,
            self.axes,
            outputs={str(value.name): value for value in self.model.graph.outputs},
            answers=many,
            sources=sources,
            gates=gates,
            run=self.run,
            name=self.path.stem,
            captured_by="onnx",
            measure_own_error=lambda: self._measure_own_error(example, many, sources),
        )
        return replace(captured, is_fixed=self.is_fixed)

    def _check_outputs(self, named: Sequence[str]) -> None:
        """See that the file has outputs that can be exits, and that those named are such.

        Raises:
            ModelError: they are sequences or optionals.
        """
        types = {str(value.name): str(value.type) for value in self.session.get_outputs()}
        others = {name: kind for name, kind in types.items() if not kind.startswith("tensor(")}
        if len(others) == len(types) or others.keys() & named:
            listed = ", ".join(f"{name} is {kind}" for name, kind in others.items())
            raise self._error(f"An exit or gate of {self.path} is an output of its own, one tensor, but {listed}.")

    def _run_example(self, example: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Run the file on one sample and on all.

        Raises:
            ModelError: it does not run, or with one sample only, or gives other outputs when it runs again.
        """
        try:
            one, many, again = (self.run(x) for x in (take_samples(example, self.axes, [0]), example, example))
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in example)
            why = f"does not run on the example of shape {shapes}"
            if self._runs_alone(example):
                why = f"runs on one sample, but not on several ({shapes}): a shape inside it is fixed to a batch of one"
                why += f". {EXPORT_DYNAMIC}".removesuffix(".")
            raise ModelError(
                f"{self.path} {why}. {first_line(error)}", path=self.path, nodes=failed_nodes(error)
            ) from error
        check_repeats(many, again)
        return one, many

    def _runs_alone(self, example: Arrays) -> bool:
        """Tell whether the file runs on each sample alone."""
        try:
            for i in range(count_samples(example, self.axes)):
                self.run(take_samples(example, self.axes, [i]))
        except Exception:  # whatever ONNX Runtime raises
            return False
        return True

    def _measure_own_error(
        self, example: Arrays, answers: Mapping[str, np.ndarray], sources: Sequence[ExitSource]
    ) -> float | None:
        """Return how much the answers change when ONNX Runtime does not optimise; None if it cannot run so.

        Other kernels round otherwise: a quantised value halfway between two steps goes to the other one.
        """
        try:
            plain = self.run(example, open_session(self.path, optimise="ORT_DISABLE_ALL"))
        except Exception as error:  # some operators run as part of a fused one only
            log.debug("%s does not run without optimisations: %s", self.path, first_line(error))
            return None
        return largest_error(read_exits(plain, sources), read_exits(answers, sources))


def _load(path: Path) -> tuple[Any, ir.Model]:
    """Load a file in ONNX Runtime, and as a graph.

    Raises:
        UsageError, MissingError: there is no such file, or it may not be read.
        ModelError: ONNX Runtime does not load it, or its opset is too old.
    """
    with os_errors_explained(path, "read"):
        if not path.is_file():
            found = f"{path} is {'a folder' if path.is_dir() else 'no regular file'}, not an ONNX file."
            raise UsageError(found if path.exists() else f"There is no file {path}.", path=path)
    if not os.access(path, os.R_OK):
        raise MissingError(f"Cannot read {path}. Check its permissions.", path=path)
    try:
        session, model = open_session(path), ir.load(path)
        _follow_links(model)
        if "" not in model.graph.opset_imports:  # the default domain by its other name
            model.graph.opset_imports[""] = model.graph.opset_imports.pop("ai.onnx", 0)
        model.graph.sort()  # ONNX Runtime takes nodes in any order
        InlinePass()(model)
        NameFixPass()(model)
    except Exception as error:  # protobuf's and ONNX Runtime's exception types are private
        raise ModelError(
            f"{path} is not an ONNX file that ONNX Runtime loads: {first_line(error)}{_explain_failure(path)}",
            path=path,
        ) from error
    opset = model.graph.opset_imports[""]
    if opset < LEAST_OPSET:
        raise ModelError(
            f"{path} has opset {opset}, but {LEAST_OPSET} or newer is needed. Export it again with a newer one.",
            path=path,
        )
    return session, model


def _explain_failure(path: Path) -> str:
    """Say what to do about missing files of weights, and functions of other operator sets than their file's."""
    onnx = require("onnx", extra="onnx")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # it is no ONNX file at all
        return ""
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"]
    missing = sorted({entry.value for entry in entries if not (path.parent / entry.value).exists()})
    if missing:
        return f" The file keeps weights in {', '.join(missing)}, which is missing: it belongs into the same folder."
    versions = {imported.domain or "ai.onnx": imported.version for imported in model.opset_import}
    names = [
        function.name
        for function in model.functions
        if any(versions.get(used.domain or "ai.onnx", used.version) != used.version for used in function.opset_import)
    ]
    if not names:
        return ""
    return (
        f" The file's functions {', '.join(names)} are written in another operator set than the file. Export it anew with one, "
        "or convert them (import onnx.inliner): "
        "onnx.inliner.inline_local_functions(onnx.shape_inference.infer_shapes(model), convert_version=True)."
    )


def _follow_links(model: ir.Model) -> None:
    """Name weights by the files that links lead to, as in the cache of Hugging Face. ONNX Runtime let them pass."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).is_symlink():
                folder, name = os.path.split(os.path.realpath(tensor.path))
                value.const_value = ir.ExternalTensor(
                    name,
                    tensor.offset,
                    tensor.length,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape),
                    name=str(value.name),
                    base_dir=folder,
                )


def _has_sparse_weights(path: Path) -> bool:
    onnx = require("onnx", extra="onnx")
    return bool(onnx.load(path, load_external_data=False).graph.sparse_initializer)
