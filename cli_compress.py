"""The commands that add smaller and faster variants to a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import UsageError
from .options import as_json, split_names, with_seed
from .show import describe_bundle, describe_shifts, note, print_result, progress_bars, spinner

if TYPE_CHECKING:
    from .export.train import Epoch

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

    from .bundle import open_bundle
    from .calibrate.labels import check_labelled
    from .export.compare import compare_variants
    from .export.quantize import quantize as quantize_bundle
    from .runtime.samples import convert_samples
    from .sources import load_samples

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


@click.command()
@click.argument("network")
@click.option(
    "--data", required=True, help="Labelled samples to fine-tune with, or a function that returns a DataLoader."
)
@click.option("-o", "--output", required=True, help="The network's bundle; it is exported first where there is none.")
@click.option("--macs", type=float, help="The share of multiply-accumulates that stays, such as 0.6.")
@click.option("--parameters", type=float, help="The share of parameters that stays, instead.")
@click.option(
    "--spread", default="uniform", show_default=True, help="uniform, the same share of each layer, or global."
)
@click.option("--round-to", default=8, show_default=True, help="Numbers of channels are multiples of it.")
@click.option("--keep", help="Modules whose outputs stay as they are: head.out,stem.")
@click.option("--recipe", default="joint", show_default=True, help="How to fine-tune: joint, distill or gated.")
@click.option("--epochs", default=10, show_default=True, help="Passes over the data; 0 leaves the network untrained.")
@click.option("--batch", default=64, show_default=True, help="Samples in a batch.")
@click.option("--lr", default=0.02, show_default=True, help="The highest rate.")
@click.option("--train-on", default="cpu", show_default=True, help="Where to fine-tune: cpu or cuda.")
@click.option("--checkpoint", help="A file to go on from when fine-tuning was interrupted.")
@click.option("--variant", help="Which variant of the bundle NETWORK is; the first by default.")
@click.option("--name", help="What the new variant is called; pruned40 where 40 % were to go.")
@with_seed
@as_json
def prune(
    network: str,
    data: str,
    output: str,
    macs: float | None,
    parameters: float | None,
    spread: str,
    round_to: int,
    keep: str | None,
    recipe: str,
    epochs: int,
    batch: int,
    lr: float,
    train_on: str,
    checkpoint: str | None,
    variant: str | None,
    name: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Take channels out of NETWORK, fine-tune what is left with the whole network as its teacher, and add it to its bundle."""
    from .export.pruned import add_pruned
    from .sources import load_batches, load_network

    if epochs < 0 or batch < 1:
        raise UsageError(f"--epochs {epochs} and --batch {batch}: 0 or more passes, over batches of 1 or more.")
    model = load_network(network)
    if isinstance(model, Path):
        raise UsageError(
            f"prune takes a torch network, file.py:function, not {network}: ONNX files cannot be fine-tuned."
        )
    made = add_pruned(
        model,
        load_batches(data, batch=batch, seed=seed),
        output,
        macs=macs,
        parameters=parameters,
        spread=spread,
        round_to=round_to,
        keep=split_names(keep) or (),
        recipe=recipe,
        epochs=epochs,
        lr=lr,
        device=train_on,
        checkpoint=checkpoint,
        variant=variant,
        name=name,
        progress=lambda epoch: _show_epoch(epoch, epochs),
    )
    print_result(made.manifest, as_json, lambda: describe_bundle(made))


def _show_epoch(epoch: "Epoch", epochs: int) -> None:
    shares = " ".join(f"{share:.1%}" for share in epoch.accuracy)
    note(f"epoch {epoch.epoch} of {epochs}: accuracy in training {shares}, {epoch.seconds:.0f} s")
