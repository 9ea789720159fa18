"""The commands that add smaller and faster variants to a bundle."""

from typing import TYPE_CHECKING, Any

import click

from ..describe import describe_bundle, describe_shifts
from ..options import as_json, with_seed
from ..output import print_result, progress_bars, spinner

if TYPE_CHECKING:
    pass

COMPARED = 2000
"""How many samples a new variant is compared with its parent on."""


@click.command()
@click.argument("bundle")
@click.option("--data", help="Samples to find the ranges of values from, best of those that trained the network.")
@click.option("--to", default="int8", show_default=True, help="int8 or fp16.")
@click.option("--variant", help="The variant to start from; the first by default.")
@click.option("--name", help="What the new variant is called; int8, fp16 or pruned40-int8 by default.")
@click.option(
    "--ranges", default="minmax", show_default=True, help="minmax, or percentile without the outermost 0.01 %."
)
@click.option("--samples", default=512, show_default=True, help="How many of the samples find the ranges.")
@click.option(
    "--full-range", is_flag=True, help="All 8 bits of weights: for VNNI, Arm, GPUs and NPUs, never for older x86."
)
@click.option(
    "--symmetric", is_flag=True, help="Ranges around 0 and float biases, as TensorRT asks for; slower on CPUs."
)
@click.option(
    "--float-heads", is_flag=True, help="The products that make the logits stay in float, as Qualcomm's NPUs ask for."
)
@with_seed
@as_json
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
    seed: int,
    as_json: bool,
) -> None:
    """Add a variant to BUNDLE that computes in int8, or in fp16 for GPUs and NPUs, and say what that changes."""
    import numpy as np

    from ...bundle import open_bundle
    from ...calibrate.labels import check_labelled
    from ...export.variants.comparison import compare_variants
    from ...export.variants.quantization import quantize as quantize_bundle
    from ...runtime.chain.samples import convert_samples
    from ..inputs import load_samples

    opened = open_bundle(bundle)
    checked, y = None, None
    if data is not None:
        x, y = load_samples(data, opened.manifest)
        if y is None:
            checked = convert_samples(x, opened.manifest.inputs)
        else:
            checked, y = check_labelled((x, y), opened.manifest)
    with progress_bars() as progress:
        made = quantize_bundle(
            opened,
            checked,
            to=to,
            variant=variant,
            name=name,
            ranges=ranges,
            samples=samples,
            full_range=full_range,
            symmetric=symmetric,
            float_heads=float_heads,
            seed=seed,
            progress=progress,
        )
    new = made.manifest.variants[-1]
    assert new.origin is not None
    shifts: Any = ()
    shown = ""
    if checked is not None:
        rows = np.random.default_rng(seed).permutation(len(checked))[:COMPARED]  # data may be sorted by class
        names = new.name, new.origin.parent
        with spinner("comparing with the parent"):
            shifts = compare_variants(made, *names, checked[rows], None if y is None else y[rows])
        shown = f"On {len(rows)} of the samples:\n{describe_shifts(*names, shifts)}"
    text = lambda: f"{describe_bundle(made)}\n\n{shown}".rstrip()  # noqa: E731
    print_result({"manifest": made.manifest, "shifts": shifts}, as_json, text)
