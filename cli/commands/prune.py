"""The command `offramp prune`: its options, one call, and what it prints."""

import click

from ...errors import UsageError, require
from ..describe import describe_made
from ..options import as_json, examples, split_names, with_seed, with_weights
from ..output import advises, print_result, show_epochs, spinner


@click.command(epilog=examples("offramp prune net.py:network --data train.npz --macs 0.6 -o digits.offramp"))
@click.argument("network")
@with_weights
@click.option(
    "--data", required=True, help="Labelled samples to fine-tune on, or file.py:function that returns a DataLoader."
)
@click.option(
    "-o", "--output", required=True, help="The network's bundle; if there is none, the network is exported first."
)
@click.option("--macs", type=float, help="Share of multiply-accumulates to keep, such as 0.6.")
@click.option("--parameters", type=float, help="Share of parameters to keep, in place of --macs.")
@click.option(
    "--spread",
    default="uniform",
    show_default=True,
    help="uniform: the same share of each layer; or global.",
)
@click.option("--round-to", default=8, show_default=True, help="Numbers of channels are multiples of this.")
@click.option("--keep", help="Modules that keep all their output channels: head.out,stem.")
@click.option("--recipe", default="joint", show_default=True, help="How to fine-tune: joint, distill or gated.")
@click.option(
    "--loss",
    help="file.py:function (an exit's answer, targets) -> losses (batch,), for a network that does not classify.",
)
@click.option("--epochs", default=10, show_default=True, help="Passes over the data; 0 for no fine-tuning.")
@click.option("--batch", default=64, show_default=True, help="Samples in a batch.")
@click.option("--lr", default=0.02, show_default=True, help="The highest learning rate.")
@click.option("--train-on", default="cpu", show_default=True, help="Where to fine-tune: cpu or cuda.")
@click.option("--checkpoint", help="A file to save progress in, and to continue from after an interruption.")
@click.option("--variant", help="The variant of the bundle that NETWORK is. Default: the first.")
@click.option("--name", help="Name of the new variant. Default: such as pruned40, if 40 % were to go.")
@click.option("--replace", is_flag=True, help="Take the place of the variant that has this name.")
@with_seed
@as_json
def prune(
    network: str,
    weights: str | None,
    data: str,
    output: str,
    macs: float | None,
    parameters: float | None,
    spread: str,
    round_to: int,
    keep: str | None,
    recipe: str,
    loss: str | None,
    epochs: int,
    batch: int,
    lr: float,
    train_on: str,
    checkpoint: str | None,
    variant: str | None,
    name: str | None,
    replace: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Remove channels from NETWORK, fine-tune the rest with the whole network as its teacher, or by a loss, and add it to its
    bundle.
    """
    from ...bundle.writing import open_unless_new
    from ...calibrate.user_code import read_callable
    from ...export import add_pruned
    from ..inputs import load_batches, load_module

    if epochs < 0 or batch < 1:
        raise UsageError(
            f"--epochs {epochs} and --batch {batch}: epochs are 0 or more, and a batch has 1 or more samples."
        )
    with spinner("loading the network"):
        require("torch_pruning", extra="compress")
        model = load_module(network, weights, "prune")
    before = open_unless_new(output)
    manifest = None if before is None else before.manifest
    has_labels = loss is None and (manifest is None or manifest.classes > 0)
    kept = f"Epochs stored in {checkpoint} are kept: the same command goes on from there."
    lost = "Nothing is half written: the same command starts again. With --checkpoint FILE it would go on."
    with advises(kept if checkpoint else lost):
        pruned = add_pruned(
            model,
            load_batches(data, manifest, batch=batch, seed=seed, has_labels=has_labels),
            output,
            macs=macs,
            parameters=parameters,
            spread=spread,
            round_to=round_to,
            keep=split_names(keep) or (),
            recipe=recipe,
            loss=None if loss is None else read_callable(loss, "loss"),
            epochs=epochs,
            lr=lr,
            device=train_on,
            checkpoint=checkpoint,
            variant=variant,
            name=name,
            replace=replace,
            progress=show_epochs(epochs),
        )
    print_result(pruned.manifest, as_json, lambda: describe_made(pruned, output))
