"""Somebody else's torch network as one ONNX graph with the answers of every exit, and a way to run the original."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ...errors import DataError, ModelError, OfframpError, UsageError, require
from ...runtime.chain.samples import to_array
from ..graph.axes import BATCH, Axes, count_samples, first_line, other_lengths, take_samples
from ..graph.running import largest_error
from .captured import Arrays, Captured, Exporter, describe_captured
from .outputs import ExitSource, check_repeats, choose_exits, flatten_outputs, read_exits
from .torch_exporters import export_graph

if TYPE_CHECKING:
    import torch

__all__ = [
    "capture_torch",
    "dtypes_explained",
    "evaluating",
    "find_network",
    "trace_torch",
]

log = logging.getLogger(__name__)

Outputs = dict[str, np.ndarray]
"""A network's outputs by name."""


def capture_torch(
    module: "torch.nn.Module",
    example: Arrays,
    *,
    names: Sequence[str],
    axes: Sequence[Axes],
    by_name: bool = False,
    exits: Sequence[str] | None = None,
    gates: Sequence[str] = (),
    answer: Sequence[str] = (),
) -> Captured:
    """Capture a torch network in eval mode; it is left in the mode it was in.

    Args:
        module: the network; its exits are found by `outputs.choose_exits`.
        example: one array for each input, with at least two samples: the exporter fixes the batch size of a single one.
        names: the names of the inputs.
        axes: the names of the axes of every input.
        by_name: pass the inputs by their names instead of in their order.
        exits: the outputs that are exits.
        gates: the outputs that say how sure each exit is.
        answer: the names of the parts of an answer; none if the network classifies.

    Raises:
        UsageError: there is no output of a name.
        ModelError: its output is not several exits, or torch cannot export it.
        MissingError: torch or its exporter is not installed.
    """
    torch = require("torch", extra="export")
    require("onnxscript", extra="export")
    layout = list(axes)

    def call(network: Any, tensors: Sequence[Any]) -> Any:
        return network(**dict(zip(names, tensors, strict=True))) if by_name else network(*tensors)

    def run(inputs: Arrays, network: Any = module, convert: Callable[[Any], Any] = lambda tensor: tensor) -> Outputs:
        tensors = [convert(torch.from_numpy(np.array(part))) for part in inputs]
        with evaluating(network), torch.no_grad():
            output = call(network, tensors)
        return {name: _to_numpy(name, value) for name, value in flatten_outputs(output).items()}

    one, many = _run_example(module, run, example, layout)
    try:
        sources = choose_exits(one, many, exits, gates, answer)
    except ModelError as error:
        _explain_by_training_mode(module, call, example, many, error)
        raise
    wanted = list(dict.fromkeys([*(name for source in sources for name in source.outputs.values()), *gates]))
    model, exporter = _trace(module, example, layout, names=names, by_name=by_name, wanted=wanted, run=run)
    return describe_captured(
        model,
        layout,
        outputs=dict(zip(wanted, model.graph.outputs, strict=True)),
        answers=many,
        sources=sources,
        gates=gates,
        run=run,
        name=str(module._get_name()),  # type: ignore[no-untyped-call]
        captured_by=exporter,
        measure_own_error=lambda: _measure_own_error(module, run, example, many, sources),
    )


def trace_torch(module: "torch.nn.Module", example: Arrays, *, names: Sequence[str]) -> ir.Model:
    """Return a torch network with any number of exits as a graph, whose outputs have the names of what it returns.

    Args:
        module: the network.
        example: one array for each input, batch first, with at least two samples.
        names: the names of the inputs.

    Raises:
        ModelError, DataError: as for `capture_torch`.
        MissingError: torch or its exporter is not installed.
    """
    torch = require("torch", extra="export")
    require("onnxscript", extra="export")
    layout: list[Axes] = [(BATCH, *[None] * (array.ndim - 1)) for array in example]

    def run(inputs: Arrays, network: Any = module, convert: Callable[[Any], Any] = lambda tensor: tensor) -> Outputs:
        tensors = [convert(torch.from_numpy(np.array(part))) for part in inputs]
        with evaluating(network), torch.no_grad():
            return {name: _to_numpy(name, value) for name, value in flatten_outputs(network(*tensors)).items()}

    _, many = _run_example(module, run, example, layout)
    model, _ = _trace(module, example, layout, names=names, by_name=False, wanted=list(many), run=run)
    for value, name in zip(model.graph.outputs, many, strict=True):
        value.name = name
    return model


