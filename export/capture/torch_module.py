"""From somebody else's torch network to one ONNX graph with the logits of every exit, and a way to run the original."""

import inspect
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ...errors import ModelError, causes, require
from ..graph.axes import BATCH, Axes, count_samples, first_line, other_lengths, take_samples
from ..graph.running import open_session
from .captured import Arrays, Captured, infer_shapes
from .outputs import check_gates, choose_exits, find_exits, flatten_outputs, pad_gates, read_exits

if TYPE_CHECKING:
    import torch

TORCHSCRIPT_OPSET = 17
"""The opset that TorchScript exports to; the newest that torch's older exporter writes well."""


def capture_torch(
    module: "torch.nn.Module",
    example: Arrays,
    *,
    names: Sequence[str],
    axes: Sequence[Axes],
    by_name: bool = False,
    exits: Sequence[str] | None = None,
    gates: Sequence[str] = (),
) -> Captured:
    """Capture a torch network in eval mode; it is left in the mode it was in.

    torch's dynamo exporter is tried first. Where it fails for another reason than values that decide the way, TorchScript
    records one run; whatever it would have to take for granted is an error.

    Args:
        module: the network; its exits are found by `outputs.choose_exits`.
        example: one array per input, at least two samples of each, since the exporter fixes the batch size of a single one.
        names: of the inputs; by them they are passed if `by_name`.
        axes: the names of the axes of every input.
        exits: the outputs that are exits.
        gates: the outputs that say how sure each exit is.

    Raises:
        UsageError: a name is not an output's.
        ModelError: its output is not several exits, or torch cannot export it.
        MissingError: torch or its exporter is not installed.
    """
    torch = require("torch", extra="export")
    require("onnxscript", extra="export")
    arrays, layout = example, list(axes)

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(np.array(part)) for part in inputs]
        with evaluating(module), torch.no_grad():
            output = module(**dict(zip(names, tensors, strict=True))) if by_name else module(*tensors)
        return {name: _to_numpy(name, value) for name, value in flatten_outputs(output).items()}

    try:
        one, many, again = run(take_samples(arrays, layout, [0])), run(arrays), run(arrays)
    except ModelError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{array.shape} {array.dtype}" for array in arrays)
        raise ModelError(
            f"The network does not run on the example of shape {shapes}, {count_samples(arrays, layout)} samples: "
            f"{first_line(error)}"
        ) from error
    for name, first in many.items():
        if not np.array_equal(first, again[name], equal_nan=first.dtype.kind == "f"):
            raise ModelError(
                f"Output {name} differs between two runs on the same samples: the network draws random numbers."
            )
    sources = choose_exits(_without(one, gates), _without(many, gates), exits)
    check_gates(many, gates, sources)
    wanted = list(dict.fromkeys([*(source.output for source in sources), *gates]))
    with evaluating(module):
        program = _flat(module, names if by_name else None, wanted)
        model, how = _export(program, arrays, layout, other_lengths(arrays, layout, run), run)
    for value, name, own in zip(model.graph.inputs, names, layout, strict=True):
        rename_axes(model, value, own)
        value.name = name
    outputs = dict(zip(wanted, model.graph.outputs, strict=True))
    values = find_exits(model.graph, outputs, sources)
    return Captured(
        model,
        layout,
        {source.name: value for source, value in zip(sources, values, strict=True)},
        pad_gates([outputs[name] for name in gates], len(sources)),
        lambda inputs: read_exits(run(inputs), sources),
        str(module._get_name()),  # type: ignore[no-untyped-call]
        how,
    )


