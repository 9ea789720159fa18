"""Add variants in lower precision: int8 by ONNX Runtime's quantiser, or half precision. Needs no torch.

The whole graph is quantised, with all exits, and then cut where its values are quantised already.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

from ...bundle import Bundle, Origin, Variant, open_bundle
from ...bundle.golden import read_golden
from ...bundle.manifest import Precision
from ...bundle.writing import check_variant_name, commit, new_variant
from ...errors import ModelError, UsageError, unknown_name
from ...runtime.chain.samples import Samples, convert_samples
from ..cut.boundaries import Prober
from ..cut.equivalence import Original
from ..cut.variant import WEIGHTS, WHOLE, Draft, cut_variant
from ..graph.axes import axes_of, other_lengths
from ..graph.running import open_session, relative_error
from .fp16 import _halve
from .int8 import RANGES, _find_ranges, _insert


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
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Bundle:
    """Add a variant in lower precision.

    Weights in int8 have a scale per channel. By default they use 7 of their 8 bits: on processors without VNNI, sums of products
    overflow else, which costs accuracy and confidence in silence. Values between layers are uint8, and cross the cuts as such;
    logits stay as they are.

    Args:
        path: the bundle's folder, or a bundle already opened.
        data: for int8: samples as the network takes them, best of those that it was trained on. Labels are not needed.
        to: `int8` or `fp16`.
        variant: the variant to start from, in fp32; the first by default.
        name: of the new variant; by default `int8` or `fp16`, with what the old one is called besides its precision.
        ranges: how a value's range is found from the samples: `minmax`, all of it; `percentile`, without the outermost 0.01 %.
        samples: how many of the samples to use, drawn at random.
        full_range: use all 8 bits of the weights, for devices whose sums do not overflow: VNNI, Arm's dot product, GPUs, NPUs.
        symmetric: quantise values around 0 and leave biases as they are, as TensorRT asks for; slower on processors.
        float_heads: leave the products that make the logits in float, as Qualcomm's NPUs ask for, which take no product of int8
            whose result stays in float.
        seed: draws the samples.
        progress: called with what is being done, how much is done and how much there is.

    Returns:
        The bundle with the new variant in it.

    Raises:
        UsageError: an argument does not make sense, the name is taken, or the variant is not in fp32.
        DataError: the samples do not fit.
        ModelError: nothing in the network can be quantised, no ranges can be found, or it gives no finite logits any more.
        CheckError: the new chain does not say what the new whole network says.
        BundleError, MissingError: as for `open_bundle`; MissingError too where the bundle cannot be written.
    """
    root = path.path if isinstance(path, Bundle) else Path(path)
    if to not in ("int8", "fp16"):
        raise unknown_name("precision", to, ("int8", "fp16"))
    if ranges not in RANGES:
        raise unknown_name("way to find ranges", ranges, RANGES)
    if to == "fp16" and (ranges != RANGES[0] or full_range or symmetric or float_heads):
        raise UsageError("ranges, full_range, symmetric and float_heads say how int8 is made: leave them out for fp16.")
    if samples < 1:
        raise UsageError(f"samples={samples}: ranges are found from at least one.")
    bundle = open_bundle(root)
    chosen = None
    if to == "int8":
        if data is None:
            raise UsageError("int8 needs samples to find the ranges of values from: give data.")
        chosen = convert_samples(data, bundle.manifest.inputs)
        rows = np.random.default_rng(seed).permutation(len(chosen))[
            :samples
        ]  # the first batch decides how wide bins are
        chosen = Samples(tuple(part[rows] for part in chosen.arrays))
    with new_variant(root) as folder:  # it holds the lock: from here on nobody else changes what is read
        bundle = open_bundle(root)
        parent = bundle.variant(variant)
        if parent.precision != "fp32":
            raise UsageError(f"Variant {parent.name} is in {parent.precision}; quantise one in fp32.")
        name = check_variant_name(name or _name(parent, to), bundle)
        settings: dict[str, str | int | float | None] = {}
        with tempfile.TemporaryDirectory(prefix="offramp.") as scratch:
            plain = _simplify(bundle, parent, Path(scratch))
            if chosen is None:
                model = _halve(plain)
            else:
                settings = {
                    "ranges": ranges,
                    "samples": len(chosen),
                    "seed": seed,
                    "weight_bits": 8 if full_range else 7,
                    "symmetric": int(symmetric),
                    **({"float_heads": 1} if float_heads else {}),
                }
                found = _find_ranges(plain, bundle, chosen, ranges, symmetric, progress)
                model = _insert(plain, found, full_range=full_range, symmetric=symmetric, float_heads=float_heads)
        _save(model, folder, parent)
        new = _cut(bundle, parent, folder, name, "int8" if to == "int8" else "fp16", settings)
        return commit(root, folder, replace(bundle.manifest, variants=(*bundle.manifest.variants, new)))


def _name(parent: Variant, to: str) -> str:
    """Say `int8` for `fp32`, and `pruned40-int8` for `pruned40` or `pruned40-fp32`."""
    rest = parent.name.removesuffix(parent.precision).rstrip("-.")
    return f"{rest}-{to}" if rest else to


def _simplify(bundle: Bundle, parent: Variant, scratch: Path) -> Path:
    """Write the whole graph with its constants computed and its normalisations folded into convolutions, weights included."""
    # What is written refers to the same weights, beside it.
    shutil.copyfile(bundle.file(parent, parent.weights), scratch / parent.weights)
    plain = scratch / "plain.onnx"
    open_session(bundle.file(parent, parent.whole), optimise="ORT_ENABLE_BASIC", optimised=plain)
    return plain


def _save(model: ir.Model, folder: Path, parent: Variant) -> None:
    """Write the graph and its weights, its outputs called as they were."""
    wanted = [name for end in parent.exits for name in (end.logits, end.score, end.label)]
    outputs = {value.name: value for value in model.graph.outputs}
    model.graph.outputs[:] = [outputs[name] for name in wanted]
    for value in (value for node in model.graph for value in node.outputs if not value.is_graph_output()):
        value.type = value.shape = None  # what they were before; shapes are inferred anew where they are needed
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.dtype = value.const_value.dtype
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    DeduplicateInitializersPass(size_limit=1 << 40)(model)
    model.graph.metadata_props.clear()
    ir.save(model, folder / WHOLE, external_data=WEIGHTS)
    (folder / WEIGHTS).touch()  # a network so small that every weight lies in the graph


def _cut(
    bundle: Bundle,
    parent: Variant,
    folder: Path,
    name: str,
    precision: Precision,
    settings: dict[str, str | int | float | None],
) -> Variant:
    """Cut the graph in a folder into stages that say what it says as a whole."""
    inputs = read_golden(bundle, parent).inputs
    axes = [axes_of(tensor) for tensor in bundle.manifest.inputs]
    logits = [end.logits for end in parent.exits]
    names = [tensor.name for tensor in bundle.manifest.inputs]

    def run(session: Any, x: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(session.run(logits, dict(zip(names, x, strict=True))))

    whole = open_session(folder / WHOLE)
    plain, fast = run(open_session(folder / WHOLE, optimise="ORT_DISABLE_ALL"), inputs), run(whole, inputs)
    if not all(np.isfinite(values).all() for values in (*plain, *fast)):
        raise ModelError(f"In {precision} the network gives logits that are not finite. Leave this precision out.")
    noise = max(relative_error(a, b) for a, b in zip(plain, fast, strict=True))
    prober = Prober(inputs, axes, other_lengths(inputs, axes, lambda x: run(whole, x)), folder)
    return cut_variant(
        ir.load(folder / WHOLE),
        prober,
        Original(
            inputs=bundle.manifest.inputs,
            classes=bundle.manifest.classes,
            precision=precision,
            run=lambda x: run(whole, x),
            noise=noise,
        ),
        Draft(
            name=name,
            rule=parent.rule,
            exits=tuple(end.name for end in parent.exits),
            temperatures=tuple(end.temperature for end in parent.exits),
            origin=Origin(parent.name, "quantize", settings),
        ),
    )
