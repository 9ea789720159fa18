"""Add a variant in lower precision to a bundle: int8 by ONNX Runtime's quantiser, or half precision. Needs no torch.

The whole graph is quantised first, with all of its exits, and then cut into stages: what crosses a boundary is quantised already.
"""

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

from ...bundle import Bundle, Origin, Variant, open_bundle
from ...bundle.golden import read_golden
from ...bundle.manifest import Precision
from ...bundle.tensor import Tensor
from ...bundle.variant_names import make_room
from ...bundle.writing import commit, new_variant
from ...errors import BundleError, ModelError, OfframpError, UsageError, quoted, unknown_name
from ...progress import Progress, no_progress
from ...runtime.chain.parts import Parts
from ...runtime.chain.samples import Samples, convert_samples
from ...runtime.sample_scale import warn_of_scale
from ..cut.boundaries import Prober
from ..cut.equivalence import Original
from ..cut.variant import WEIGHTS_FILE, WHOLE_FILE, Draft, cut_variant
from ..graph.axes import axes_of, other_lengths
from ..graph.edits import MOST_DEDUPLICATED_BYTES
from ..graph.running import largest_error, open_session
from .comparison import Shift, compare_variants
from .fp16 import convert_to_half
from .int8 import RANGE_METHODS, Int8Options, find_ranges, quantize_graph

__all__ = ["add_quantized", "quantize", "warn_of_changes"]

Settings = dict[str, "str | int | float | None"]

MORE_GOLDEN, MOST_GOLDEN_BYTES = 5, 1 << 19
"""Golden samples that an int8 variant has beside its parent's, and what they may take: on three, a changed weight may not show
within the tolerance of 8 bits."""

LEAST_ALIKE = 0.95
"""An exit to which int8 leaves fewer labels than this is named in a warning."""


def quantize(
    path: str | os.PathLike[str] | Bundle,
    data: Any = None,
    *,
    to: str = "int8",
    variant: str | None = None,
    name: str | None = None,
    ranges: str = "minmax",
    samples: int = 512,
    full_range: bool = False,
    symmetric: bool = False,
    float_heads: bool = False,
    seed: int = 0,
    replace: bool = False,
    progress: Progress = no_progress,
) -> Bundle:
    """Add a variant in lower precision.

    In int8, weights have a scale per channel and use 7 of their 8 bits by default: processors without VNNI overflow with 8 bits,
    which costs accuracy without any error. Values between layers are uint8, also those that cross from one stage to the next.
    Logits and scores stay in float32, and so do sums that a normalisation reads, as between a transformer's blocks.

    Args:
        path: the bundle's folder, or a bundle already opened.
        data: for int8, samples as the network takes them; training samples are best. Labels are not needed.
        to: `int8` or `fp16`.
        variant: the variant to start from, in fp32; the first by default.
        name: name of the new variant. By default it is `int8` or `fp16`, behind the parent's name if that says more than its
            precision: `int8` from `fp32`, `pruned40-int8` from `pruned40`.
        ranges: how the range of a value is found from the samples. `minmax` takes the smallest and the largest value;
            `percentile` leaves out the outermost 0.01 %.
        samples: how many of the samples to use, drawn at random.
        full_range: use all 8 bits of the weights. For devices whose sums do not overflow: processors with VNNI or Arm's dot
            product, GPUs, NPUs.
        symmetric: quantise values around 0 and leave biases in float, as TensorRT requires; slower on processors.
        float_heads: leave the products that make the exits' answers in float. Qualcomm's NPUs require it: they have no product of
            int8 with a float result.
        seed: seed of the draw of samples.
        replace: take the place of the variant that has this name, instead of refusing it.
        progress: called with a description, the number of steps done, and of all steps.

    Returns:
        The bundle with the new variant in it. A warning names the exits at which int8 changes more than 5 % of the answers to
        the samples, and what may keep them.

    Raises:
        UsageError: an argument cannot be used, the variant is not in fp32, or the name is taken. With `replace` it is taken only
            by a variant that others were made from.
        DataError: the samples do not fit the network.
        ModelError: the network cannot be quantised, no ranges can be found, or the new variant's answers are not finite.
        CheckError: the stages give other answers than the new whole network.
        BundleError, MissingError: as for `open_bundle`; MissingError too if the bundle cannot be written.

    Example:
        >>> import numpy as np
        >>> from offramp.export import quantize
        >>> x = np.load("train.npz")["x"]
        >>> bundle = quantize("digits.offramp", x, ranges="percentile", name="int8-percentile")
        >>> bundle.variant("int8-percentile").precision
        'int8'
    """
    options = Int8Options(ranges=ranges, full_range=full_range, symmetric=symmetric, float_heads=float_heads)
    bundle, drawn = add_quantized(
        path,
        data,
        to=to,
        options=options,
        variant=variant,
        name=name,
        samples=samples,
        seed=seed,
        replace=replace,
        progress=progress,
    )
    if drawn is not None:
        new = bundle.manifest.variants[-1]
        assert new.origin is not None
        warn_of_changes(new, compare_variants(bundle, new.name, new.origin.parent, drawn), len(drawn))
    return bundle


