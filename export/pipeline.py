"""The steps of an export: capture, add decisions, cut, compare, commit."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateInitializersPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from .. import __version__
from ..bundle import Bundle, Manifest, Origin, Preprocess, Tensor, Variant, open_bundle
from ..bundle.golden import read_golden
from ..bundle.manifest import SCHEMA
from ..bundle.tensor import Dtype
from ..bundle.variant_names import make_room
from ..bundle.writing import commit, new_variant
from ..errors import ModelError, UsageError
from ..progress import Progress, no_progress
from .capture import Captured, capture
from .capture.answers import check_answer_names
from .capture.forward import takes_by_name
from .cut.boundaries import FIXED_BATCH_HINT, Prober, probe_values
from .cut.equivalence import Original
from .cut.rules import Scoring, add_decisions, check_rule, decided_answers
from .cut.shape_arithmetic import rewrite_shapes
from .cut.variant import WEIGHTS_FILE, WHOLE_FILE, Draft, cut_variant
from .graph.axes import BATCH, EXPORT_DYNAMIC, Axes, other_lengths
from .graph.edits import MOST_DEDUPLICATED_BYTES
from .graph.tables import find_table_rows

if TYPE_CHECKING:
    import torch

__all__ = ["export"]


def export(
    model: "torch.nn.Module | str | os.PathLike[str]",
    example: Any,
    path: "str | os.PathLike[str]",
    *,
    exits: Sequence[str] | None = None,
    sort: bool | None = False,
    axes: Any = None,
    answer: Sequence[str] = (),
    rule: str = "max_softmax",
    gates: Sequence[str] = (),
    temperatures: Sequence[float] | None = None,
    preprocess: Preprocess | None = None,
    class_names: Sequence[str] | None = None,
    beside: str | None = None,
    origin: Origin | None = None,
    replace: bool = False,
    progress: Progress = no_progress,
) -> Bundle:
    """Export a network with several exits as a bundle.

    Args:
        model: a torch network, or the path of an ONNX file. It returns the logits (batch, classes) of its exits, shallowest
            first, as a list, tuple, dict or dataclass, or as one stacked tensor (exit, batch, class). An exit that ends in a
            softmax is recognised by its sums of 1 and scored by its probabilities. A network that does not classify returns
            other tensors (batch, ...), see `answer`.
        example: one or more samples with their batch axis, as a numpy array or torch tensor; for several inputs a tuple, or a
            dict by name. Real samples verify best. None draws random ones, for ONNX files with float inputs only.
        path: the bundle to write. An existing one is replaced at the end; if the export fails, it stays as it was. Variants and
            calibrations stay where the network is the same.
        exits: the names of the outputs that are exits, in order, if others are none: dict keys or field names, `exit0` and so
            on for a list, joined by dots for nested ones (`aux.exit0`), an ONNX file's output names.
        sort: put the exits in order by the multiply-accumulates below them, instead of refusing another order; None takes them
            in the order in which they are listed, whatever the work, as several networks side by side need it.
        axes: the names of an input's axes, if its batch is not the first or other axes have no fixed size:
            `("batch", "time")` or `(None, "batch", None)`; for several inputs a dict by name.
        answer: for a network that does not classify, the names of the tensors that make up an answer. Every exit gives all of
            them: with `("boxes", "classes")` a network returns `[{"boxes": ..., "classes": ...}, ...]`, an ONNX file has the
            outputs `exit0.boxes` and so on. With one name, such as `("angle",)`, each exit may return that tensor alone.
        rule: how an exit's score is made: `max_softmax`, `entropy`, `margin`, `ensemble` (geometric mean of the heads so far),
            `patience` (share of the heads that give the same label in a row), or `gate` and `gate_logit` for a network with gates
            of its own. Of other answers: `agreement:boxes=96` (1 - distance to the exit before over 96), `pixel_share:map=0.9`
            (share of the pixels of a map (batch, classes, height, width) whose largest softmax is 0.9 or more),
            `mean_softmax:map` (the mean of the largest softmax), or gates.
        gates: for the rules `gate` and `gate_logit`, the names of the outputs that are gates: probabilities, or values before
            the sigmoid.
        temperatures: one for each exit; its logits are divided by it before they are scored.
        preprocess: makes the bundle take uint8 images (batch, height, width, channel), and says how images are resized; the
            example then is such images too.
        class_names: one for each class.
        beside: the name of a variant: the network is added under it to the existing bundle, which is not replaced. The network
            takes the same inputs and has the same classes; `preprocess`, `class_names` and by default the example are the
            bundle's.
        origin: the record of what that variant was made from.
        replace: put another network in the place of the bundle's, and lose the variants and calibrations that were made of that;
            with `beside` take the place of the variant that has this name.
        progress: called as the export goes on.

    Returns:
        The bundle. Its chain has been compared with the original network at batch sizes 1 and 3, at other lengths of axes that
        have no fixed size, and with itself on a batch whose samples leave at different exits.

    Raises:
        UsageError: the path or a name cannot be used, or variants or calibrations would be lost without `replace`.
        ModelError: the network cannot be captured or cut.
        DataError: the example does not fit.
        CheckError: the chain's answers differ from the original's by more than 1e-5 of the largest value (more in half
            precision, quantised, or where rounding alone moves the original's own answers by as much), or the network mixes the
            samples of a batch.
        MissingError: a package is not installed, or the path cannot be written.

    Example:
        >>> from net import data, network
        >>> from offramp.export import export
        >>> x, y = data()
        >>> bundle = export(network(), x[:3], "small.offramp", rule="entropy")
        >>> print(bundle.variant().name, bundle.variant().rule, len(bundle.variant().exits))
        fp32 entropy 3
    """
    _check_kinds(preprocess, exits=exits, gates=gates, class_names=class_names, answer=answer)
    exits = None if exits is None else list(exits)  # an array of names has no truth value
    check_answer_names(answer, class_names)
    check_rule(rule, gates, temperatures, answer)
    _check_placing(path, beside, origin, preprocess, class_names)
    with new_variant(path) as folder:
        bundle: Bundle | None = None
        others: tuple[Variant, ...] = ()
        if beside is not None:
            bundle, others = _open_beside(path, beside, origin, tuple(answer) or ("logits",), replace=replace)
            preprocess = bundle.manifest.preprocess
            example = _golden_example(bundle, model) if example is None else example
        progress("capturing the network", 0, 1)
        network, golden = capture(
            model, example, exits=exits, gates=gates, answer=answer, axes=axes, preprocess=preprocess, sort=sort
        )
        progress("capturing the network", 1, 1)
        scoring = _describe_scoring(network, rule, temperatures)
        if class_names is not None and len(class_names) != network.classes:
            raise UsageError(f"There are {len(class_names)} class names for {network.classes} classes.")
        prober = Prober(golden, network.axes, other_lengths(golden, network.axes, network.reference), folder)
        with _fixed_batch_explained(network, model):
            whole = _write_whole(network, scoring, prober)
        original = _describe_original(whole, network, scoring)
        if bundle is not None:
            _check_same_form(bundle.manifest, original, find_table_rows(whole.graph))
        draft = Draft(
            name=beside or network.precision,
            rule=rule,
            exits=tuple(network.exits),
            answer=tuple(answer) or ("logits",),
            temperatures=scoring.temperatures,
            origin=origin,
        )
        with _fixed_batch_explained(network, model):
            variant = _name_places(cut_variant(whole, prober, original, draft, progress=progress), model)
        if bundle is not None:
            return commit(path, folder, msgspec.structs.replace(bundle.manifest, variants=(*others, variant)))
        manifest = Manifest(
            schema=SCHEMA,
            offramp=__version__,
            network=network.name,
            captured=network.captured_by,
            classes=network.classes,
            class_names=None if class_names is None else tuple(class_names),
            preprocess=preprocess,
            inputs=original.inputs,
            variants=(variant,),
            table_rows=find_table_rows(whole.graph),
        )
        return commit(path, folder, manifest, may_lose=replace)


@contextlib.contextmanager
def _fixed_batch_explained(network: Captured, model: Any) -> Iterator[None]:
    """Say of a file that is fixed to batches of one that it is, where shapes inside it do not let it take more."""
    try:
        yield
    except ModelError as error:
        if not network.is_fixed or FIXED_BATCH_HINT not in str(error):
            raise
        nodes = f", and so are shapes inside it ({', '.join(error.nodes[:3])})" if error.nodes else ", also inside"
        raise ModelError(
            f"{model} is fixed to batches of 1{nodes}. {EXPORT_DYNAMIC}", nodes=error.nodes, path=str(model)
        ) from error


def _name_places(variant: Variant, model: Any) -> Variant:
    """Return a variant whose exits have the names of the modules that `attach` put them on, if it did."""
    places = getattr(model, "exit_places", None)
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        return variant
    exits = [msgspec.structs.replace(exit_, place=places.get(exit_.name)) for exit_ in variant.exits]
    return msgspec.structs.replace(variant, exits=tuple(exits))


def _check_kinds(preprocess: Preprocess | None, **given: Any) -> None:
    """See that lists of names are such, and no text, which would be read letter by letter; and that `preprocess` is one.

    Raises:
        UsageError: one is not.
    """
    for name, value in given.items():
        if isinstance(value, str):
            raise UsageError(f"{name} is a list of names, not a text: give {name}=[{value!r}].")
        is_list = isinstance(value, Collection) and all(isinstance(part, str) for part in value)
        if value is not None and not is_list:
            raise UsageError(f"{name} is a list of names, not {value!r:.60}.")
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        raise UsageError(f"preprocess is a Preprocess(mean=..., std=...) of offramp.export, not {preprocess!r:.60}.")


def _check_placing(
    path: "str | os.PathLike[str]",
    beside: str | None,
    origin: Origin | None,
    preprocess: Preprocess | None,
    class_names: Sequence[str] | None,
) -> None:
    """See that the arguments fit each other and, with `beside`, that there is a bundle, before a folder is made.

    Raises:
        UsageError, BundleError: they do not, or there is none.
    """
    if origin is not None and beside is None:
        raise UsageError("origin says which variant of the bundle the new one was made from: give beside too.")
    if beside is None:
        return
    if preprocess is not None or class_names is not None:
        raise UsageError("Beside other variants preprocess and class_names are the bundle's: leave them out.")
    open_bundle(path)


def _open_beside(
    path: "str | os.PathLike[str]", name: str, origin: Origin | None, answer: tuple[str, ...], *, replace: bool
) -> tuple[Bundle, tuple[Variant, ...]]:
    """Open the bundle that a variant is added to, once it is locked and nobody else changes it; return also what stays.

    Raises:
        UsageError: the variant's name is taken or cannot be used, its answers have other parts, or the bundle has no variant that
            it was made from.
    """
    bundle = open_bundle(path)
    if answer != bundle.manifest.answer:
        raise UsageError(
            f"The network answers with {', '.join(answer)}, the bundle's with {', '.join(bundle.manifest.answer)}: name the "
            "same parts in the same order."
        )
    others = make_room(bundle, name, parent=None if origin is None else origin.parent, replace=replace)
    if origin is not None:
        bundle.variant(origin.parent)
    return bundle, others


def _golden_example(bundle: Bundle, model: Any) -> Any:
    """Return a bundle's golden samples as an example; a dict if the network takes its inputs in another order than the bundle."""
    arrays = read_golden(bundle, bundle.variant()).inputs
    names = [tensor.name for tensor in bundle.manifest.inputs]
    if hasattr(model, "forward") and takes_by_name(model, names):
        return dict(zip(names, arrays, strict=True))
    return arrays


def _describe_scoring(network: Captured, rule: str, temperatures: Sequence[float] | None) -> Scoring:
    """Return how scores are made, with the temperatures in the order of the exits.

    Raises:
        UsageError: there is not one temperature for each exit.
    """
    if temperatures is not None and len(temperatures) != len(network.exits):
        raise UsageError(f"There are {len(temperatures)} temperatures for {len(network.exits)} exits: give one each.")
    return Scoring(
        rule=rule,
        probabilities=network.probabilities,
        temperatures=None if temperatures is None else tuple(float(temperatures[k]) for k in network.order),
        gates=network.gates,
    )


def _write_whole(network: Captured, scoring: Scoring, prober: Prober) -> ir.Model:
    """Write the whole graph, decisions included, with its weights beside it; every cut refers to those weights."""
    model, folder = network.model, prober.folder
    add_decisions(model, network.exits, scoring)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)  # exporters leave stack traces with the workstation's paths
    LiftConstantsToInitializersPass()(model)
    DeduplicateInitializersPass(size_limit=MOST_DEDUPLICATED_BYTES)(model)
    ir.save(model, folder / WHOLE_FILE, external_data=WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).touch()  # a network so small that every weight lies in the graph
    whole = ir.load(folder / WHOLE_FILE)
    rewrite_shapes(whole, lambda values: probe_values(whole, values, prober), network.axes[0].index(BATCH))
    RemoveUnusedNodesPass()(whole)
    ir.save(whole, folder / WHOLE_FILE)
    return ir.load(folder / WHOLE_FILE)


