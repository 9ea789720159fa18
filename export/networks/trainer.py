"""The loop of `train`: one step per batch, one `Epoch` per pass. Needs torch."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...errors import DataError, MissingError, ModelError, OfframpError, UsageError, quoted, unknown_name
from ..capture.torch_module import dtypes_explained
from ..graph.axes import first_line
from .attached import Attached
from .checkpoint import Checkpoint, describe_network
from .history import Epoch, History
from .inputs import call_network, map_inputs, split_batch
from .losses import LOSSES, logits_of_exits, true_classes

__all__ = ["Trainer", "Training"]

MOMENTUM = 0.9

WARM_UP_SHARE = 0.05
"""Share of all steps over which the learning rate rises."""

CHECK_EVERY = 100
"""Batches between two checks that the loss is finite; each check waits for the device."""

Batches = Iterable[tuple[Any, Any]]

logger = logging.getLogger(__name__)


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """How a network is trained; `train` explains each field."""

    recipe: str
    epochs: int
    until: int
    seconds: float | None
    teacher: Any
    lr: float
    weight_decay: float
    label_smoothing: float
    loss: Callable[[Any, Any], Tensor] | None
    weights: list[float] | None
    heads: list[str]
    device: str
    checkpoint: Path | None


class Trainer:
    """Trains one network.

    Attributes:
        trained: the parameters that train, by their names.
        heads: the names of the modules that train, for the recipe `heads`; else none.
        half: whether products run in bfloat16.
    """

    def __init__(self, network: nn.Module, training: Training) -> None:
        self.network, self.training, self.teacher = network, training, training.teacher
        self.heads = _find_heads(network, training.heads) if training.recipe == "heads" else []
        self.device = _find_device(training.device)
        self.half = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.trained = {
            name: p
            for name, p in network.named_parameters()
            if (_is_within(name, self.heads) if self.heads else p.requires_grad)
        }
        if not self.trained:
            raise UsageError("No parameter of the network takes gradients: attach(..., frozen=False) leaves them free.")
        if self.teacher is not None and {id(p) for p in self.teacher.parameters()} & {
            id(p) for p in self.trained.values()
        }:
            raise UsageError("The teacher has parameters that are to train: give copy.deepcopy(network) as teacher.")
        logger.debug("%s parameters train on %s, bfloat16 %s", len(self.trained), self.device, self.half)

    def run(self, loader: Batches, validation: Batches | None, progress: Callable[[Epoch], None]) -> History:
        """Train; if there is a checkpoint, from its last epoch on."""
        training, batches = self.training, _count_batches(loader)
        with self._prepared():
            optimizer = self._make_optimizer()
            checkpoint = self._make_checkpoint(optimizer, loader, batches)
            epochs = checkpoint.resume() if checkpoint else []
            first = len(epochs)
            for epoch in range(first, training.until):
                start, before = perf_counter(), sum(past.seconds for past in epochs)
                if training.seconds is not None and before >= training.seconds:
                    break
                share = _share_done(training, epoch, batches, start - before)
                loss, accuracy = self._train_epoch(loader, optimizer, share, epoch, check_labels=epoch == first)
                right = None if validation is None else self._validate(validation)
                seconds = perf_counter() - start
                epochs.append(Epoch(epoch=epoch + 1, loss=loss, accuracy=accuracy, validation=right, seconds=seconds))
                if checkpoint:
                    checkpoint.save(epochs)
                progress(epochs[-1])
        return History(recipe=training.recipe, epochs=tuple(epochs))

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """Make the optimizer; weights of one axis (biases, BatchNorm's) do not decay."""
        matrices = [p for p in self.trained.values() if p.ndim > 1]
        others = [p for p in self.trained.values() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.training.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=self.training.lr, momentum=MOMENTUM, nesterov=True)

    def _make_checkpoint(self, optimizer: torch.optim.Optimizer, loader: Batches, batches: int) -> Checkpoint | None:
        training = self.training
        if training.checkpoint is None:
            return None
        identity = {
            "network": describe_network(self.network),
            "recipe": training.recipe,
            "teacher": None if self.teacher is None else describe_network(self.teacher),
            "lr": training.lr,
            "weight_decay": training.weight_decay,
            "label_smoothing": training.label_smoothing,
            "weights": training.weights,
            "heads": self.heads,
            "epochs": training.epochs,
            "seconds": training.seconds,
            "batches": batches,
        }
        return Checkpoint(training.checkpoint, identity, self.network, optimizer, self.device, loader)

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Move network and teacher to the device, with gradients for the trained parameters only; restore both at the end.

        Both are left in eval mode.
        """
        networks = [self.network] if self.teacher is None else [self.network, self.teacher]
        before = [(p, p.requires_grad) for p in self.network.parameters()]
        homes = [next((p.device for p in network.parameters()), torch.device("cpu")) for network in networks]
        try:
            for name, p in self.network.named_parameters():
                p.requires_grad_(name in self.trained)
            for network in networks:
                network.eval().to(self.device)
                if self.half:  # tensor cores read channels last
                    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            yield
        finally:
            for p, requires in before:
                p.requires_grad_(requires)
                p.grad = None
            for network, home in zip(networks, homes, strict=True):
                network.to(home)
                if self.half:
                    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
                network.eval()

    def _train_epoch(
        self,
        loader: Batches,
        optimizer: torch.optim.Optimizer,
        share: Callable[[int], float],
        epoch: int,
        *,
        check_labels: bool,
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Take one step per batch; return loss and accuracy of each exit.

        Args:
            loader: the batches.
            optimizer: takes the steps.
            share: from a batch's number to the share of the whole training that is done then.
            epoch: counted from 0.
            check_labels: check every batch's labels, which waits for the device.
        """
        self._set_modes()
        sums, count = torch.zeros(2, 1, device=self.device), 0
        for i, batch in enumerate(loader):
            losses, right = self._find_losses(batch, check_labels=check_labels)
            for group in optimizer.param_groups:
                group["lr"] = self.training.lr * _rate(share(i))
            optimizer.zero_grad()
            self._weigh(losses).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                sums, count = sums + torch.stack([losses.sum(0), right]), count + len(losses)
            if (i + 1) % CHECK_EVERY == 0:
                self._check_finite(sums, epoch)
        if not count:
            raise DataError("The loader gives no batch.")
        self._check_finite(sums, epoch)
        loss, accuracy = (sums.double() / count).tolist()
        return tuple(loss), () if self.training.loss is not None else tuple(accuracy)

    def _find_losses(self, batch: tuple[Any, Any], *, check_labels: bool) -> tuple[Tensor, Tensor]:
        """Return the losses of a batch, (batch, exits), and how many labels each exit gets right, (exits,)."""
        if self.training.loss is not None:
            losses = self._judge(batch)
            return losses, torch.zeros_like(losses[0])
        x, y = self._place(batch)
        logits = self._forward(self.network, x, y)
        with torch.no_grad():
            taught = None if self.teacher is None else self._forward(self.teacher, x, y)[-1]
        if check_labels:
            self._check(logits, y, taught)
        losses = LOSSES[self.training.recipe](logits, y, self.training.label_smoothing, taught)
        return losses, _count_right(logits, y)

    def _judge(self, batch: tuple[Any, Any]) -> Tensor:
        """Return the losses of a batch by the user's function, (batch, exits).

        Raises:
            ModelError: the network does not return its exits one by one, or the function fails, or does not give a loss for
                each sample, with gradients.
        """
        x, y = split_batch(batch)
        y = map_inputs(y, self._place_input)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            output = call_network(self.network, map_inputs(x, self._place_input))
        exits = list(output.values()) if isinstance(output, dict) else output
        if not isinstance(exits, (list, tuple)) or not exits:
            raise ModelError(
                f"The network returns a {type(output).__name__}; with a loss it returns a list of its exits."
            )
        assert self.training.loss is not None
        try:
            losses = [self.training.loss(exit_, y) for exit_ in exits]
        except (OfframpError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the function is the user's
            raise ModelError(f"The loss cannot be computed: {type(error).__name__}: {quoted(error)}") from error
        rows = next((len(x) for x in (*tree_leaves(exits[0]), losses[0]) if isinstance(x, Tensor) and x.ndim), None)
        wrong = [each for each in losses if not isinstance(each, Tensor) or each.shape != (rows,)]
        if wrong:
            found = tuple(wrong[0].shape) if isinstance(wrong[0], Tensor) else type(wrong[0]).__name__
            raise ModelError(
                f"The loss gives {found}; it gives a tensor (batch,), one loss for each sample, without a mean."
            )
        if torch.is_grad_enabled() and not any(each.requires_grad for each in losses):
            raise ModelError(
                "The loss has no gradients, so nothing can train by it: an argmax, a comparison or NumPy loses them."
            )
        if (weights := self.training.weights) is not None and len(weights) != len(losses):
            raise UsageError(f"There are {len(weights)} weights for {len(losses)} exits: give one per exit.")
        return torch.stack(losses, 1)

    def _set_modes(self) -> None:
        """Put what trains in training mode; with the recipe `heads` all else keeps its statistics, in eval mode."""
        self.network.train(self.training.recipe != "heads")
        for name in self.heads:
            self.network.get_submodule(name).train()

    @torch.no_grad()
    def _validate(self, batches: Batches) -> tuple[float, ...]:
        """Return the share of samples that each exit gets right, or the mean loss of each exit by the user's function."""
        self.network.eval()
        right, count = torch.zeros(1, device=self.device), 0
        for batch in batches:
            if self.training.loss is not None:
                losses = self._judge(batch)
                right, count = right + losses.sum(0), count + len(losses)
                continue
            x, y = self._place(batch)
            right, count = right + _count_right(self._forward(self.network, x, y), y), count + len(y)
        if not count:
            raise DataError("The validation batches hold no sample.")
        return tuple((right.double() / count).tolist())

    def _place(self, batch: tuple[Any, Any]) -> tuple[Any, Tensor]:
        """Return a batch's inputs and labels on the device, in the layout and dtype that the loss takes."""
        x, y = split_batch(batch)
        y = torch.as_tensor(y).to(self.device, non_blocking=True)
        if y.ndim != (2 if y.is_floating_point() else 1):
            raise DataError(
                f"A batch has labels {y.dtype} {tuple(y.shape)}; labels are whole numbers (batch,) or probabilities "
                f"(batch, classes).{'' if y.ndim else ' Give samples in batches, as a DataLoader makes them of a Dataset.'}"
            )
        return map_inputs(x, self._place_input), y.float() if y.is_floating_point() else y.long()

    def _place_input(self, x: Any) -> Tensor:
        tensor = torch.as_tensor(x).to(self.device, non_blocking=True)
        return tensor.contiguous(memory_format=torch.channels_last) if self.half and tensor.ndim == 4 else tensor

    def _forward(self, network: nn.Module, x: Any, y: Tensor) -> list[Tensor]:
        """Return the logits of every exit, as many rows as there are labels."""
        parts = x.values() if isinstance(x, dict) else x if isinstance(x, list) else [x]
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.half),
            dtypes_explained("A batch", network, [*parts], lambda to: call_network(network, map_inputs(x, to))),
        ):
            logits = logits_of_exits(call_network(network, x))
        if len(logits[0]) != len(y):
            raise DataError(
                f"A batch has {len(y)} labels, but the network gives logits of {len(logits[0])} samples: give a label for each."
            )
        return logits

    def _weigh(self, losses: Tensor) -> Tensor:
        """Return the mean over the samples and the weighted mean over the exits."""
        per_exit, weights = losses.mean(0), self.training.weights
        if weights is None:
            return per_exit.mean()
        return torch.stack([w / sum(weights) * loss for w, loss in zip(weights, per_exit, strict=True)]).sum()

    def _check(self, logits: Sequence[Tensor], y: Tensor, taught: Tensor | None) -> None:
        """Refuse logits, labels and a teacher's logits that do not fit each other or the recipe."""
        exits, classes = len(logits), logits[0].shape[1]
        recipe, weights = self.training.recipe, self.training.weights
        if exits < 2 and recipe in ("distill", "gated"):
            raise ModelError(f"The network has one exit; {recipe!r} needs at least two. attach() adds some.")
        if weights is not None and len(weights) != exits:
            raise UsageError(f"There are {len(weights)} weights for {exits} exits: give one per exit.")
        if taught is not None and taught.shape[1] != classes:
            raise ModelError(f"The teacher has {taught.shape[1]} classes, the network {classes}.")
        if y.ndim == 2 and (y.shape[1] != classes or bool((y < 0).any())):
            raise DataError(f"Labels {tuple(y.shape)} are no probabilities of the network's {classes} classes.")
        low, high = true_classes(y).min().item(), true_classes(y).max().item()
        if low < 0 or high >= classes:
            raise DataError(f"Labels run from {low} to {high}; the network has the classes 0 to {classes - 1}.")

    def _check_finite(self, sums: Tensor, epoch: int) -> None:
        if not bool(sums.isfinite().all()):
            raise ModelError(
                f"The loss is not finite in epoch {epoch + 1}, and the network's weights are spoilt. Load it anew and lower "
                f"lr={self.training.lr}; if that does not help, look for NaN and infinity in the inputs."
            )


