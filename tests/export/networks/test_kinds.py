"""Kinds of networks that others write, each as a small one."""

import numpy as np
import torch
from torch import nn

from offramp.export import attach, export
from offramp.runtime import load_uncalibrated

CLASSES = 5


class Positioned(nn.Module):
    """Tokens (batch, 4, 8) through layers that look positions relative to each other up in a table, by indices (2, 2)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.table = nn.Parameter(torch.randn(3, 8))
        self.classify = nn.Linear(8, CLASSES)

    def forward(self, x):
        steps = torch.arange(2)
        for layer in self.layers:
            between = self.table[steps[:, None] - steps[None] + 1]
            x = layer(x) + between.flatten(0, 1)
        return self.classify(x.mean(1))


def test_a_table_of_positions_is_no_input_whatever_its_size():
    assert attach(Positioned(), torch.randn(3, 4, 8), fractions=(0.3, 0.55)).places == ("layers.0", "layers.1")


class Shared(nn.Module):
    """Layers taken out of their list by index, and one activation for all."""

    def __init__(self):
        super().__init__()
        activation = nn.ReLU()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), activation) for _ in range(4))
        self.classify = nn.Linear(8, CLASSES)

    def forward(self, x):
        for i in range(4):
            x = self.layers[i](x)
        return self.classify(x)


def test_layers_with_shared_parts_that_are_taken_by_index_are_exported(tmp_path):
    net = attach(Shared(), torch.randn(3, 8), fractions=(0.3, 0.55))
    x = torch.randn(4, 8)
    bundle = export(net, x, tmp_path / "shared.offramp")
    with load_uncalibrated(bundle, logits=True) as runner:
        np.testing.assert_allclose(runner.every_exit(x).logits, torch.stack(net(x), 1).detach(), rtol=1e-4, atol=1e-5)