def add_quantized(
    path: str | os.PathLike[str] | Bundle,
    data: Any,
    *,
    to: str,
    options: Int8Options,
    variant: str | None = None,
    name: str | None = None,
    samples: int = 512,
    seed: int = 0,
    replace: bool = False,
    progress: Progress = no_progress,
) -> tuple[Bundle, Samples | None]:
    """Add a variant as `quantize` does, and compare it with nothing; return the bundle, and the samples drawn for int8."""
    root = path.path if isinstance(path, Bundle) else Path(path)
    _check_options(to, options, samples)
    bundle = open_bundle(root)
    drawn = _draw_samples(data, bundle.manifest.inputs, samples, seed) if to == "int8" else None
    if drawn is not None:
        warn_of_scale(bundle, drawn)
    with new_variant(root) as folder:  # it holds the bundle's lock: nobody else writes the bundle meanwhile
        bundle = open_bundle(root)
        parent = bundle.variant(variant)
        if parent.precision != "fp32":
            raise UsageError(f"Variant {parent.name} is in {parent.precision}; quantise one in fp32.")
        name = name or _default_name(parent, to)
        others = make_room(bundle, name, parent=parent.name, replace=replace)
        settings: Settings = {}
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # of a killed process the next writer removes it
            plain = _simplify(bundle, parent, Path(scratch))
            if drawn is None:
                model = convert_to_half(plain)
            else:
                model = quantize_graph(plain, find_ranges(plain, bundle, drawn, options, progress), options)
                settings = _describe_settings(options, len(drawn), seed)
        _save(model, folder, parent)
        golden = _choose_golden(bundle, parent, drawn)
        new = _cut(bundle, parent, folder, name, "int8" if to == "int8" else "fp16", settings, golden)
        return commit(root, folder, msgspec.structs.replace(bundle.manifest, variants=(*others, new))), drawn


def _check_options(to: str, options: Int8Options, samples: int) -> None:
    """Refuse unknown precisions and ranges, options of int8 for fp16, and a count of samples below 1."""
    if to not in ("int8", "fp16"):
        raise unknown_name("precision", to, ("int8", "fp16"))
    if options.ranges not in RANGE_METHODS:
        raise unknown_name("way to find ranges", options.ranges, RANGE_METHODS)
    if to == "fp16" and options != Int8Options():
        raise UsageError("ranges, full_range, symmetric and float_heads say how int8 is made: leave them out for fp16.")
    if samples < 1:
        raise UsageError(f"samples={samples}: ranges are found from at least one.")


def _draw_samples(data: Any, inputs: Sequence[Tensor], count: int, seed: int) -> Samples:
    """Return at most `count` of the samples, drawn at random."""
    if data is None:
        raise UsageError("int8 needs samples to find the ranges of values from: give data.")
    samples = convert_samples(data, inputs)
    # In random order, since the first batch decides how wide the bins of a histogram are.
    rows = np.random.default_rng(seed).permutation(len(samples))[:count]
    return Samples(tuple(part[rows] for part in samples.arrays))


def _describe_settings(options: Int8Options, samples: int, seed: int) -> Settings:
    """Return the settings that the manifest keeps in the new variant's origin."""
    settings: Settings = {
        "ranges": options.ranges,
        "samples": samples,
        "seed": seed,
        "weight_bits": 8 if options.full_range else 7,
        "symmetric": int(options.symmetric),
    }
    return settings | ({"float_heads": 1} if options.float_heads else {})


def warn_of_changes(new: Variant, shifts: Sequence[Shift], samples: int) -> None:
    """Warn of the exits at which an int8 variant answers many samples otherwise than its parent."""
    changed = [f"exit {shift.exit} {1 - shift.alike:.0%}" for shift in shifts if shift.alike < LEAST_ALIKE]
    if changed and new.origin is not None and new.precision == "int8":
        answer = "label" if new.exits[0].label else "answer"
        others = next(ranges for ranges in RANGE_METHODS[::-1] if ranges != new.origin.settings["ranges"])
        warnings.warn(
            f"{new.name} gives many of the {samples} samples another {answer} than {new.origin.parent}: {', '.join(changed)}. "
            f"Try other ranges (ranges={others!r}, --ranges {others}), more training samples, or fp16 on GPUs and NPUs. "
            "calibrate() measures what that costs.",
            stacklevel=3,
        )


def _default_name(parent: Variant, to: str) -> str:
    """Return the new variant's name: `int8` from `fp32`, `pruned40-int8` from `pruned40` or `pruned40-fp32`."""
    rest = parent.name.removesuffix(parent.precision).rstrip("-.")
    return f"{rest}-{to}" if rest else to


