"""The part of `train` that needs torch as it is imported: what the recipes minimise, and the loop."""

import io
import math
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import DataError, MissingError, ModelError, UsageError, unknown_name
from ...files import os_errors_explained, write_atomically
from ..capture.outputs import flatten_outputs
from ..graph.axes import first_line
from .heads import Attached
from .history import Epoch, History

MOMENTUM, WARM_UP = 0.9, 0.05

TEMPERATURE, SOFT = 3.0, 0.5
"""How far the outputs of a teacher, or of the last exit, are softened for an exit, and the share of its loss that they make."""

SURE = 0.9
"""The probability of the true class from which on a sample is settled for the gated recipe."""

CHECK_EVERY = 100
"""Batches between two looks at the loss, each of which waits for the device."""


def joint(logits: Sequence[Tensor], y: Tensor, smoothing: float, teacher: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of every sample at every exit, float32 (batch, exits), mixed with what a teacher's logits ask."""
    hard = torch.stack([F.cross_entropy(z, y, reduction="none", label_smoothing=smoothing) for z in logits], 1)
    return hard if teacher is None else mix(hard, logits, teacher)


def distill(logits: Sequence[Tensor], y: Tensor, smoothing: float, teacher: Tensor | None = None) -> Tensor:
    """Let the last exit teach every other one besides; itself it learns nothing from that."""
    losses = joint(logits, y, smoothing, teacher)
    return torch.cat([mix(losses[:, :-1], logits[:-1], logits[-1].detach()), losses[:, -1:]], 1)


def gated(logits: Sequence[Tensor], y: Tensor, smoothing: float, teacher: Tensor | None = None) -> Tensor:
    """Zero a sample's loss at every exit after the first that gives its true class a probability of `SURE`."""
    with torch.no_grad():
        unsure = torch.stack([z.softmax(1).gather(1, _true(y)[:, None])[:, 0] < SURE for z in logits[:-1]], 1)
        reached = torch.cat([torch.ones_like(unsure[:, :1]), unsure], 1).cumprod(1)
    return joint(logits, y, smoothing, teacher) * reached


def mix(losses: Tensor, logits: Sequence[Tensor], teacher: Tensor) -> Tensor:
    """Replace the share `SOFT` of the losses by T^2 KL(teacher / T || exit / T); T^2 keeps the size of the gradients."""
    t, target = TEMPERATURE, F.log_softmax(teacher / TEMPERATURE, 1)
    soft = [F.kl_div(F.log_softmax(z / t, 1), target, reduction="none", log_target=True).sum(1) * t**2 for z in logits]
    return (1 - SOFT) * losses + SOFT * torch.stack(soft, 1)


LOSSES = {"joint": joint, "distill": distill, "gated": gated, "heads": joint}


def logits_of_exits(output: Any) -> list[Tensor]:
    """Return every exit's logits, float32 (batch, classes), from what a network returns.

    Raises:
        ModelError: something else is among its outputs.
    """
    found = flatten_outputs(output)
    exits = [z for value in found.values() for z in (value.unbind(0) if value.ndim == 3 else [value])]
    if not exits or any(z.ndim != 2 or z.shape != exits[0].shape or not z.is_floating_point() for z in exits):
        given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in found.items())
        raise ModelError(f"The network returns {given}; training takes logits (batch, classes) alone, one per exit.")
    return [z.float() for z in exits]


