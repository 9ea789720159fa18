"""The record of a training: what `train` measured in each epoch."""

import msgspec

__all__ = ["Epoch", "History"]


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one pass over the training samples. Tuples hold one figure per exit, shallowest first.

    Attributes:
        epoch: its number, counted from 1.
        loss: the mean loss of the recipe, before the weights of the exits.
        accuracy: the share of training samples that the exit got right during the epoch, while it was still learning; none with a
            loss of the user's.
        validation: the share of validation samples that it got right after the epoch, or with a loss of the user's its mean; None
            without validation samples.
        seconds: how long the epoch took.

    Example:
        >>> from offramp.export import Epoch
        >>> epoch = Epoch(epoch=1, loss=(0.9, 0.6), accuracy=(0.7, 0.8), validation=None, seconds=2.5)
        >>> print(f"epoch {epoch.epoch}: the last exit is right for {epoch.accuracy[-1]:.0%}")
        epoch 1: the last exit is right for 80%
    """

    epoch: int
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    validation: tuple[float, ...] | None
    seconds: float

    def describe(self, epochs: int) -> str:
        """Return the figures in a line, of so many epochs in all: `epoch 1 of 10: accuracy in training 70.0% 80.0%, 2 s`."""
        figures = [f"{share:.1%}" for share in self.accuracy] or [f"{loss:.4g}" for loss in self.loss]
        what = "accuracy" if self.accuracy else "loss"
        told = f"epoch {self.epoch} of {epochs}: {what} in training {' '.join(figures)}"
        if self.validation is not None:
            form = "{:.1%}" if self.accuracy else "{:.4g}"
            told += f", in validation {' '.join(map(form.format, self.validation))}"
        return f"{told}, {self.seconds:.0f} s"


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a training, which `train` returns.

    Attributes:
        recipe: the recipe of the training, such as `joint`.
        epochs: one `Epoch` per pass over the samples, the first pass first.

    Example:
        >>> from net import data, network
        >>> from offramp.export import train
        >>> history = train(network(), [data()], epochs=3)
        >>> [epoch.epoch for epoch in history.epochs]
        [1, 2, 3]
    """

    recipe: str
    epochs: tuple[Epoch, ...]