def _trace(
    module: "torch.nn.Module",
    example: Arrays,
    layout: list[Axes],
    *,
    names: Sequence[str],
    by_name: bool,
    wanted: Sequence[str],
    run: Callable[..., Outputs],
) -> tuple[ir.Model, Exporter]:
    """Return the graph that makes the wanted outputs, and what captured it."""
    with evaluating(module):
        program = _flatten_module(module, names if by_name else None, wanted)
        model, exporter = export_graph(program, example, layout, other_lengths(example, layout, run), run)
    for value, name, axis_names in zip(model.graph.inputs, names, layout, strict=True):
        value.name = name
        rename_axes(model, value, axis_names)
    return model, exporter


def _run_example(
    module: "torch.nn.Module", run: Callable[..., Outputs], example: Arrays, layout: list[Axes]
) -> tuple[Outputs, Outputs]:
    """Run a network on one sample and on all.

    Raises:
        DataError: the example is in another dtype than the network takes.
        ModelError: it does not run, or gives other outputs when it runs again.
    """
    import torch

    count, many = count_samples(example, layout), None
    try:
        first = [torch.from_numpy(np.array(part[:1])) for part in example]
        with dtypes_explained("The example", module, first, lambda to: run(example, module, to)):
            many, again = run(example), run(example)
        one = run(take_samples(example, layout, [0]))
    except OfframpError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{array.shape} {array.dtype}" for array in example)
        why = f"does not run on the example of shape {shapes}, {count} samples"
        if many is not None:
            why = f"runs on {count} samples, but not on one alone (a batch normalisation without running statistics does that)"
        raise ModelError(f"The network {why}: {first_line(error)}") from error
    check_repeats(many, again)
    return one, many


@contextmanager
def dtypes_explained(
    what: str, module: "torch.nn.Module", tensors: Sequence[Any], run: Callable[[Callable[[Any], Any]], Any]
) -> Iterator[None]:
    """Blame the dtype of the inputs where a network does not run on them, but does once they are in the dtype of its weights.

    Args:
        what: what the inputs are, for the message.
        module: the network.
        tensors: its inputs.
        run: runs the network on them after a conversion of each.

    Raises:
        DataError: that is so. Any other error is raised as it is.
    """
    try:
        yield
    except OfframpError:
        raise
    except Exception as error:
        weights = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
        wrong = [tensor for tensor in tensors if tensor.dtype != weights]
        wrong = [tensor for tensor in wrong if tensor.is_floating_point()] or wrong  # whole numbers may be indices
        if weights is None or not wrong:
            raise
        kinds, converted = {tensor.dtype for tensor in wrong}, None
        with suppress(Exception):
            converted = run(lambda tensor: tensor.to(weights) if tensor.dtype in kinds else tensor)
        if converted is None:
            raise
        given, wanted = (str(dtype).removeprefix("torch.") for dtype in (wrong[0].dtype, weights))
        raise DataError(
            f"{what} is {given}; the weights of {module._get_name()} are {wanted}, in which it runs. "  # type: ignore[no-untyped-call]
            f"Convert by {f'x.astype(numpy.{wanted}) or ' if hasattr(np, wanted) else ''}x.to(torch.{wanted})."
        ) from error


def _measure_own_error(
    module: "torch.nn.Module",
    run: Callable[..., Outputs],
    example: Arrays,
    answers: Outputs,
    sources: Sequence[ExitSource],
) -> float | None:
    """Return how much the answers change when a copy of the network computes in float64; None if it cannot."""
    from .float64_mode import Float64Mode, widen

    try:
        wide = copy.deepcopy(module).double()
        with Float64Mode():  # type: ignore[no-untyped-call]
            exact = run(example, wide, widen)
        return largest_error(read_exits(answers, sources), read_exits(exact, sources))
    except Exception as error:  # a network may do anything with a type that it does not expect
        log.debug("the network does not run in float64: %s", first_line(error))
        return None


