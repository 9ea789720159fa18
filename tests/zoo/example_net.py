"""The network of the examples in docstrings, lying beside them as net.py: samples are labelled by its last exit."""

import numpy as np
import torch
from torch import nn


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution whose answers are as often above zero as below: so no class gets most samples."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2, bias=False), nn.Tanh())


class Digits(nn.Module):
    """Three exits: later ones correct the first a little, so that it is right where it is sure; the last stage takes longest."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [conv(1, 16, 2, 2), conv(16, 32, 3), nn.Sequential(conv(32, 96, 5), conv(96, 96, 5))]
        )
        self.heads = nn.ModuleList([nn.Linear(16 * channels, 10, bias=False) for channels in (16, 32, 96)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        exits: list[torch.Tensor] = []
        for k, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            x = stage(x)
            logits = 40 * head(x.flatten(1))
            exits.append(logits if k == 0 else exits[-1] + 0.2 * logits)
        return exits


def network() -> nn.Module:
    """Return a network with three exits for images float32 (N, 1, 8, 8) and ten classes."""
    torch.manual_seed(0)
    return Digits().eval()


def plain() -> nn.Module:
    """Return a network for the same images without early exits."""
    torch.manual_seed(1)
    convolutions = [nn.Conv2d(inputs, 32, 3, padding=1) for inputs in (1, 32, 32, 32)]
    trunk = [part for convolution in convolutions for part in (convolution, nn.ReLU())]
    return nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()


def data(count: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return samples, float32 (count, 1, 8, 8), and their labels."""
    x = np.random.default_rng(seed).standard_normal((count, 1, 8, 8), np.float32)
    with torch.no_grad():
        return x, network()(torch.from_numpy(x))[-1].argmax(1).numpy()
