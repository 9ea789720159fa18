"""Networks of about 0.1, 12, 40, 150, 300 and 1,800 million multiply-accumulates, untrained: time does not depend on weights."""

import itertools

from torch import nn
from torch.nn import functional as F


def conv(i, o, kernel=3, stride=1, groups=1):
    return nn.Sequential(nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o))


class Block(nn.Module):
    """The basic block of a residual network."""

    def __init__(self, i, o, stride=1):
        super().__init__()
        self.a, self.b = conv(i, o, stride=stride), conv(o, o)
        self.skip = conv(i, o, 1, stride) if stride > 1 or i != o else nn.Identity()

    def forward(self, x):
        return F.relu(self.b(F.relu(self.a(x))) + self.skip(x))


class Inverted(nn.Module):
    """The inverted residual of MobileNetV2."""

    def __init__(self, i, o, stride, expand):
        super().__init__()
        m = i * expand
        parts = [conv(i, m, 1), nn.ReLU6()] if expand > 1 else []
        self.body = nn.Sequential(*parts, conv(m, m, 3, stride, m), nn.ReLU6(), conv(m, o, 1))
        self.adds = stride == 1 and i == o

    def forward(self, x):
        return x + self.body(x) if self.adds else self.body(x)


class Chain(nn.Module):
    """A stem, parts, and a linear classifier on the mean of every part."""

    def __init__(self, stem, parts, widths, classes=10):
        super().__init__()
        self.stem, self.parts = stem, nn.ModuleList(parts)
        self.heads = nn.ModuleList([nn.Linear(width, classes) for width in widths])

    def forward(self, x):
        x, exits = self.stem(x), []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            exits.append(head(x.mean((2, 3))))
        return exits


def residual(depths, widths, strides, *, stem=None, cut=None):
    """A residual network; `cut` says how many blocks go into each part, by default one part for each width."""
    blocks, last = [], widths[0]
    for depth, width, stride in zip(depths, widths, strides, strict=True):
        for k in range(depth):
            blocks.append((Block(last, width, stride if k == 0 else 1), width))
            last = width
    parts, ends, first = [], [], 0
    for count in cut or depths:
        part = blocks[first : first + count]
        parts.append(nn.Sequential(*(block for block, _ in part)))
        ends.append(part[-1][1])
        first += count
    stem = stem or nn.Sequential(conv(3, widths[0]), nn.ReLU())
    return Chain(stem, parts, ends)


def tiny():
    return residual([1, 1, 1], [4, 4, 4], [1, 2, 2])


def resnet8():
    return residual([1, 1, 1], [16, 32, 64], [1, 2, 2])


def resnet20():
    return residual([3, 3, 3], [16, 32, 64], [1, 2, 2], cut=[2, 2, 2, 3])


def wide():
    return residual([2, 2, 3], [40, 72, 112], [1, 2, 2], cut=[1, 2, 2, 2])


def mobilenet():
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    blocks, last = [], 32
    for expand, width, count, stride in table:
        for k in range(count):
            blocks.append((Inverted(last, width, stride if k == 0 else 1, expand), width))
            last = width
    cuts = [0, 6, 10, 13, 17]
    parts = [nn.Sequential(*(b for b, _ in blocks[a:z])) for a, z in itertools.pairwise(cuts)]
    stem = nn.Sequential(conv(3, 32, 3, 2), nn.ReLU6())
    return Chain(stem, parts, [blocks[z - 1][1] for z in cuts[1:]], classes=1000)


def resnet18():
    stem = nn.Sequential(conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return residual([2, 2, 2, 2], [64, 128, 256, 512], [1, 2, 2, 2], stem=stem)


LADDER = {
    "tiny": (tiny, (3, 8, 8)),
    "resnet8": (resnet8, (3, 32, 32)),
    "resnet20": (resnet20, (3, 32, 32)),
    "wide": (wide, (3, 32, 32)),
    "mobilenet": (mobilenet, (3, 224, 224)),
    "resnet18": (resnet18, (3, 224, 224)),
}