def _explain_by_training_mode(
    module: "torch.nn.Module",
    call: Callable[[Any, Sequence[Any]], Any],
    example: Arrays,
    outputs: Outputs,
    error: ModelError,
) -> None:
    """Raise a better error than that too few exits were found, if the network returns more outputs in training mode.

    Raises:
        ModelError: it does.
    """
    import torch

    try:
        with evaluating(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
            module.train()
            count = len(flatten_outputs(call(module, [torch.from_numpy(np.array(part)) for part in example])))
    except Exception:  # training mode may need labels
        return
    if count > len(outputs):
        raise ModelError(
            f"The network returns {count} outputs in training mode, but {len(outputs)} in eval mode, in which it is captured. "
            "Let it return the logits of all its exits in eval mode too."
        ) from error


def rename_axes(model: ir.Model, value: ir.Value, names: Axes) -> None:
    """Give an input's dynamic axes their names, in its shape and in all shapes of the graph that repeat them.

    Raises:
        ModelError: an axis that should be dynamic has become fixed.
    """
    assert value.shape is not None
    renamed: dict[str, str] = {}
    for axis, name in zip(value.shape, names, strict=True):
        if name is None:
            continue
        if isinstance(axis, int) and name == BATCH:
            raise ModelError(
                f"The batch of input {value.name} was fixed to {axis} when the network was captured: code in it makes the batch "
                "size a number. Use x.shape[0] as it is, and x.detach() where x.data stands."
            )
        if isinstance(axis, int):
            raise ModelError(
                f"The axis {name} of input {value.name} was fixed to {axis} when the network was captured: "
                "it decides something in the network. Leave it fixed, or change the network."
            )
        if axis.value is not None:
            renamed[axis.value] = name
    value.shape = ir.Shape([name or axis for axis, name in zip(value.shape, names, strict=True)])
    for other in [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]:
        if other.shape is not None:
            axes = [axis if isinstance(axis, int) else axis.value for axis in other.shape]
            other.shape = ir.Shape([renamed.get(axis, axis) if isinstance(axis, str) else axis for axis in axes])


def find_network(module: Any) -> Any:
    """Return the network that can be captured: a compiled module's own one, else the module itself.

    Raises:
        UsageError: it is a record of a network, by TorchScript or by torch.export.
        ModelError: it computes in bfloat16, or layers in its plain lists are still in training mode.
    """
    import torch

    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    if isinstance(module, torch.jit.ScriptModule):
        raise UsageError(
            "The network is a TorchScript module (traced, scripted, frozen or loaded), which is not captured. Give the Python "
            "network that it was made from; without that, write an ONNX file with torch.onnx.export(..., dynamo=False) and "
            "export the file."
        )
    if isinstance(module, torch.fx.GraphModule) and "train" in vars(module):  # it has no modes
        raise UsageError(
            "The network is a module of torch.export. Give the Python network that it was made from; without that, write an ONNX "
            "file with torch.onnx.export and export the file."
        )
    if {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()} == {torch.bfloat16}:
        raise ModelError(
            "The network's weights are bfloat16, which CPUs' ONNX Runtime does not multiply: call .float() on it."
        )
    _check_plain_lists(module)
    return module


def _check_plain_lists(module: Any) -> None:
    """See that no batch normalisation or dropout in training mode is hidden from `eval()` in a plain list, tuple or dict.

    Raises:
        ModelError: there is one.
    """
    import torch

    kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)
    found = set(module.modules())
    for part in module.modules():
        for name, value in vars(part).items():
            held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            layers = {layer for m in held if isinstance(m, torch.nn.Module) for layer in m.modules()} - found
            if any(isinstance(layer, kinds) and layer.training for layer in layers):
                raise ModelError(
                    f"{part._get_name()}.{name} holds layers in a plain {type(value).__name__}, where eval() and state_dict() do "
                    "not find them; they are in training mode. Put them into a torch.nn.ModuleList or ModuleDict."
                )


def _flatten_module(module: "torch.nn.Module", names: Sequence[str] | None, wanted: Sequence[str]) -> Any:
    """Wrap a network so that it takes its inputs in order and returns the wanted outputs as a tuple."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            output = self.network(*inputs) if names is None else self.network(**dict(zip(names, inputs, strict=True)))
            tensors = flatten_outputs(output)
            return tuple(tensors[name] for name in wanted)

    return Flat().eval()


def _to_numpy(name: str, value: Any) -> np.ndarray:
    try:
        return to_array(value)
    except TypeError as error:
        raise ModelError(
            f"Output {name} is {value.dtype}, which NumPy does not have: return float32 or float16."
        ) from error


@contextmanager
def evaluating(module: "torch.nn.Module") -> Iterator[None]:
    """Put every part of a network in eval mode for a while; then back into the mode it was in, with its buffers as they were."""
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
            with suppress(RuntimeError):  # what cannot be written in place, such as an expanded tensor, has not changed
                buffer.data.copy_(value)
            part._buffers[name] = buffer