def rename_axes(model: ir.Model, value: ir.Value, names: Axes) -> None:
    """Give an input's dynamic axes their names, there and wherever the graph's shapes repeat them.

    Raises:
        ModelError: an axis that should be dynamic has become fixed.
    """
    assert value.shape is not None
    new: dict[str, str] = {}
    for axis, name in zip(value.shape, names, strict=True):
        if name is None:
            continue
        if isinstance(axis, int):
            raise ModelError(
                f"The axis {name} of input {value.name} was fixed to {axis} when the network was captured: "
                "it decides something in the network. Leave it fixed, or change the network."
            )
        if axis.value is not None:
            new[axis.value] = name
    value.shape = ir.Shape([name or axis for axis, name in zip(value.shape, names, strict=True)])
    for other in [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]:
        if other.shape is not None:
            axes = [axis if isinstance(axis, int) else axis.value for axis in other.shape]
            other.shape = ir.Shape([new.get(axis, axis) if isinstance(axis, str) else axis for axis in axes])


def _export(
    program: Any, arrays: Arrays, layout: list[Axes], others: Sequence[Arrays], run: Callable[[Arrays], object]
) -> tuple[ir.Model, str]:
    """Export a module that returns a tuple of tensors.

    Returns:
        The graph, and what captured it.

    Raises:
        ModelError: neither exporter can.
    """
    import torch

    from .exporter_patches import SlicedPooling

    tensors = tuple(torch.from_numpy(np.array(array)) for array in arrays)
    batch = torch.export.Dim(BATCH)
    dims = tuple(
        {i: batch if name == BATCH else torch.export.Dim.DYNAMIC for i, name in enumerate(own) if name is not None}
        for own in layout
    )
    with torch.no_grad(), _quiet(), SlicedPooling():
        try:
            exported = torch.onnx.export(program, tensors, dynamo=True, dynamic_shapes=(dims,), verbose=False)
            assert exported is not None
            _run_graph(exported.model, others)
            found = exported
        except Exception as error:
            for cause in causes(error):
                if isinstance(cause, ModelError):
                    raise cause from error
            if any(_depends_on_data(cause) for cause in causes(error)):
                raise ModelError(
                    f"torch cannot export the network: {first_line(error)} (a branch that depends on the values of a tensor: "
                    "replace it by torch.where, or by arithmetic)"
                ) from error
            found, failure = None, error
        if found is not None:
            _check_ranges(found, arrays, layout, run)
            return found.model, "dynamo"
        try:
            return _trace(program, tensors, layout), "torchscript"
        except Exception as error:
            raise ModelError(
                f"torch cannot export the network: {first_line(failure)} TorchScript cannot either: {first_line(error)}"
            ) from failure


def _check_ranges(exported: Any, arrays: Arrays, layout: list[Axes], run: Callable[[Arrays], object]) -> None:
    """See that the network takes no other way at lengths outside the range that the exporter found its graph to hold for.

    Raises:
        ModelError: it runs there, so that a branch on the length was fixed.
    """
    ranges = {str(symbol): limits for symbol, limits in exported.exported_program.range_constraints.items()}
    for i, (value, own) in enumerate(zip(exported.model.graph.inputs, layout, strict=True)):
        for axis, (dim, name) in enumerate(zip(value.shape, own, strict=True)):
            limits = None if name in (None, BATCH) or isinstance(dim, int) else ranges.get(str(dim.value))
            if limits is None:
                continue
            for length in (limits.lower - 1, limits.upper + 1):
                if not length.is_finite or not 2 <= length < 1 << 20:  # exporters say "2 or more" of every axis
                    continue
                changed = list(arrays)
                changed[i] = np.ascontiguousarray(
                    np.take(arrays[i], np.arange(int(length)) % arrays[i].shape[axis], axis)
                )
                try:
                    run(changed)
                except Exception:  # a length that the network itself does not take
                    continue
                raise ModelError(
                    f"The network takes another way where {name} is {int(length)}: its graph holds from {limits.lower} to "
                    f"{limits.upper} only. Leave that axis fixed, or take the branch on the length out."
                )


def _run_graph(model: ir.Model, samples: Sequence[Arrays]) -> None:
    """See that a captured graph runs at other lengths: the exporter fixes some without a word."""
    if not samples:
        return
    with tempfile.TemporaryDirectory() as folder:
        ir.save(model, Path(folder) / "graph.onnx", external_data="graph.data")
        session = open_session(Path(folder) / "graph.onnx")
        for arrays in samples:
            session.run(None, {str(v.name): array for v, array in zip(model.graph.inputs, arrays, strict=True)})


