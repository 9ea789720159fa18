"""A training's checkpoint: one file with weights, optimizer, history and random states, to go on from exactly. Needs torch."""

import io
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn

from ...errors import MissingError, UsageError
from ...files import os_errors_explained, write_atomically
from .history import Epoch

__all__ = ["Checkpoint", "describe_network"]


class Checkpoint(NamedTuple):
    """A checkpoint file and what is saved in it.

    Attributes:
        path: the file.
        identity: what must be the same when a training goes on: the arguments of `train` and the layout of the network.
        network, optimizer: their states are saved and restored.
        device: where the network trains; on CUDA its random state is saved too.
        loader: the batches; the state of their `generator`, if they have one, is saved too.
    """

    path: Path
    identity: Mapping[str, Any]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    loader: Any

    def save(self, epochs: Sequence[Epoch]) -> None:
        """Replace the file by the state after these epochs."""
        state = {
            "setting": dict(self.identity),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs": msgspec.to_builtins(list(epochs)),
            "random": {name: get() for name, (get, _) in self._random_states().items()},
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.path, buffer.getvalue())

    def resume(self) -> list[Epoch]:
        """Restore the state in the file and return the epochs that it comes after; none if there is no file.

        Raises:
            UsageError: the file is no checkpoint, or one of another training.
            MissingError: it cannot be read.
        """
        if not self.path.exists():
            return []
        state, epochs = self._read()
        self._check_identity(state["setting"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, (_, put) in self._random_states().items():
            if name in state["random"]:
                put(state["random"][name])
        return epochs

    def _read(self) -> tuple[dict[str, Any], list[Epoch]]:
        try:
            with os_errors_explained(self.path, "read"):
                content = self.path.read_bytes()
            # The states of random generators must stay on the CPU; load_state_dict moves the rest.
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return state | {"setting": dict(state["setting"])}, msgspec.convert(state["epochs"], list[Epoch])
        except MissingError:
            raise
        except Exception as error:
            raise UsageError(
                f"{self.path} is no checkpoint that train wrote. Name another file, or remove it.", path=self.path
            ) from error

    def _check_identity(self, saved: Mapping[str, Any]) -> None:
        differ = [name for name, value in self.identity.items() if saved.get(name) != value]
        if differ:
            theirs = ", ".join(f"{name} {saved.get(name)!r}" for name in differ)
            ours = ", ".join(f"{name} {self.identity[name]!r}" for name in differ)
            raise UsageError(
                f"The checkpoint {self.path} is of another training: {theirs} there, {ours} here. Name another file, or "
                "remove it.",
                path=self.path,
            )

    def _random_states(self) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
        """Return a getter and a setter for every random state that batches or the network may draw from."""
        states: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
            "python": (random.getstate, random.setstate),
            "numpy": (_get_numpy_state, np.random.set_state),
            "torch": (torch.get_rng_state, torch.set_rng_state),
        }
        if self.device.type == "cuda":
            device = self.device
            states["cuda"] = lambda: torch.cuda.get_rng_state(device), lambda x: torch.cuda.set_rng_state(x, device)
        if isinstance(generator := getattr(self.loader, "generator", None), torch.Generator):
            states["loader"] = generator.get_state, generator.set_state
        return states


def describe_network(network: nn.Module) -> str:
    """Return a network's class and a hash of its parameters' names and sizes: `Spotter 1f2e3d4c`."""
    layout = ";".join(f"{name}{tuple(value.shape)}" for name, value in network.state_dict().items())
    return f"{type(network).__name__} {zlib.crc32(layout.encode()):08x}"


def _get_numpy_state() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return (name, np.asarray(keys).tolist(), *rest)