def _find_heads(network: nn.Module, heads: Sequence[str]) -> list[str]:
    """Return the names of the modules that are heads: those that were given, or what `attach` made."""
    if not heads and isinstance(network, Attached):
        return ["heads"]
    modules = [name for name, _ in network.named_modules() if name]
    if not heads:
        children = ", ".join(name for name, _ in network.named_children())
        raise UsageError(f"Name the modules that are heads with heads=[...]; the network consists of {children}.")
    for name in heads:
        if name not in modules:
            raise unknown_name("module", name, modules)
    return list(heads)


def _find_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # torch raises a different exception for each reason
        raise MissingError(f"torch has no device {name!r} here: {first_line(error)}", device=name) from error
    return device


def _is_within(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _count_batches(loader: Any) -> int:
    if not hasattr(loader, "__len__"):
        raise UsageError(
            f"The loader, a {type(loader).__name__}, has no length. Give a list of batches, a DataLoader, or a class with "
            "__iter__ and __len__, so that each epoch reads it anew and the rate falls to 0 at the end."
        )
    if not len(loader):
        raise DataError("The loader gives no batch.")
    return len(loader)


def _share_done(training: Training, epoch: int, batches: int, start: float) -> Callable[[int], float]:
    """Return a function from a batch's number in an epoch to the share of the training that is done, by steps or by time.

    Args:
        training: says how many epochs and seconds there are.
        epoch: counted from 0.
        batches: in an epoch.
        start: when the training began by `perf_counter`, were it not interrupted between epochs.
    """

    def share(batch: int) -> float:
        by_time = (perf_counter() - start) / training.seconds if training.seconds else 0.0
        return min(max((epoch + (batch + 0.5) / batches) / training.epochs, by_time), 1.0)

    return share


def _rate(share: float) -> float:
    """Return the learning rate as a share of the highest, when this share of the training is done."""
    if share < WARM_UP_SHARE:
        return share / WARM_UP_SHARE
    return (1 + math.cos(math.pi * (share - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))) / 2


def _count_right(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    """Return how many samples each exit gets right, float32 (exits,)."""
    return torch.stack([(z.argmax(1) == true_classes(y)).sum() for z in logits]).float()
