"""Train or fine-tune a network with several exits."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError, require, unknown_name
from ...files import check_writable
from .history import Epoch, History

if TYPE_CHECKING:
    import torch

RECIPES = ("joint", "distill", "gated", "heads")


def train(
    network: "torch.nn.Module",
    loader: Iterable[tuple[Any, Any]],
    *,
    epochs: int,
    seconds: float | None = None,
    recipe: str = "joint",
    teacher: "torch.nn.Module | None" = None,
    validation: Iterable[tuple[Any, Any]] | None = None,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    label_smoothing: float = 0.0,
    weights: Sequence[float] | None = None,
    heads: Sequence[str] = (),
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> History:
    """Train all exits of a network together, by stochastic gradient descent with Nesterov momentum.

    The rate rises over the first twentieth of all steps and falls to 0 as a cosine. The recipes:

    - `joint`: the weighted mean of every exit's cross-entropy (deep supervision, as in BranchyNet, arXiv 1709.01686);
    - `distill`: besides, every earlier exit learns the last one's softened outputs (arXiv 1905.08094);
    - `gated`: a sample counts at an exit only if no earlier exit is already sure of its true class, so that the deeper layers
      learn what is left to them (the hard gate of confidence-gated training, arXiv 2509.17885);
    - `heads`: `joint`, but all else than the heads stays as it is, statistics of BatchNorm included.

    Args:
        network: float inputs (batch, ...) -> its exits' logits (batch, classes) as `export` takes them: a list, tuple, dict or
            dataclass, or one stacked tensor (exit, batch, class). It is trained in place and left in eval mode on its device.
        loader: gives batches (inputs, labels) anew each time it is iterated, and has a length; labels are whole numbers
            (batch,) from 0, or probabilities (batch, classes), as of mixed images, of which the likeliest counts as right. Its
            `generator`, where it has one as torch's DataLoader does, is saved in the checkpoint.
        epochs: passes over the loader, all in all.
        seconds: the rate is at 0 after that long at the latest, and no further epoch starts. What comes of it then depends on
            the machine's speed.
        recipe: one of the above.
        teacher: a trained network for the same inputs and classes. Half of each exit's loss is then how far it is from the
            teacher's last exit on the same batch, both softened (arXiv 1503.02531). It is left in eval mode and not trained.
        validation: batches on which each exit's accuracy is taken after every epoch; nothing is chosen by it.
        lr: the highest rate.
        weight_decay: of all parameters with two axes or more, so of none of BatchNorm's and no bias.
        label_smoothing: the share of each label that is spread evenly over all classes.
        weights: what each exit's loss counts; they are scaled to sum to 1. Equal by default.
        heads: for `heads`, the names of the modules that train, as in `named_modules()`; what `attach` made needs none.
        device: where to train. On a CUDA device convolutions and matrix products run in bfloat16.
        checkpoint: a file that is replaced after every epoch; if it is there, training goes on from it, exactly.
        progress: is called after every epoch.

    Returns:
        What every epoch gave, those before a resumption included.

    Raises:
        UsageError: an argument cannot be used, or the checkpoint is of another training.
        ModelError: the network returns no exits' logits, or the loss is no longer finite.
        DataError: the loader is empty, or labels are no classes of the network.
        MissingError: torch is not installed, the device is not there, or the checkpoint cannot be written.
    """
    torch = require("torch", extra="export")
    from .trainer import Loop

    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"train takes a torch.nn.Module, not a {type(network).__name__}.")
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    if heads and recipe != "heads":
        raise UsageError(f"heads={list(heads)} are for recipe='heads'; {recipe!r} trains the whole network.")
    if epochs < 1 or (seconds is not None and not seconds > 0):
        raise UsageError(f"epochs={epochs}, seconds={seconds}: train for at least one epoch, and above 0 seconds.")
    if teacher is not None and not isinstance(teacher, torch.nn.Module):
        raise UsageError(f"The teacher is a torch.nn.Module, not a {type(teacher).__name__}.")
    if not lr > 0 or weight_decay < 0 or not 0 <= label_smoothing < 1:
        raise UsageError(
            f"lr={lr} must be above 0, weight_decay={weight_decay} not below, label_smoothing={label_smoothing} in [0, 1)."
        )
    if weights is not None and (min(weights, default=-1.0) < 0 or sum(weights) <= 0):
        raise UsageError(f"weights={list(weights)}: give one per exit, none below 0 and not all 0.")
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        check_writable(path)
    shares = None if weights is None else list(weights)
    loop = Loop(network, recipe, teacher, lr, weight_decay, label_smoothing, shares, heads, device)
    return loop.run(loader, validation, epochs, seconds, path, progress or (lambda epoch: None))