class Loop:
    """One training of one network; the arguments are those of `train`."""

    def __init__(
        self,
        network: nn.Module,
        recipe: str,
        teacher: nn.Module | None,
        lr: float,
        weight_decay: float,
        smoothing: float,
        weights: list[float] | None,
        heads: Sequence[str],
        device: str,
    ) -> None:
        self.network, self.recipe, self.teacher = network, recipe, teacher
        self.lr, self.smoothing, self.weights = lr, smoothing, weights
        self.heads = _find_heads(network, heads) if recipe == "heads" else []
        self.device = _find_device(device)
        self.half = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.trained = {
            name: p
            for name, p in network.named_parameters()
            if (_within(name, self.heads) if self.heads else p.requires_grad)
        }
        if not self.trained:
            raise UsageError("No parameter of the network takes gradients: attach(..., frozen=False) leaves them free.")
        if teacher is not None and {id(p) for p in teacher.parameters()} & {id(p) for p in self.trained.values()}:
            raise UsageError("The teacher has parameters that are to train: give copy.deepcopy(network) as teacher.")
        self.setting: dict[str, Any] = {
            "network": _describe(network),
            "recipe": recipe,
            "teacher": None if teacher is None else _describe(teacher),
            "lr": lr,
            "weight_decay": weight_decay,
            "label_smoothing": smoothing,
            "weights": weights,
            "heads": self.heads,
        }

    def run(
        self,
        loader: Iterable[tuple[Any, Any]],
        validation: Iterable[tuple[Any, Any]] | None,
        epochs: int,
        seconds: float | None,
        checkpoint: Path | None,
        progress: Callable[[Epoch], None],
    ) -> History:
        """Train, from the checkpoint on where there is one."""
        steps = _count_batches(loader)
        self.setting |= {"epochs": epochs, "seconds": seconds, "batches": steps}
        with self._prepared():
            matrices = [p for p in self.trained.values() if p.ndim > 1]
            others = [p for p in self.trained.values() if p.ndim <= 1]
            groups = [
                {"params": matrices, "weight_decay": self.setting["weight_decay"]},
                {"params": others, "weight_decay": 0.0},
            ]
            optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=MOMENTUM, nesterov=True)
            done = self._resume(checkpoint, optimizer, loader) if checkpoint and checkpoint.exists() else []
            first = len(done)
            for epoch in range(first, epochs):
                start, before = perf_counter(), sum(e.seconds for e in done)
                if seconds is not None and before >= seconds:
                    break

                def share(i: int, epoch: int = epoch, start: float = start, before: float = before) -> float:
                    by_time = (before + perf_counter() - start) / seconds if seconds else 0.0
                    return min(max((epoch + (i + 0.5) / steps) / epochs, by_time), 1.0)

                loss, accuracy = self._learn(loader, optimizer, share, epoch, careful=epoch == first)
                right = None if validation is None else self._judge(validation)
                spent = perf_counter() - start
                done.append(Epoch(epoch=epoch + 1, loss=loss, accuracy=accuracy, validation=right, seconds=spent))
                if checkpoint:
                    self._save(checkpoint, optimizer, loader, done)
                progress(done[-1])
        return History(recipe=self.recipe, epochs=tuple(done))

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Put both networks on the device with gradients for what trains only; afterwards back, in eval mode."""
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

    def _learn(
        self,
        loader: Iterable[tuple[Any, Any]],
        optimizer: torch.optim.Optimizer,
        share: Callable[[int], float],
        epoch: int,
        *,
        careful: bool,
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Take one step per batch; gives loss and accuracy per exit.

        Args:
            loader: the batches.
            optimizer: takes the steps.
            share: gives the share of the whole training that is done at a batch, counted from 0.
            epoch: counted from 0.
            careful: check every batch's labels, which waits for the device.
        """
        self.network.train(self.recipe != "heads")
        for name in self.heads:
            self.network.get_submodule(name).train()
        sums, count = torch.zeros(2, 1, device=self.device), 0
        for i, batch in enumerate(loader):
            x, y = self._place(batch)
            logits = self._forward(self.network, x)
            with torch.no_grad():
                taught = None if self.teacher is None else self._forward(self.teacher, x)[-1]
            if careful:
                self._check(logits, y, taught)
            losses = LOSSES[self.recipe](logits, y, self.smoothing, taught)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * _rate(share(i))
            optimizer.zero_grad()
            self._weigh(losses).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                sums, count = sums + torch.stack([losses.sum(0), _right(logits, y)]), count + len(y)
            if (i + 1) % CHECK_EVERY == 0:
                self._check_finite(sums, epoch)
        if not count:
            raise DataError("The loader gives no batch.")
        self._check_finite(sums, epoch)
        loss, accuracy = (sums.double() / count).tolist()
        return tuple(loss), tuple(accuracy)

    @torch.no_grad()
    def _judge(self, batches: Iterable[tuple[Any, Any]]) -> tuple[float, ...]:
        self.network.eval()
        right, count = torch.zeros(1, device=self.device), 0
        for batch in batches:
            x, y = self._place(batch)
            right, count = right + _right(self._forward(self.network, x), y), count + len(y)
        if not count:
            raise DataError("The validation batches hold no sample.")
        return tuple((right.double() / count).tolist())

    def _place(self, batch: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        x, y = (torch.as_tensor(part).to(self.device, non_blocking=True) for part in batch)
        if len(y) != len(x) or y.ndim != (2 if y.is_floating_point() else 1):
            raise DataError(
                f"A batch has inputs {tuple(x.shape)} and labels {y.dtype} {tuple(y.shape)}; labels are whole numbers (batch,) "
                "or probabilities (batch, classes)."
            )
        if self.half and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, y.float() if y.is_floating_point() else y.long()

    def _forward(self, network: nn.Module, x: Tensor) -> list[Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            output = network(x)
        return logits_of_exits(output)

    def _weigh(self, losses: Tensor) -> Tensor:
        per_exit = losses.mean(0)
        if self.weights is None:
            return per_exit.mean()
        return torch.stack([w / sum(self.weights) * loss for w, loss in zip(self.weights, per_exit, strict=True)]).sum()

    def _check(self, logits: Sequence[Tensor], y: Tensor, taught: Tensor | None) -> None:
        exits, classes = len(logits), logits[0].shape[1]
        if exits < 2 and self.recipe in ("distill", "gated"):
            raise ModelError(f"The network has one exit; {self.recipe!r} needs at least two. attach() adds some.")
        if self.weights is not None and len(self.weights) != exits:
            raise UsageError(f"There are {len(self.weights)} weights for {exits} exits: give one per exit.")
        if taught is not None and taught.shape[1] != classes:
            raise ModelError(f"The teacher has {taught.shape[1]} classes, the network {classes}.")
        if y.ndim == 2 and (y.shape[1] != classes or bool((y < 0).any())):
            raise DataError(f"Labels {tuple(y.shape)} are no probabilities of the network's {classes} classes.")
        low, high = _true(y).min().item(), _true(y).max().item()
        if low < 0 or high >= classes:
            raise DataError(f"Labels run from {low} to {high}; the network has the classes 0 to {classes - 1}.")

    def _check_finite(self, sums: Tensor, epoch: int) -> None:
        if not bool(sums.isfinite().all()):
            raise ModelError(
                f"The loss is not finite in epoch {epoch + 1}, and the network's weights are spoilt. Load it anew and lower "
                f"lr={self.lr}; if that does not help, look for NaN and infinity in the inputs."
            )

    def _save(
        self, path: Path, optimizer: torch.optim.Optimizer, loader: Iterable[tuple[Any, Any]], done: Sequence[Epoch]
    ) -> None:
        state = {
            "setting": self.setting,
            "network": self.network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epochs": msgspec.to_builtins(list(done)),
            "random": {name: get() for name, (get, _) in self._random(loader).items()},
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(path, buffer.getvalue())

    def _resume(self, path: Path, optimizer: torch.optim.Optimizer, loader: Iterable[tuple[Any, Any]]) -> list[Epoch]:
        try:
            with os_errors_explained(path, "read"):
                content = path.read_bytes()
            # The states of random generators must stay on the CPU; load_state_dict moves the rest.
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            saved, epochs = state["setting"], msgspec.convert(state["epochs"], list[Epoch])
        except MissingError:
            raise
        except Exception as error:
            raise UsageError(f"{path} is no checkpoint that train wrote. Name another file, or remove it.") from error
        differ = [name for name, value in self.setting.items() if saved.get(name) != value]
        if differ:
            there = ", ".join(f"{name} {saved.get(name)!r}" for name in differ)
            here = ", ".join(f"{name} {self.setting[name]!r}" for name in differ)
            raise UsageError(
                f"The checkpoint {path} is of another training: {there} there, {here} here. Name another file, or remove it."
            )
        self.network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        for name, (_, put) in self._random(loader).items():
            if name in state["random"]:
                put(state["random"][name])
        return epochs

    def _random(self, loader: Any) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
        """Return how to read and how to set the state of everything that batches or the network may draw from."""
        sources: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
            "python": (random.getstate, random.setstate),
            "numpy": (_get_numpy, np.random.set_state),
            "torch": (torch.get_rng_state, torch.set_rng_state),
        }
        if self.device.type == "cuda":
            device = self.device
            sources["cuda"] = lambda: torch.cuda.get_rng_state(device), lambda x: torch.cuda.set_rng_state(x, device)
        if isinstance(generator := getattr(loader, "generator", None), torch.Generator):
            sources["loader"] = generator.get_state, generator.set_state
        return sources


def _find_heads(network: nn.Module, heads: Sequence[str]) -> list[str]:
    if not heads and isinstance(network, Attached):
        return ["heads"]
    known = [name for name, _ in network.named_modules() if name]
    if not heads:
        children = ", ".join(name for name, _ in network.named_children())
        raise UsageError(f"Name the modules that are heads with heads=[...]; the network consists of {children}.")
    for name in heads:
        if name not in known:
            raise unknown_name("module", name, known)
    return list(heads)


def _find_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # torch has an exception of its own for each way to lack one
        raise MissingError(f"torch has no device {name!r} here: {first_line(error)}") from error
    return device


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _describe(network: nn.Module) -> str:
    """Name a network so that another one, or the same in other sizes, has another name."""
    layout = ";".join(f"{name}{tuple(value.shape)}" for name, value in network.state_dict().items())
    return f"{type(network).__name__} {zlib.crc32(layout.encode()):08x}"


def _count_batches(loader: Any) -> int:
    if not hasattr(loader, "__len__"):
        raise UsageError(
            f"The loader, a {type(loader).__name__}, has no length. Give a list of batches, a DataLoader, or a class with "
            "__iter__ and __len__, so that each epoch reads it anew and the rate falls to 0 at the end."
        )
    if not len(loader):
        raise DataError("The loader gives no batch.")
    return len(loader)


def _rate(share: float) -> float:
    """Return the learning rate as a share of the highest, when this share of all steps is done."""
    return share / WARM_UP if share < WARM_UP else (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))) / 2


def _right(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    return torch.stack([(z.argmax(1) == _true(y)).sum() for z in logits]).float()


def _true(y: Tensor) -> Tensor:
    """Return the class of every label (batch,): of probabilities, the likeliest."""
    return y if y.ndim == 1 else y.argmax(1)


def _get_numpy() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return (name, np.asarray(keys).tolist(), *rest)
