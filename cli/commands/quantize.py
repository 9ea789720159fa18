"""The command `offramp quantize`: its options, one call, and what it prints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from ..describe import describe_bundle, describe_shifts, propose_calibration
from ..options import as_json, examples, with_seed
from ..output import advises, conclude, print_result, progress_bars, spinner

if TYPE_CHECKING:
    import numpy as np

    from ...bundle import Bundle, Manifest
    from ...export import Shift
    from ...progress import Progress
    from ...runtime.chain.samples import Samples

MOST_COMPARED = 2000
"""A new variant is compared with its parent on at most this many samples."""


@click.command(
    epilog=examples("offramp quantize digits.offramp --data train.npz", "offramp quantize digits.offramp --to fp16")
)
@click.argument("bundle")
@click.option("--data", help="Samples to find the ranges of values on, best the training samples.")
@click.option("--to", default="int8", show_default=True, help="The new number format: int8 or fp16.")
@click.option("--variant", help="The variant to start from. Default: the first.")
@click.option("--name", help="Name of the new variant. Default: int8, fp16, or such as pruned40-int8.")
@click.option(
    "--ranges",
    default="minmax",
    show_default=True,
    help="minmax, or percentile: without the outermost 0.01 %.",
)
@click.option("--samples", default=512, show_default=True, help="Number of samples that the ranges are found on.")
@click.option(
    "--full-range",
    is_flag=True,
    help="Use all 8 bits for weights: right for VNNI, Arm, GPUs and NPUs, wrong for older x86.",
)
@click.option(
    "--symmetric",
    is_flag=True,
    help="Ranges symmetric around 0 and biases in float, as TensorRT requires; slower on CPUs.",
)
@click.option(
    "--float-heads",
    is_flag=True,
    help="Keep the layers that make the exits' answers in float, as Qualcomm's NPUs require.",
)
@click.option("--replace", is_flag=True, help="Take the place of the variant that has this name.")
@with_seed
@as_json
@advises()
def quantize(
    bundle: str,
    data: str | None,
    to: str,
    variant: str | None,
    name: str | None,
    ranges: str,
    samples: int,
    full_range: bool,
    symmetric: bool,
    float_heads: bool,
    replace: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Add a variant to BUNDLE that computes in int8, or in fp16 for GPUs and NPUs, and print what that changes."""
    from ...bundle import open_bundle
    from ...export.variants.int8 import Int8Options
    from ...export.variants.quantization import add_quantized, warn_of_changes

    opened = open_bundle(bundle)
    with progress_bars() as progress:
        x, y = (None, None) if data is None else _load_checked(data, opened.manifest, progress)
        quantized, _ = add_quantized(
            opened,
            x,
            to=to,
            options=Int8Options(ranges=ranges, full_range=full_range, symmetric=symmetric, float_heads=float_heads),
            variant=variant,
            name=name,
            samples=samples,
            seed=seed,
            replace=replace,
            progress=progress,
        )
    added = f"{quantized.manifest.variants[-1].name} is in the bundle; only its comparison with its parent is missing."
    with advises(added):
        comparison = None if x is None else _compare_with_parent(quantized, x, y, seed)
    if comparison is not None:
        warn_of_changes(quantized.manifest.variants[-1], comparison.shifts, comparison.samples)
    document = {"manifest": quantized.manifest, "shifts": comparison.shifts if comparison else ()}
    parts = [describe_bundle(quantized), *([comparison.describe()] if comparison else [])]
    then = propose_calibration(quantized, bundle)
    print_result(document, as_json, lambda: conclude("\n\n".join(parts), bundle, then))


class _ComparisonWithParent(Struct, frozen=True):
    """How a new variant's answers differ from its parent's on some samples."""

    variant: str
    parent: str
    samples: int
    shifts: "Sequence[Shift]"
    classifies: bool

    def describe(self) -> str:
        shifts = describe_shifts(self.variant, self.parent, self.shifts, has_labels=self.classifies)
        return f"On {self.samples} of the samples:\n{shifts}"


def _load_checked(source: str, manifest: "Manifest", progress: "Progress") -> "tuple[Samples, np.ndarray | None]":
    """Load samples in the network's dtypes, and labels if there are any; the truth of other answers is not needed."""
    from ...calibrate.labels import check_labelled
    from ...runtime.chain.samples import convert_samples
    from ..inputs import load_samples

    x, y = load_samples(source, manifest, progress=progress)
    if y is None or not manifest.classes:
        return convert_samples(x, manifest.inputs), None
    return check_labelled((x, y), manifest)


def _compare_with_parent(bundle: "Bundle", x: "Samples", y: "np.ndarray | None", seed: int) -> _ComparisonWithParent:
    """Compare the newest variant of a bundle with its parent, on at most `MOST_COMPARED` samples."""
    import numpy as np

    from ...export import compare_variants

    variant = bundle.manifest.variants[-1]
    assert variant.origin is not None
    rows = np.random.default_rng(seed).permutation(len(x))[:MOST_COMPARED]  # data may be sorted by class
    with spinner("comparing with the parent"):
        shifts = compare_variants(bundle, variant.name, variant.origin.parent, x[rows], None if y is None else y[rows])
    return _ComparisonWithParent(variant.name, variant.origin.parent, len(rows), shifts, bundle.manifest.classes > 0)
