"""From somebody else's network to one ONNX graph with the logits of every exit, and a way to run the original."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, NameFixPass, ShapeInferencePass

from ..errors import MissingError, ModelError, UsageError, require

if TYPE_CHECKING:
    import torch

BATCH = "batch"
"""The name of the dynamic batch dimension in every graph that is written."""


class Captured(NamedTuple):
    """A captured network.

    Attributes:
        model: the graph; its only input has a dynamic batch axis 0.
        logits: the exits in order, by name; each value is (batch, classes).
        reference: runs the original: (N, ...) -> one (N, classes) array per exit.
        name: what the network is called.
    """

    model: ir.Model
    logits: dict[str, ir.Value]
    reference: Callable[[np.ndarray], list[np.ndarray]]
    name: str


def capture_torch(module: "torch.nn.Module", example: np.ndarray) -> Captured:
    """Capture a torch network that returns its exits as a list, tuple or dict of (batch, classes) logits.

    It is captured in eval mode with torch's dynamo exporter and left in the mode it was in.

    Args:
        module: the network; takes one tensor.
        example: samples (N, ...), N at least 2, since the exporter fixes the batch size of a single one.

    Raises:
        ModelError: its output is not several exits, or torch cannot export it.
        MissingError: torch or its exporter is not installed.
    """
    torch = require("torch", extra="export")
    require("onnxscript", extra="export")

    class Flat(torch.nn.Module):  # type: ignore[name-defined, misc]
        """The network with its exits as a tuple."""

        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, x: Any) -> tuple[Any, ...]:
            return tuple(_named_exits(self.network(x)).values())

    def reference(x: np.ndarray) -> list[np.ndarray]:
        with _evaluating(module), torch.no_grad():
            return [value.cpu().numpy() for value in _named_exits(module(torch.from_numpy(x.copy()))).values()]

    with _evaluating(module), torch.no_grad():
        try:
            exits = _named_exits(module(torch.from_numpy(example.copy())))
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"The network does not run on the example of shape {example.shape}, {example.dtype}: {_first_line(error)}"
            ) from error
        _check_shapes({name: tuple(value.shape) for name, value in exits.items()}, len(example))
        for name, value in exits.items():
            if value.dtype not in (torch.float32, torch.float16, torch.float64):
                raise ModelError(f"Exit {name} is {value.dtype}; logits are float32, float16 or float64.")
        try:
            with _quiet():
                program = torch.onnx.export(
                    Flat(),
                    (torch.from_numpy(example.copy()),),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                    verbose=False,
                )
        except Exception as error:
            raise ModelError(
                f"torch cannot export the network: {_first_line(error)} "
                "(a branch that depends on the values of a tensor is the usual cause)"
            ) from error
    model: ir.Model = program.model
    return Captured(model, dict(zip(exits, model.graph.outputs, strict=True)), reference, type(module).__name__)


def capture_onnx(path: str | os.PathLike[str]) -> Captured:
    """Read an ONNX file with one output of logits (batch, classes) per exit.

    Raises:
        UsageError: there is no such file.
        ModelError: it is no ONNX file, or its inputs and outputs are not those of a multi-exit classifier.
        MissingError: ONNX Runtime is not installed.
    """
    ort = require("onnxruntime", extra="onnx")
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no file {path}." if not path.exists() else f"{path} is a folder, not an ONNX file.")
    if not os.access(path, os.R_OK):
        raise MissingError(f"Cannot read {path}. Check its permissions.")
    try:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        model = ir.load(path)
    except Exception as error:  # protobuf's and ONNX Runtime's exception types are private
        raise ModelError(f"{path} is not an ONNX file that ONNX Runtime loads: {_first_line(error)}") from error
    if "" not in model.graph.opset_imports:  # the default domain by its other name
        model.graph.opset_imports[""] = model.graph.opset_imports["ai.onnx"]
    InlinePass()(model)
    NameFixPass()(model)
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(inputs) != 1:
        raise ModelError(f"{path} has {len(inputs)} inputs; this version takes networks with one.")
    shape, name = session.get_inputs()[0].shape, str(inputs[0].name)  # the value may be renamed later
    if not shape or any(not isinstance(axis, int) for axis in shape[1:]):
        raise ModelError(f"{path} has an input of shape {shape}; only its first axis, the batch, may be dynamic.")
    model.graph.inputs[:] = inputs  # before IR version 4 weights were listed among the inputs
    _make_batch_dynamic(model, inputs[0])
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ModelError(f"{path} is fixed to batches of {shape[0]}. Export it with a dynamic batch axis.")
    for value in session.get_outputs():
        if value.type not in ("tensor(float)", "tensor(float16)", "tensor(double)"):
            raise ModelError(f"Output {value.name} of {path} is {value.type}; logits are float, float16 or double.")
    _check_shapes({value.name: tuple(value.shape) for value in session.get_outputs()}, None)

    def reference(x: np.ndarray) -> list[np.ndarray]:
        parts = np.split(x, len(x)) if isinstance(shape[0], int) else [x]
        outputs = [session.run(None, {name: part}) for part in parts]
        return [np.concatenate(values) for values in zip(*outputs, strict=True)]

    logits = {str(value.name): value for value in model.graph.outputs}
    return Captured(model, logits, reference, path.stem)


def random_example(model: ir.Model, rows: int) -> np.ndarray:
    """Draw standard normal samples (rows, ...) for a graph whose input shape is known."""
    value = model.graph.inputs[0]
    assert value.shape is not None and value.dtype is not None
    if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        raise UsageError(f"The input {value.name} is {value.dtype.name}: pass an example, random ones make no sense.")
    shape = (rows, *(int(axis) for axis in value.shape[1:]))  # type: ignore[arg-type]
    return np.random.default_rng(0).standard_normal(shape).astype(value.dtype.numpy())


def _named_exits(output: Any) -> dict[str, Any]:
    if isinstance(output, dict):
        exits = {str(name): value for name, value in output.items()}
        if len(exits) < len(output):
            raise ModelError(f"Two exits of the network have the same name: {', '.join(map(str, output))}.")
    elif isinstance(output, (list, tuple)):
        exits = {f"exit{k}": value for k, value in enumerate(output)}
    else:
        raise ModelError(
            f"The network returns a {type(output).__name__}, not its exits: "
            "it must return a list, tuple or dict with the logits of each exit."
        )
    for name, value in exits.items():
        if not hasattr(value, "shape"):
            raise ModelError(f"Exit {name} of the network is a {type(value).__name__}, not a tensor of logits.")
    return exits


def _check_shapes(shapes: dict[str, tuple[Any, ...]], batch: int | None) -> None:
    """Refuse exits that are not (batch, classes) with the same number of classes."""
    if len(shapes) < 2:
        raise ModelError(f"The network has {len(shapes)} exit; early exit needs at least two.")
    for name, shape in shapes.items():
        if len(shape) != 2 or (batch is not None and shape[0] != batch) or not isinstance(shape[1], int):
            raise ModelError(f"Exit {name} has the shape {shape}; logits are (batch, classes).")
    classes = {name: shape[1] for name, shape in shapes.items()}
    if len(set(classes.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in classes.items())
        raise ModelError(f"The exits differ in their number of classes: {each}. Leave out outputs that are no exits.")
    if min(classes.values()) < 2:
        raise ModelError("The exits have one class only; offramp serves classification with at least two.")


def _make_batch_dynamic(model: ir.Model, value: ir.Value) -> None:
    """Name the input's first axis and infer every shape anew from it."""
    assert value.shape is not None
    value.shape = ir.Shape([BATCH, *value.shape[1:]])
    for node in model.graph:
        for output in node.outputs:
            output.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False)(model)


@contextmanager
def _evaluating(module: "torch.nn.Module") -> Iterator[None]:
    """Put every part of the network in eval mode and back into the mode that each was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings about itself; what went wrong still comes as an exception."""
    import logging

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


def _first_line(error: BaseException) -> str:
    """Return the first line of the deepest cause, which is the one that names the user's code."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
