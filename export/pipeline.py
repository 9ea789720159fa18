"""The whole of an export: capture, decide, cut, verify, commit."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import onnx_ir as ir
from msgspec.structs import replace
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateInitializersPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from .. import __version__
from ..bundle import Bundle, Manifest, Origin, Preprocess, Tensor, open_bundle
from ..bundle.golden import read_golden
from ..bundle.manifest import SCHEMA, Dtype, Precision
from ..bundle.writing import check_variant_name, commit, new_variant
from ..errors import UsageError
from .capture.captured import Captured
from .capture.example import capture_with_example
from .capture.exit_order import find_order, reorder
from .capture.onnx_file import is_quantised
from .capture.preprocess import add_preprocess
from .capture.torch_module import takes_by_name
from .cut.boundaries import Prober, probe_values
from .cut.rules import add_decisions, are_probabilities, check_rule, decided_logits
from .cut.shape_arithmetic import rewrite_shapes
from .cut.variant import WEIGHTS, WHOLE, cut_variant
from .graph.axes import BATCH, Axes, other_lengths, sizes_of

if TYPE_CHECKING:
    import torch


def export(
    model: "torch.nn.Module | str | os.PathLike[str]",
    example: Any,
    path: "str | os.PathLike[str]",
    *,
    exits: Sequence[str] | None = None,
    sort: bool = False,
    axes: Any = None,
    rule: str = "max_softmax",
    gates: Sequence[str] = (),
    temperatures: Sequence[float] | None = None,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    beside: str | None = None,
    origin: Origin | None = None,
) -> Bundle:
    """Export a multi-exit classifier as a bundle.

    Args:
        model: a torch network, or the path of an ONNX file. It gives the logits (batch, classes) of its exits, shallowest
            first, as a list, tuple, dict or dataclass, or as one stacked tensor (exit, batch, class). Exits that end in a
            softmax are seen by their sums, and scored by the probabilities they give.
        example: one or more samples with their batch axis, as a numpy array or torch tensor; for several inputs a tuple, or a
            dict by name. Real ones verify best. None draws random ones, for ONNX files with float inputs only.
        path: the bundle to write. One that is there is replaced when all has succeeded, and is left as it was otherwise.
        exits: the names of the outputs that are exits, in order, where some are not: dict keys or field names, `exit0` and so
            on for a list, joined by dots where nested, an ONNX file's output names.
        sort: put the exits in order by the multiply-accumulates below them, instead of refusing another order.
        axes: for an input whose batch is not its first axis, or that has others of no fixed size: its axes, such as
            `("batch", "time")` or `(None, "batch", None)`; for several inputs a dict by name.
        rule: how an exit's score is made: `max_softmax`, `entropy`, `margin`, `ensemble` (geometric mean of the heads so far),
            or `gate` and `gate_logit` for a network with gates of its own.
        gates: for these two the names of the outputs that say how sure each exit is, as a probability or before the sigmoid.
        temperatures: one per exit; it divides the logits before the score is made of them.
        preprocess: makes the bundle take uint8 images (batch, height, width, channel), and says how to resize images; then
            the example is such images too.
        class_names: one per class.
        beside: a name: adds the network to the bundle that is there, as a variant of this name, instead of replacing the bundle.
            It takes the same inputs and has the same classes; `preprocess`, `class_names` and by default the example are the
            bundle's.
        origin: what that variant was made from.

    Returns:
        The bundle, whose chain has been compared with the original network at batch sizes 1 and 3, at other lengths where an axis
        has no fixed size, and with itself on a batch whose samples leave at different exits.

    Raises:
        UsageError: the path or a name cannot be used.
        ModelError: the network cannot be captured or cut.
        DataError: the example does not fit.
        CheckError: the chain's logits differ from the original's by more than 1e-5 of the largest (more in half precision or
            quantised), or the network mixes the samples of a batch.
        MissingError: a package is not installed, or the path cannot be written.
    """
    check_rule(rule, gates, temperatures)
    if origin is not None and beside is None:
        raise UsageError("origin says which variant of the bundle a further one was made from: give beside too.")
    if beside is not None:
        if preprocess is not None or class_names is not None:
            raise UsageError("Beside other variants preprocess and class_names are the bundle's: leave them out.")
        open_bundle(path)  # what is no bundle is refused before a folder is made for it
    with new_variant(path) as folder:
        bundle = None if beside is None else open_bundle(path)
        if bundle is not None and beside is not None:
            check_variant_name(beside, bundle)
            if origin is not None:
                bundle.variant(origin.parent)
            preprocess = bundle.manifest.preprocess
            if example is None:
                example = read_golden(bundle, bundle.variant()).inputs
                names = [tensor.name for tensor in bundle.manifest.inputs]
                if hasattr(model, "forward") and takes_by_name(model, names):
                    example = dict(zip(names, example, strict=True))
        captured, golden = capture_with_example(
            model, example, exits=exits, gates=gates, axes=axes, preprocess=preprocess
        )
        if preprocess is not None:
            captured = add_preprocess(captured, preprocess)
        precision = _precision(captured)
        if temperatures is not None and len(temperatures) != len(captured.logits):
            raise UsageError(
                f"There are {len(temperatures)} temperatures for {len(captured.logits)} exits: give one each."
            )
        order = find_order(captured, sizes_of(golden, captured.axes), sort=sort)
        captured = reorder(captured, order)
        temperatures = None if temperatures is None else [temperatures[k] for k in order]
        raw = captured.reference
        original = raw(golden)
        classes = int(original[0].shape[1])
        if class_names is not None and len(class_names) != classes:
            raise UsageError(f"There are {len(class_names)} class names for {classes} classes.")
        for value in captured.logits.values():
            value.shape = ir.Shape([BATCH, classes])
        others = other_lengths(golden, captured.axes, raw)
        prober = Prober(golden, captured.axes, others, folder)
        probabilities = [are_probabilities(values) for values in original]
        whole = _write_whole(captured, prober, rule, temperatures, probabilities)
        inputs = tuple(_describe_input(v, own) for v, own in zip(whole.graph.inputs, captured.axes, strict=True))
        if bundle is not None:
            _check_same(bundle.manifest, inputs, classes)
        variant = cut_variant(
            whole,
            prober,
            name=beside or precision,
            precision=precision,
            rule=rule,
            inputs=inputs,
            classes=classes,
            exits=list(captured.logits),
            temperatures=temperatures,
            noise=captured.noise,
            reference=lambda x: decided_logits(raw(x), rule, temperatures, probabilities=probabilities),
            origin=origin,
        )
        if bundle is not None:
            return commit(path, folder, replace(bundle.manifest, variants=(*bundle.manifest.variants, variant)))
        manifest = Manifest(
            schema=SCHEMA,
            offramp=__version__,
            network=captured.name,
            captured=captured.how,  # type: ignore[arg-type]
            classes=classes,
            class_names=None if class_names is None else tuple(class_names),
            preprocess=preprocess,
            inputs=inputs,
            variants=(variant,),
        )
        return commit(path, folder, manifest)


def _check_same(manifest: Manifest, inputs: Sequence[Tensor], classes: int) -> None:
    """See that a network can be another form of a bundle's.

    Raises:
        UsageError: it takes other inputs, or has other classes.
    """
    if classes != manifest.classes:
        raise UsageError(
            f"The network has {classes} classes, the bundle's {manifest.classes}: it is no other form of it."
        )
    if tuple(inputs) != manifest.inputs:
        ours, theirs = (
            ", ".join(f"{one.name} {one.dtype} {one.shape}" for one in part) for part in (inputs, manifest.inputs)
        )
        raise UsageError(f"The network takes {ours}, the bundle's {theirs}: give it the same inputs by the same names.")


def _write_whole(
    captured: Captured, prober: Prober, rule: str, temperatures: Sequence[float] | None, probabilities: Sequence[bool]
) -> ir.Model:
    """Write the whole graph, decisions included, with its weights beside it; every cut refers to those weights."""
    add_decisions(
        captured.model,
        captured.logits,
        rule,
        gates=captured.gates,
        temperatures=temperatures,
        probabilities=probabilities,
    )
    RemoveUnusedNodesPass()(captured.model)
    ClearMetadataAndDocStringPass()(captured.model)  # exporters leave stack traces with the workstation's paths
    LiftConstantsToInitializersPass()(captured.model)
    DeduplicateInitializersPass(size_limit=1 << 40)(captured.model)
    folder = prober.folder
    ir.save(captured.model, folder / WHOLE, external_data=WEIGHTS)
    (folder / WEIGHTS).touch()  # so that it is there where every weight lies in the graph
    whole = ir.load(folder / WHOLE)
    rewrite_shapes(whole, lambda values: probe_values(whole, values, prober), captured.axes[0].index(BATCH))
    RemoveUnusedNodesPass()(whole)
    ir.save(whole, folder / WHOLE)
    return ir.load(folder / WHOLE)


def _precision(captured: Captured) -> Precision:
    """Name what the network computes in."""
    if is_quantised(captured.model):
        return "int8"
    dtype = next(iter(captured.logits.values())).dtype
    values = [output for node in captured.model.graph for output in node.outputs]
    if any(value.dtype == ir.DataType.FLOAT16 for value in [*values, *captured.model.graph.initializers.values()]):
        return "fp16"
    return "fp64" if dtype == ir.DataType.DOUBLE else "fp32"


def _describe_input(value: ir.Value, names: Axes) -> Tensor:
    assert value.shape is not None and value.dtype is not None
    shape = tuple(
        None if name == BATCH else name if name else int(size)  # type: ignore[arg-type]
        for size, name in zip(value.shape, names, strict=True)
    )
    return Tensor(name=str(value.name), dtype=cast(Dtype, value.dtype.numpy().name), shape=shape)
