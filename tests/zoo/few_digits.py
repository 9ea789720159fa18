"""A stand-in for samples/quickstart/digits.py that takes moments: a small network whose labels are those of its last exit."""

import numpy as np
import torch
from torch import nn


class Digits(nn.Module):
    """Later exits correct the first a little, so that it is right where it is sure; the last stage takes most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, 16, 4, stride=4), nn.ReLU()),
                nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
                nn.Sequential(*(part for _ in range(4) for part in (nn.Conv2d(16, 16, 5, padding=2), nn.ReLU()))),
            ]
        )
        self.heads = nn.ModuleList([nn.Linear(16 * 49, 10) for _ in self.stages])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        exits: list[torch.Tensor] = []
        for k, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            x = stage(x)
            logits = 40 * head(x.flatten(1))
            exits.append(logits if k == 0 else exits[-1] + 0.2 * logits)
        return exits


def network() -> nn.Module:
    torch.manual_seed(0)
    return Digits().eval()


def samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).random((count, 1, 28, 28), np.float32)
    with torch.no_grad():
        return x, network()(torch.from_numpy(x))[-1].argmax(1).numpy()


def training() -> tuple[np.ndarray, np.ndarray]:
    return samples(200, 0)


def calibration() -> tuple[np.ndarray, np.ndarray]:
    return samples(500, 1)


def test() -> tuple[np.ndarray, np.ndarray]:
    return samples(200, 2)
