"""The command `offramp train`: its options, one call, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError
from ..images import Images, Prepared, with_images
from ..options import as_json, examples, with_seed, with_weights
from ..output import advises, conclude, note, print_result, progress_bars, show_epochs, spinner, tell_places

if TYPE_CHECKING:
    from ...export import Epoch

WEAK_END = 0.01
"""The whole network has learnt too little if an earlier exit is right on more of the samples by this share of all."""


@click.command(epilog=examples("offramp train net.py:plain train.npz --weights exits.pt -o trained.pt"))
@click.argument("network")
@click.argument("data")
@with_weights
@click.option(
    "-o",
    "--output",
    required=True,
    help="The file to write: the trained parameters, and the exits, as trained.pt.",
)
@click.option(
    "--recipe",
    help="How to train: joint, distill, gated or heads. Default: heads where exits were attached, else joint.",
)
@click.option(
    "--loss",
    help="file.py:function (an exit's answer, targets) -> losses (batch,), for a network that does not classify.",
)
@click.option("--validation", help="Labelled samples on which each epoch is judged.")
@click.option("--epochs", default=10, show_default=True, help="Passes over the data.")
@click.option("--batch", default=64, show_default=True, help="Samples in a batch.")
@click.option("--lr", default=0.1, show_default=True, help="The highest learning rate.")
@click.option("--train-on", default="cpu", show_default=True, help="Where to train: cpu or cuda.")
@with_images
@with_seed
@as_json
def train(
    network: str,
    data: str,
    weights: str | None,
    output: str,
    recipe: str | None,
    loss: str | None,
    validation: str | None,
    epochs: int,
    batch: int,
    lr: float,
    train_on: str,
    images: Images,
    seed: int,
    as_json: bool,
) -> None:
    """Train the exits of NETWORK on DATA, labelled samples or file.py:function that returns a DataLoader.

    Progress is stored beside OUTPUT after each epoch: the same command goes on from there.
    """
    from ...calibrate.user_code import read_callable
    from ...errors import require
    from ...export import save_weights
    from ...export import train as train_exits
    from ...files import check_writable
    from ..inputs import load_batches, load_module

    if epochs < 1 or batch < 1:
        raise UsageError(f"--epochs {epochs} and --batch {batch}: there is at least 1 epoch, and 1 sample in a batch.")
    check_writable(Path(output))

    def load(source: str) -> Any:
        return load_batches(source, images.manifest, batch=batch, seed=seed, has_labels=loss is None)

    with spinner("loading the network and samples"):
        require("torch", extra="export").manual_seed(seed)
        model = load_module(network, weights, "train")
        loader, others = load(data), None if validation is None else load(validation)
    tell_places(model)
    recipe = recipe or ("heads" if getattr(model, "frozen", False) else "joint")
    note(f"Training by the recipe {recipe}: {epochs} epochs.")
    checkpoint = Path(f"{output}.checkpoint")
    kept = f"Epochs stored in {checkpoint} are kept: the same command goes on from there."
    with advises(kept), progress_bars() as progress:
        history = train_exits(
            model,
            Prepared(loader, images, progress),
            epochs=epochs,
            recipe=recipe,
            loss=None if loss is None else read_callable(loss, "loss"),
            validation=None if others is None else Prepared(others, images),
            lr=lr,
            device=train_on,
            checkpoint=checkpoint,
            progress=show_epochs(epochs),
        )
    save_weights(model, output, example=next(iter(Prepared(loader, images)))[0])
    checkpoint.unlink(missing_ok=True)
    if recipe != "heads":
        _note_weak_end(history.epochs[-1])
    print_result(
        history, as_json, lambda: conclude(_describe(history.epochs[-1]), output, _next(network, output, data, images))
    )


def _describe(epoch: "Epoch") -> str:
    """Return the figures of the last epoch."""
    figures = [f"{share:.2%}" for share in epoch.accuracy] or [f"{value:.4g}" for value in epoch.loss]
    what = "accuracy in training" if epoch.accuracy else "loss"
    lines = [f"exit {k}: {what} {figure}" for k, figure in enumerate(figures)]
    return "\n".join(lines)


def _note_weak_end(epoch: "Epoch") -> None:
    """Note that an earlier exit has become better than the whole network, against which all losses are counted."""
    shares = (epoch.validation if epoch.validation is not None else epoch.accuracy) if epoch.accuracy else ()
    best = max(range(len(shares)), key=lambda k: shares[k], default=0)
    if shares and shares[best] - shares[-1] >= WEAK_END:
        note(
            f"Note: Exit {best} is right on {shares[best]:.1%}, the whole network on {shares[-1]:.1%}. What early exit loses is "
            "counted from the whole network: train it for longer (--epochs), or there is little to promise."
        )


def _next(network: str, output: str, data: str, images: Images) -> list[str]:
    """Return the words of the command that exports what was trained."""
    bundle = f"{Path(network.partition(':')[0]).stem}.offramp"
    example = images.words if images.shape else ["--data", data]
    return ["offramp", "export", network, "--weights", output, *example, "-o", bundle]