def _trace(program: Any, tensors: Any, layout: list[Axes]) -> ir.Model:
    """Export by recording one run; what the record would take for granted, such as a branch, is an error."""
    import torch

    from .exporter_patches import QuietRecurrent

    names = [f"input{i}" for i in range(len(tensors))]
    dynamic = {
        name: {i: f"{axis}" for i, axis in enumerate(own) if axis is not None}
        for name, own in zip(names, layout, strict=True)
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        QuietRecurrent(),
        redirect_stdout(StringIO()),
    ):
        warnings.filterwarnings("error", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        path = Path(folder) / "traced.onnx"
        torch.onnx.export(
            program,
            tensors,
            path,
            dynamo=False,
            opset_version=TORCHSCRIPT_OPSET,
            input_names=names,
            dynamic_axes=dynamic,
            verbose=False,
        )
        model = ir.load(path)
        ir.external_data.load_to_model(model)
    found = {value.name: value for value in model.graph.inputs}
    model.graph.inputs[:] = [  # an input that nothing reads is left out of the file
        found.get(name) or _make_input(name, tensor, dynamic[name]) for name, tensor in zip(names, tensors, strict=True)
    ]
    infer_shapes(model)
    return model


def _make_input(name: str, tensor: Any, names: Mapping[int, str]) -> ir.Value:
    dtype = ir.DataType.from_numpy(tensor.numpy().dtype)
    shape = ir.Shape([names.get(i, size) for i, size in enumerate(tensor.shape)])
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)


def _flat(module: "torch.nn.Module", names: Sequence[str] | None, wanted: Sequence[str]) -> Any:
    """Wrap a network so that it takes its inputs in order and returns the wanted outputs as a tuple."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            output = self.network(*inputs) if names is None else self.network(**dict(zip(names, inputs, strict=True)))
            found = flatten_outputs(output)
            return tuple(found[name] for name in wanted)

    return Flat().eval()


def forward_names(module: "torch.nn.Module", inputs: int) -> list[str]:
    """Return the names of the first parameters of a network's forward."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [name for name, p in _parameters(module).items() if p.kind in kinds][:inputs]
    return found + [f"input{i}" for i in range(len(found), inputs)]


def _parameters(module: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a network's forward.

    A module that passes all inputs on names the inner module that takes them as its attribute `takes_inputs`.
    """
    return inspect.signature(getattr(module, "takes_inputs", module).forward).parameters


def takes_by_name(module: Any, names: Sequence[str]) -> bool:
    """Tell whether a network's forward has parameters of these names, but not first and in this order."""
    known = _parameters(module)
    return forward_names(module, len(names)) != list(names) and all(name in known for name in names)


def _to_numpy(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value.detach().cpu().numpy())
    except TypeError as error:
        raise ModelError(
            f"Output {name} is {value.dtype}, which NumPy does not have; logits are float32 or float16."
        ) from error


def _without(outputs: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: value for name, value in outputs.items() if name not in names}


def _depends_on_data(error: BaseException) -> bool:
    """Tell whether an exporter's error says that values of a tensor decide what is computed."""
    text = str(error).lower()
    return type(error).__name__ == "GuardOnDataDependentSymNode" or "data-dependent" in text or "control flow" in text


@contextmanager
def evaluating(module: "torch.nn.Module") -> Iterator[None]:
    """Put every part of the network in eval mode, and back into the mode that each was in, its buffers as they were."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, b, b.clone()) for part in module.modules() for name, b in part._buffers.items() if b is not None
    ]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for part, name, buffer, value in buffers:  # a network may count in them
            buffer.data.copy_(value)
            part._buffers[name] = buffer


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings about itself; what went wrong still comes as an exception."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
