"""The smallest network with two exits, on vectors (N, 16). Each of its steps can be replaced by a stranger's."""

import numpy as np
import torch
from torch import nn

from offramp.tests.zoo.dense import CLASSES


class TwoExits(nn.Module):
    """first -> exit -> second -> exit."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(16, width), nn.Linear(width, 16)
        self.early, self.late = nn.Linear(width, CLASSES), nn.Linear(16, CLASSES)

    def first(self, x):
        return torch.tanh(self.a(x))

    def second(self, y):
        return torch.tanh(self.b(y))

    def forward(self, x):
        y = self.first(x)
        return [self.early(y), self.late(self.second(y))]


def build_two_exits(width=16, **steps):
    """Make the network in eval mode; functions of (network, value) replace its methods, anything else becomes an attribute."""
    methods = {name: step for name, step in steps.items() if callable(step) and not isinstance(step, nn.Module)}
    net = type("Stranger", (TwoExits,), methods)(width)
    for name, value in steps.items():
        if name not in methods:
            setattr(net, name, value)
    return net.eval()


def vectors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)
