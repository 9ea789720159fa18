"""Small multi-exit networks, one per difficulty, with random weights. Each takes (N, 3, 16, 16) unless it says otherwise."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dense import CLASSES

SHAPE = (3, 16, 16)


def conv(i, o, stride=1):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU())


def classify(x):
    return x.mean((2, 3))


class Plain(nn.Module):
    """One boundary tensor per cut; exits as a list."""

    def __init__(self, exits=3):
        super().__init__()
        self.parts = nn.ModuleList([conv(3 if k == 0 else 8, 8) for k in range(exits)])
        self.heads = nn.ModuleList([nn.Linear(8, CLASSES) for _ in range(exits)])

    def forward(self, x):
        exits = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            exits.append(4 * head(classify(x)))
        return exits


class MultiScale(nn.Module):
    """Two scales kept side by side and concatenated later, as in MSDNet: several boundary tensors; exits as a tuple."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = conv(3, 6), conv(3, 6, 2)
        self.fine2, self.down, self.coarse2 = conv(6, 6), conv(6, 6, 2), conv(6, 6)
        self.down3, self.coarse3 = conv(12, 6, 2), conv(12, 6)
        self.heads = nn.ModuleList([nn.Linear(c, CLASSES) for c in (6, 12, 12)])

    def forward(self, x):
        f, c = self.fine(x), self.coarse(x)
        first = self.heads[0](classify(c))
        f2, c2 = torch.cat([f, self.fine2(f)], 1), torch.cat([self.down(f), self.coarse2(c)], 1)
        second = self.heads[1](classify(c2))
        c3 = torch.cat([self.down3(f2), self.coarse3(c2)], 1)
        return first, second, self.heads[2](classify(c3) + classify(f2))


class ReadsInputLate(nn.Module):
    """The last exit reads the input again, and an earlier exit's logits; exits as a dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 4, 2), conv(4, 8), conv(3, 8, 2)
        self.heads = nn.ModuleList([nn.Linear(4, CLASSES), nn.Linear(8, CLASSES)])

    def forward(self, x):
        a = self.a(x)
        early = self.heads[0](classify(a))
        late = self.heads[1](classify(self.b(a) + self.c(x)))
        return {"early": early, "late": late + 0.5 * early}


class Shapes(nn.Module):
    """Shape arithmetic and a tensor with the batch on axis 1 cross the cut."""

    def __init__(self):
        super().__init__()
        self.part = conv(3, 8, 2)
        self.recurrent = nn.GRU(8, 12)
        self.last = conv(12, 12)
        self.heads = nn.ModuleList([nn.Linear(8, CLASSES), nn.Linear(12, CLASSES), nn.Linear(12, CLASSES)])

    def forward(self, x):
        n = x.shape[0]
        y = self.part(x)
        first = self.heads[0](classify(y))
        steps, _ = self.recurrent(y.reshape(n, 8, -1).permute(2, 0, 1))
        second = self.heads[1](steps[-1])
        grid = self.last(steps.permute(1, 2, 0).reshape(n, 12, 8, 8))
        return first, second, self.heads[2](F.avg_pool2d(grid, 8).reshape(n, -1) + torch.zeros(n, 12))


class Branches(nn.Module):
    """A Python branch on the values of a tensor, which no exporter may bake in."""

    def __init__(self):
        super().__init__()
        self.net = Plain(2)

    def forward(self, x):
        first, second = self.net(x)
        return [first, second if x.sum() > 0 else first]


class Swapped(Plain):
    """The exits in the wrong order."""

    def forward(self, x):
        return super().forward(x)[::-1]


class Twice(Plain):
    """The same exit listed twice."""

    def forward(self, x):
        exits = super().forward(x)
        return [exits[0], exits[0], exits[2]]


ZOO = {"plain": Plain, "multi-scale": MultiScale, "reads-input-late": ReadsInputLate, "shapes": Shapes}


def build(kind, seed=0):
    """Make a network in eval mode whose batch normalisation has seen data."""
    torch.manual_seed(seed)
    net = kind().train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, *SHAPE))
    return net.eval()


def samples(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, *SHAPE)).astype(np.float32)