def _simplify(bundle: Bundle, parent: Variant, scratch: Path) -> Path:
    """Write the whole graph with constants computed and normalisations folded into convolutions; return its file."""
    # ONNX Runtime writes the graph alone; the graph refers to its old file of weights, which must lie beside it.
    bundle.copy(parent, parent.weights, scratch / parent.weights)
    plain, whole = scratch / "plain.onnx", bundle.copy(parent, parent.whole, scratch / "parent.onnx")
    try:
        open_session(whole, optimise="ORT_ENABLE_BASIC", optimised=plain)
    except OfframpError:
        raise
    except Exception as error:  # ONNX Runtime raises one of a dozen types
        path = bundle.path / parent.folder / parent.whole
        raise BundleError(f"ONNX Runtime cannot simplify {path}: {quoted(error)}", path=path) from error
    return plain


def _save(model: ir.Model, folder: Path, parent: Variant) -> None:
    """Write the graph, with its outputs in the order and by the names that the parent has, and its weights."""
    wanted = [name for end in parent.exits for name in end.outputs]
    outputs = {value.name: value for value in model.graph.outputs}
    model.graph.outputs[:] = [outputs[name] for name in wanted]
    for value in (value for node in model.graph for value in node.outputs if not value.is_graph_output()):
        value.type = value.shape = None  # these are the types before quantising; they are inferred anew later
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.dtype = value.const_value.dtype
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    DeduplicateInitializersPass(size_limit=MOST_DEDUPLICATED_BYTES)(model)
    model.graph.metadata_props.clear()
    ir.save(model, folder / WHOLE_FILE, external_data=WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).touch()  # a small network has all its weights in the graph, but the bundle needs the file


def _choose_golden(bundle: Bundle, parent: Variant, drawn: Samples | None) -> Sequence[np.ndarray]:
    """Return the parent's golden inputs, and behind them a few of the samples drawn for int8, if they are small and as long."""
    inputs = read_golden(bundle, parent).inputs
    row_bytes = sum(part[0].nbytes for part in drawn.arrays) if drawn is not None else 0
    if drawn is None or row_bytes > MOST_GOLDEN_BYTES // MORE_GOLDEN:
        return inputs
    axes = [tensor.shape.index(None) for tensor in bundle.manifest.inputs]
    more = [np.moveaxis(part[:MORE_GOLDEN], 0, axis) for part, axis in zip(drawn.arrays, axes, strict=True)]
    try:
        return [np.concatenate(pair, axis) for *pair, axis in zip(inputs, more, axes, strict=True)]
    except ValueError:  # of other lengths
        return inputs


def _cut(
    bundle: Bundle,
    parent: Variant,
    folder: Path,
    name: str,
    precision: Precision,
    settings: Settings,
    inputs: Sequence[np.ndarray],
) -> Variant:
    """Cut the quantised graph in a folder into stages and check on golden inputs that they give the answers of the whole graph.

    Raises:
        ModelError: the answers are not finite.
        CheckError: the stages give other answers.
    """
    axes = [axes_of(tensor) for tensor in bundle.manifest.inputs]
    ends = [{part: tensor.name for part, tensor in end.parts(bundle.manifest.classes).items()} for end in parent.exits]
    wanted = [name for end in ends for name in end.values()]
    names = [tensor.name for tensor in bundle.manifest.inputs]

    def run(session: Any, x: Sequence[np.ndarray]) -> list[Parts]:
        values = dict(zip(wanted, session.run(wanted, dict(zip(names, x, strict=True))), strict=True))
        return [{part: values[name] for part, name in end.items()} for end in ends]

    whole = open_session(folder / WHOLE_FILE)
    plain, optimised = run(open_session(folder / WHOLE_FILE, optimise="ORT_DISABLE_ALL"), inputs), run(whole, inputs)
    if not all(np.isfinite(values).all() for parts in (*plain, *optimised) for values in parts.values()):
        raise ModelError(f"In {precision} the network gives answers that are not finite. Leave this precision out.")
    # Rounding differs between kernels: the stages may differ from the whole graph as it differs from itself.
    own_error = largest_error(plain, optimised)
    prober = Prober(inputs, axes, other_lengths(inputs, axes, lambda x: run(whole, x)), folder)
    new = cut_variant(
        ir.load(folder / WHOLE_FILE),
        prober,
        Original(
            inputs=bundle.manifest.inputs,
            classes=bundle.manifest.classes,
            precision=precision,
            run=lambda x: run(whole, x),
            measure_own_error=lambda: own_error,
        ),
        Draft(
            name=name,
            rule=parent.rule,
            exits=tuple(end.name for end in parent.exits),
            answer=bundle.manifest.answer,
            temperatures=tuple(end.temperature for end in parent.exits),
            origin=Origin(parent.name, "quantize", settings),
        ),
    )
    exits = [msgspec.structs.replace(a, place=b.place) for a, b in zip(new.exits, parent.exits, strict=True)]
    return msgspec.structs.replace(new, exits=tuple(exits))
