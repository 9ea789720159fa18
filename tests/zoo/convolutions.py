"""The larger convolutional networks of the zoo. Each takes (N, 3, 16, 16)."""

import torch
from torch import nn
from torch.nn import functional as F

from offramp.tests.zoo.sequences import Head


def conv(i, o, stride=1):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU())


def classify(x):
    return x.mean((2, 3))


class DenseLayer(nn.Module):
    """One layer of MultiScaleDense: adds `growth` channels to every scale."""

    def __init__(self, channels, growth):
        super().__init__()
        self.same = nn.ModuleList([conv(c, growth // 2 if k else growth) for k, c in enumerate(channels)])
        self.down = nn.ModuleList([conv(c, growth - growth // 2, 2) for c in channels[:-1]])

    def forward(self, x):
        new = [[same(y)] for same, y in zip(self.same, x, strict=True)]
        for k, down in enumerate(self.down):
            new[k + 1].append(down(x[k]))
        return [torch.cat([y, *grown], 1) for y, grown in zip(x, new, strict=True)]


class MultiScaleDense(nn.Module):
    """MSDNet: three densely concatenated scales, all of them alive at every cut; the last layer drops the finest."""

    def __init__(self, layers=4, growth=6):
        super().__init__()
        channels = [6, 8, 10]
        self.stem = nn.ModuleList([conv(3, 6), conv(6, 8, 2), conv(8, 10, 2)])
        self.layers, self.heads = nn.ModuleList(), nn.ModuleList()
        for k in range(layers):
            if k == layers - 1:
                self.squeeze = nn.ModuleList([nn.Conv2d(c, c // 2, 1) for c in channels[1:]])
                channels = [c // 2 for c in channels[1:]]
            self.layers.append(DenseLayer(channels, growth))
            channels = [c + growth for c in channels]
            self.heads.append(Head(channels[-1]))

    def forward(self, x):
        scales, exits = [], []
        for part in self.stem:
            x = part(x)
            scales.append(x)
        for layer, head in zip(self.layers, self.heads, strict=True):
            if layer is self.layers[-1]:
                scales = [squeeze(y) for squeeze, y in zip(self.squeeze, scales[1:], strict=True)]
            scales = layer(scales)
            exits.append(head(scales[-1]))
        return exits


class Residual(nn.Module):
    """A residual block which also returns what it computes halfway."""

    def __init__(self, i, o, stride=1):
        super().__init__()
        self.first, self.second, self.norm = conv(i, o, stride), nn.Conv2d(o, o, 3, 1, 1), nn.BatchNorm2d(o)
        self.skip = nn.Conv2d(i, o, 1, stride) if i != o or stride != 1 else nn.Identity()

    def forward(self, x):
        inside = self.first(x)
        return F.relu(self.norm(self.second(inside)) + self.skip(x)), inside


class DeepResidual(nn.Module):
    """Each early head reads the inside of a residual block, so that the cut goes through the block."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        width = [8, 8, 8, 8, 16, 16, 16, 16]
        self.blocks = nn.ModuleList(
            [Residual(i, o, 1 if i == o else 2) for i, o in zip([8, *width[:-1]], width, strict=True)]
        )
        self.heads = nn.ModuleDict({"1": Head(8), "3": Head(8), "5": Head(16)})
        self.last = Head(16)

    def forward(self, x):
        x, exits = self.stem(x), []
        for k, block in enumerate(self.blocks):
            x, inside = block(x)
            if str(k) in self.heads:
                exits.append(self.heads[str(k)](inside))
        return *exits, self.last(x)


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2: expand, filter each channel on its own, project."""

    def __init__(self, i, o, expand=4):
        super().__init__()
        m = i * expand
        self.expand = nn.Sequential(nn.Conv2d(i, m, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU6())
        self.depth = nn.Sequential(nn.Conv2d(m, m, 3, 1, 1, groups=m, bias=False), nn.BatchNorm2d(m), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(m, o, 1, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        y = self.project(self.depth(self.expand(x)))
        return x + y if x.shape == y.shape else y


class DepthwiseSeparable(nn.Module):
    """MobileNetV2; the heads pool a map of 8x8 to 3x3, which does not divide."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.parts = nn.ModuleList([Inverted(8, 8), nn.Sequential(Inverted(8, 12), Inverted(12, 12)), Inverted(12, 16)])
        self.heads = nn.ModuleList([Head(9 * c) for c in (8, 12, 16)])

    def forward(self, x):
        x, exits = self.stem(x), []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            exits.append(head(F.adaptive_avg_pool2d(x, 3).flatten(1)))
        return exits


class ResolutionAdaptive(nn.Module):
    """RANet: networks for inputs of 4, 8 and 16 pixels; the larger fuse the smaller's features at every depth."""

    def __init__(self, depth=3, widths=(12, 10, 6)):
        super().__init__()
        self.depth, below = depth, 0
        self.stems, self.layers = nn.ModuleList([conv(3, w) for w in widths]), nn.ModuleList()
        for w in widths:
            self.layers.extend([conv(w + below, w) for _ in range(depth)])
            below += w
        self.heads = nn.ModuleList([Head(c) for c in (12, 10, 10, 6)])

    def forward(self, x):
        images = [F.interpolate(x, scale_factor=0.25, mode="bilinear"), F.avg_pool2d(x, 2), x]
        exits: list[torch.Tensor] = []
        smaller: list[list[torch.Tensor]] = [[] for _ in range(self.depth)]
        for scale, (image, stem) in enumerate(zip(images, self.stems, strict=True)):
            y = stem(image)
            for depth, known in enumerate(smaller):
                fused = [F.interpolate(other, size=y.shape[2:]) for other in known]
                y = self.layers[scale * self.depth + depth](torch.cat([y, *fused], 1))
                known.append(y)
                if depth == self.depth - 1 or (scale, depth) == (1, 1):
                    exits.append(self.heads[len(exits)](y))
        return exits


class Experts(nn.Module):
    """Every expert runs; a softmax gate weighs the best two of each sample."""

    def __init__(self, width, experts=3, best=2):
        super().__init__()
        self.best, self.norm, self.gate = best, nn.BatchNorm1d(width), nn.Linear(width, experts)
        self.experts = nn.ModuleList([conv(width, width) for _ in range(experts)])

    def forward(self, x):
        gate = F.softmax(2 * self.gate(self.norm(classify(x))), -1)
        values, indices = gate.topk(self.best, -1)
        gate = torch.zeros_like(gate).scatter(-1, indices, values / values.sum(-1, keepdim=True))
        return (torch.stack([expert(x) for expert in self.experts], 1) * gate[:, :, None, None, None]).sum(1)


class MixtureOfExperts(nn.Module):
    """A mixture of experts inside the second stage."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([conv(3, 8), nn.Sequential(conv(8, 12, 2), Experts(12), conv(12, 12)), conv(12, 16)])
        self.heads = nn.ModuleList([Head(c) for c in (8, 12, 16)])

    def forward(self, x):
        exits = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            exits.append(head(x))
        return exits
