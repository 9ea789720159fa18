"""A torch module as an ONNX graph, by one of torch's two exporters.

The dynamo exporter is tried first. If it fails, TorchScript records one run instead; what such a record would take for granted,
such as a branch on a value, is an error.
"""

import logging
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import ModelError, causes
from ..graph.axes import BATCH, Axes, first_line
from ..graph.running import open_session
from ..graph.shapes import infer_shapes
from .captured import Arrays, Exporter
from .silence import silenced

TORCHSCRIPT_OPSET = 17
"""The opset that TorchScript exports to: the newest that torch's older exporter writes well."""

MOST_PROBED_LENGTH = 1 << 20
"""No longer axis is tried when the limits of a graph's lengths are checked."""

log = logging.getLogger(__name__)


def export_graph(
    program: Any, arrays: Arrays, layout: list[Axes], others: Sequence[Arrays], run: Callable[[Arrays], object]
) -> tuple[ir.Model, Exporter]:
    """Export a module that returns a tuple of tensors.

    Args:
        program: the module.
        arrays, layout: an example of each input, and the names of its axes.
        others: the example with its named axes at other lengths, at which the graph must run too.
        run: runs the original network.

    Returns:
        The graph, and what captured it: `dynamo` or `torchscript`.

    Raises:
        ModelError: neither exporter can, or the graph would be wrong at other lengths.
    """
    import torch

    from .exporter_patches import Decompositions

    tensors = tuple(torch.from_numpy(np.array(array)) for array in arrays)
    with torch.no_grad(), silenced(), Decompositions():
        try:
            exported = _export_dynamo(program, tensors, layout)
            _run_graph(exported.model, others)
        except Exception as error:
            _reraise_final(error)
            failure = error
        else:
            _check_ranges(exported, arrays, layout, run)
            log.debug("captured by dynamo")
            return exported.model, "dynamo"
        log.debug("dynamo failed (%s): TorchScript is tried", first_line(failure))
        try:
            return _trace(program, tensors, layout), "torchscript"
        except Exception as error:
            reason, nodes = _explain_failure(failure, program)
            raise ModelError(
                f"torch cannot export the network: {reason} TorchScript cannot either: {_explain(error)}", nodes=nodes
            ) from failure


def _export_dynamo(program: Any, tensors: Any, layout: list[Axes]) -> Any:
    import torch

    batch = torch.export.Dim(BATCH)
    dims = tuple(
        {
            i: batch if name == BATCH else torch.export.Dim.DYNAMIC
            for i, name in enumerate(axis_names)
            if name is not None
        }
        for axis_names in layout
    )
    exported = torch.onnx.export(program, tensors, dynamo=True, dynamic_shapes=(dims,), verbose=False)
    assert exported is not None
    return exported


def _reraise_final(error: Exception) -> None:
    """Raise an error of dynamo's that TorchScript could only hide.

    Raises:
        ModelError: one of our patches raised it, or it says that a branch depends on the values of a tensor.
    """
    for cause in causes(error):
        if isinstance(cause, ModelError):
            raise cause from error
    if any(_depends_on_data(cause) for cause in causes(error)):
        raise ModelError(
            "torch cannot export the network: it has a branch that depends on the values of a tensor, or int() or .item() of "
            f"one{_find_line(error)}. Replace it by torch.where, or by arithmetic. A network that leaves early by itself returns "
            f"the logits of all its exits instead, and leaves the choice to offramp. torch says: {first_line(error)}"
        ) from error


def _find_line(error: BaseException) -> str:
    """Return where in the network's own code an error was raised: ", in net.py, line 7"; empty if that is not known."""
    import torch

    *_, deepest = causes(error)
    places = [
        f", in {Path(frame.f_code.co_filename).name}, line {line}"
        for frame, line in traceback.walk_tb(deepest.__traceback__)
        if isinstance(frame.f_locals.get("self"), torch.nn.Module)
        and not str(frame.f_globals.get("__name__")).startswith(("torch.", "offramp.export."))
    ]
    return places[-1] if places else ""


def _explain_failure(error: Exception, program: Any) -> tuple[str, tuple[str, ...]]:
    """Return dynamo's reason in a sentence, and the names of the nodes that it could not translate."""
    import torch

    for name, part in program.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            part_name = name.removeprefix("network.")
            return (
                f"its part {part_name} is a TorchScript module: put the Python module that it was made from there.",
                (),
            )
    text = "\n".join(str(cause) for cause in causes(error))
    nodes = tuple(dict.fromkeys(re.findall(r"translating node %(\w+)", text)))
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", text)
    if missing:
        return f"the operator {missing[1]} has no ONNX form: replace it in the network.", nodes
    return _explain(error), nodes


def _explain(error: BaseException) -> str:
    return f"{first_line(error).rstrip('.')}{_find_line(error)}."


def _depends_on_data(error: BaseException) -> bool:
    """Tell whether an exporter's error says that a branch depends on the values of a tensor."""
    text = str(error).lower()
    return type(error).__name__ == "GuardOnDataDependentSymNode" or "data-dependent" in text or "control flow" in text


def _check_ranges(exported: Any, arrays: Arrays, layout: list[Axes], run: Callable[[Arrays], object]) -> None:
    """See that the network does not run at lengths outside the range that the exporter states for its graph.

    Raises:
        ModelError: it runs there: it branches on the length, and the graph has one branch only.
    """
    ranges = {str(symbol): limits for symbol, limits in exported.exported_program.range_constraints.items()}
    for i, (value, axis_names) in enumerate(zip(exported.model.graph.inputs, layout, strict=True)):
        for axis, (dim, name) in enumerate(zip(value.shape, axis_names, strict=True)):
            limits = None if name in (None, BATCH) or isinstance(dim, int) else ranges.get(str(dim.value))
            if limits is None:
                continue
            for length in (limits.lower - 1, limits.upper + 1):
                # Exporters state "2 or more" for every axis.
                if not length.is_finite or not 2 <= length < MOST_PROBED_LENGTH:
                    continue
                changed = list(arrays)
                rows = np.arange(int(length)) % arrays[i].shape[axis]
                changed[i] = np.ascontiguousarray(np.take(arrays[i], rows, axis))
                try:
                    run(changed)
                except Exception:  # the network itself does not take this length
                    continue
                raise ModelError(
                    f"The network branches on the length of {name}: it runs at {int(length)}, but its graph holds from "
                    f"{limits.lower} to {limits.upper} only. Leave that axis fixed, or take the branch out."
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
    """Export by recording one run. A warning that the record takes something for granted, such as a branch, is an error."""
    import torch

    from .exporter_patches import QuietRecurrent

    names = [f"input{i}" for i in range(len(tensors))]
    dynamic = {
        name: {i: f"{axis}" for i, axis in enumerate(axis_names) if axis is not None}
        for name, axis_names in zip(names, layout, strict=True)
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        QuietRecurrent(),
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
    inputs = {value.name: value for value in model.graph.inputs}
    model.graph.inputs[:] = [  # an input that nothing reads is left out of the file
        inputs.get(name) or _make_input(name, tensor, dynamic[name])
        for name, tensor in zip(names, tensors, strict=True)
    ]
    infer_shapes(model)
    return model


def _make_input(name: str, tensor: Any, names: Mapping[int, str]) -> ir.Value:
    dtype = ir.DataType.from_numpy(tensor.numpy().dtype)
    shape = ir.Shape([names.get(i, size) for i, size in enumerate(tensor.shape)])
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)