def _describe_original(whole: ir.Model, network: Captured, scoring: Scoring) -> Original:
    """Describe the network that was captured, as the chain is compared with it."""
    return Original(
        inputs=tuple(
            _describe_input(v, axis_names) for v, axis_names in zip(whole.graph.inputs, network.axes, strict=True)
        ),
        classes=network.classes,
        precision=network.precision,
        run=lambda samples: decided_answers(network.reference(samples), scoring),
        measure_own_error=network.measure_own_error,
    )


def _describe_input(value: ir.Value, names: Axes) -> Tensor:
    assert value.shape is not None and value.dtype is not None
    shape = tuple(
        None if name == BATCH else name if name else int(size)  # type: ignore[arg-type]
        for size, name in zip(value.shape, names, strict=True)
    )
    return Tensor(name=str(value.name), dtype=cast(Dtype, value.dtype.numpy().name), shape=shape)


def _check_same_form(manifest: Manifest, network: Original, table_rows: Mapping[str, int]) -> None:
    """See that a network can be another variant of a bundle.

    Raises:
        UsageError: it takes other inputs, has other classes, or reads a table with fewer rows than the bundle says.
    """
    if network.classes != manifest.classes:
        raise UsageError(
            f"The network has {network.classes} classes, the bundle's {manifest.classes}: it cannot be a variant of the bundle."
        )
    if network.inputs != manifest.inputs:
        taken, expected = (
            ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in inputs)
            for inputs in (network.inputs, manifest.inputs)
        )
        raise UsageError(
            f"The network takes {taken}, the bundle's {expected}: give it the same inputs by the same names."
        )
    for name, rows in table_rows.items():
        if rows < (needed := manifest.table_rows.get(name, rows)):
            raise UsageError(
                f"The values of input {name} are indices into a table of {rows} rows in the network, of {needed} in the bundle's "
                "first: it cannot be a variant of the bundle."
            )
