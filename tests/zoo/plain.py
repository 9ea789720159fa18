"""Small plain networks without exits that do not classify, with random weights. They take (N, 1, 16, 16)."""

import torch
from torch import nn
from torch.nn import functional as F


def convolution(i, o, stride=1):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU())


class PlainSegmenter(nn.Module):
    """An encoder, and a head whose map is resized to the input's size, as in torchvision."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(convolution(1, 6), convolution(6, 8, 2), convolution(8, 8, 2), convolution(8, 8))
        self.classify = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return F.interpolate(self.classify(self.encoder(x)), x.shape[2:], mode="bilinear")


class UNet(nn.Module):
    """An encoder, and a decoder that reads the encoder's features again at each size."""

    def __init__(self):
        super().__init__()
        self.first, self.down, self.deep = convolution(1, 6), convolution(6, 8, 2), convolution(8, 8, 2)
        self.up, self.last = convolution(16, 8), nn.Conv2d(14, 3, 1)

    def forward(self, x):
        first = self.first(x)
        down = self.down(first)
        up = self.up(torch.cat([down, F.interpolate(self.deep(down), scale_factor=2.0)], 1))
        return self.last(torch.cat([first, F.interpolate(up, scale_factor=2.0)], 1))


class PlainDetector(nn.Module):
    """A one-shot detector: boxes and class scores of each cell of a grid of 4 x 4."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(convolution(1, 6), convolution(6, 8, 2), convolution(8, 8), convolution(8, 8, 2))
        self.boxes, self.classes = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.trunk(x)
        return {"boxes": self.boxes(x).flatten(2), "classes": self.classes(x)}


class PlainRegressor(nn.Module):
    """Three numbers for each sample, (batch, 3); or one, (batch,)."""

    def __init__(self, *, one=False):
        super().__init__()
        self.trunk = nn.Sequential(convolution(1, 6), convolution(6, 8, 2), convolution(8, 8), convolution(8, 8, 2))
        self.last, self.one = nn.Linear(8, 3), one

    def forward(self, x):
        y = self.last(self.trunk(x).mean((2, 3)))
        return y[:, 0] if self.one else y
