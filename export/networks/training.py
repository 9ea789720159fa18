"""`train`: train or fine-tune a network with several exits."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError, require, unknown_name
from ...files import check_writable
from .history import Epoch, History

if TYPE_CHECKING:
    import torch

    from .trainer import Training

__all__ = ["RECIPES", "WHOLE_NETWORK_RECIPES", "Criterion", "train"]

WHOLE_NETWORK_RECIPES = ("joint", "distill", "gated")
"""The recipes that train all parameters."""

Criterion = Callable[[Any, Any], "torch.Tensor"]
"""From what an exit returns, and what is true of a batch, to the loss of each sample."""

RECIPES = (*WHOLE_NETWORK_RECIPES, "heads")


def train(
    network: "torch.nn.Module",
    loader: Iterable[tuple[Any, Any]],
    *,
    epochs: int,
    until: int | None = None,
    seconds: float | None = None,
    recipe: str = "joint",
    teacher: "torch.nn.Module | None" = None,
    validation: Iterable[tuple[Any, Any]] | None = None,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    label_smoothing: float = 0.0,
    loss: "Criterion | None" = None,
    weights: Sequence[float] | None = None,
    heads: str | Sequence[str] = (),
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> History:
    """Train all exits of a network together, by stochastic gradient descent with Nesterov momentum.

    The learning rate rises over the first twentieth of all steps and then falls to 0 as a cosine. The recipes are:

    - `joint`: minimise the weighted mean of all exits' cross-entropies (deep supervision, as in BranchyNet, arXiv 1709.01686).
    - `distill`: as `joint`, and every earlier exit also learns the last exit's softened outputs (arXiv 1905.08094).
    - `gated`: as `joint`, but a sample counts at an exit only while no earlier exit gives its true class a probability of 0.9,
      so that deeper layers learn the samples that get there (the hard gate of confidence-gated training, arXiv 2509.17885).
    - `heads`: as `joint`, but only the heads train. Everything else stays as it is, statistics of BatchNorm included.

    Args:
        network: takes inputs (batch, ...) and returns its exits' logits (batch, classes) as `export` takes them: a list,
            tuple, dict or dataclass, or one stacked tensor (exit, batch, class). It is trained in place and left in eval mode on
            its device.
        loader: gives batches (inputs, labels) anew each time it is iterated, and has a length. Several inputs are a tuple or
            list in their order, or a dict by their names. Labels are whole numbers (batch,) from 0, or probabilities (batch,
            classes), as of mixed images; the likeliest class then counts as the right one. If it has a `generator`, as torch's
            DataLoader does, the checkpoint saves its state.
        epochs: passes over the loader in all, also when a training goes on from a checkpoint.
        until: end after this epoch, as if interrupted there; the same call with a later one, or none, goes on from the
            checkpoint.
        seconds: end after about this time: the learning rate reaches 0 by then, and no further epoch starts. The result then
            depends on the machine's speed.
        recipe: one of the recipes above.
        teacher: a trained network for the same inputs and classes. Half of each exit's loss is then the distance between the
            exit and the teacher's last exit on the same batch, both softened (arXiv 1503.02531). It is left in eval mode and
            does not train.
        validation: batches on which the accuracy of each exit is measured after every epoch. Nothing is chosen by it.
        lr: the highest learning rate.
        weight_decay: weight decay of all parameters with two axes or more; biases and BatchNorm's parameters have none.
        label_smoothing: share of each label that is spread evenly over all classes.
        loss: for a network that does not classify, the loss of an exit: a function (what the exit returns, truth) -> float
            (batch,), with gradients. The network then returns a list, tuple or dict of its exits, the truth is what the loader
            gives, and the recipe is `joint` or `heads`; there is no accuracy.
        weights: one weight per exit for its loss; they are scaled to sum to 1. Equal by default.
        heads: for the recipe `heads`, the name of the module that trains, or a list of names, as in `named_modules()`. A network
            from `attach` needs none.
        device: where to train. On a CUDA device convolutions and matrix products run in bfloat16.
        checkpoint: a file that is replaced after every epoch. If it exists, training goes on from it, exactly as if it had not
            been interrupted.
        progress: called with an `Epoch` after every epoch. Without it a line for each is printed to stderr if that is a terminal.

    Returns:
        The figures of every epoch, also of those before the training went on from a checkpoint.

    Raises:
        UsageError: an argument cannot be used, or the checkpoint is of another training.
        ModelError: the network does not return logits alone, the loss is no longer finite, or your own one cannot be used.
        DataError: the loader is empty, a batch is no (inputs, labels), or labels are not classes of the network.
        MissingError: torch is not installed, the device does not exist, or the checkpoint cannot be written.

    Example:
        >>> import torch
        >>> from net import data, network
        >>> from offramp.export import train
        >>> x, y = data()
        >>> samples = torch.utils.data.TensorDataset(torch.as_tensor(x), torch.as_tensor(y))
        >>> history = train(network(), torch.utils.data.DataLoader(samples, 50, shuffle=True), epochs=2, lr=0.05)
        >>> len(history.epochs), len(history.epochs[-1].accuracy)
        (2, 3)
    """
    torch = require("torch", extra="export")
    from .trainer import Trainer, Training

    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"train takes a torch.nn.Module, not a {type(network).__name__}.")
    if loss is not None and not callable(loss):
        raise UsageError(
            f"The loss that trains is a function (what an exit returns, truth) -> losses (batch,), not {loss!r:.60}: the losses "
            "that calibrate knows by name have no gradients."
        )
    if loss is not None and (recipe not in ("joint", "heads") or teacher is not None or label_smoothing):
        raise UsageError(
            "A loss of your own goes with the recipes joint and heads, without a teacher and label_smoothing."
        )
    if teacher is not None and not isinstance(teacher, torch.nn.Module):
        raise UsageError(f"The teacher is a torch.nn.Module, not a {type(teacher).__name__}.")
    training = Training(
        recipe=recipe,
        epochs=epochs,
        until=epochs if until is None else until,
        seconds=seconds,
        teacher=teacher,
        lr=lr,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        loss=loss,
        weights=None if weights is None else list(weights),
        heads=[heads] if isinstance(heads, str) else list(heads),
        device=device,
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )
    _check(training)
    return Trainer(network, training).run(loader, validation, progress or (lambda epoch: _tell(epoch, epochs)))


def _tell(epoch: Epoch, epochs: int) -> None:
    """Print the figures of an epoch for whoever sits at a terminal and gave nothing to call."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(epoch.describe(epochs), file=sys.stderr, flush=True)


def _check(training: "Training") -> None:
    """Refuse settings that cannot be used, and a checkpoint that cannot be written."""
    recipe, epochs, seconds, weights = training.recipe, training.epochs, training.seconds, training.weights
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    if training.heads and recipe != "heads":
        raise UsageError(f"heads={training.heads} are for recipe='heads'; {recipe!r} trains the whole network.")
    if epochs < 1 or (seconds is not None and not seconds > 0):
        raise UsageError(f"epochs={epochs}, seconds={seconds}: train for at least one epoch, and above 0 seconds.")
    if not 1 <= training.until <= epochs:
        raise UsageError(f"until={training.until} is the last epoch that trains, of {epochs}: from 1 to {epochs}.")
    if not training.lr > 0 or training.weight_decay < 0 or not 0 <= training.label_smoothing < 1:
        raise UsageError(
            f"lr={training.lr} must be above 0, weight_decay={training.weight_decay} not below, "
            f"label_smoothing={training.label_smoothing} in [0, 1)."
        )
    if weights is not None and (min(weights, default=-1.0) < 0 or sum(weights) <= 0):
        raise UsageError(f"weights={weights}: give one per exit, none below 0 and not all 0.")
    if training.checkpoint is not None:
        check_writable(training.checkpoint)
