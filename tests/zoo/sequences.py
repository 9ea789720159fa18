"""Multi-exit networks over what is no image: tokens, recordings and vectors; and the head that most of the zoo has."""

import torch
from torch import nn
from torch.nn import functional as F

from offramp.tests.zoo.dense import CLASSES


class Head(nn.Module):
    """Pool (N, C, ...), normalise and classify, so that the scores differ between samples even with random weights."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(channels), nn.Linear(channels, CLASSES)

    def forward(self, x):
        return 4 * self.linear(self.norm(x.flatten(2).mean(2) if x.dim() > 2 else x))


class EncoderLayer(nn.Module):
    """Attention and a feed-forward part, each on normalised input and added."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, width))
        return x + self.feed(self.norm2(x))


class Encoder(nn.Module):
    """A transformer over integer tokens (batch, time), both of them dynamic."""

    def __init__(self, tokens=50, longest=64, width=32, layers=3):
        super().__init__()
        self.embedding, self.position = nn.Embedding(tokens, width), nn.Embedding(longest, width)
        nn.init.normal_(self.position.weight, std=0.1)
        self.layers = nn.ModuleList([EncoderLayer(width, 4) for _ in range(layers)])
        self.heads = nn.ModuleList(
            [nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CLASSES)) for _ in range(layers)]
        )

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        exits = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = layer(x)
            exits.append(4 * head(x.mean(1)))
        return exits


class KeywordSpotter(nn.Module):
    """Recurrent: takes (time, batch, features), the batch on axis 1."""

    def __init__(self, features=12, width=24, layers=3):
        super().__init__()
        self.layers = nn.ModuleList([nn.GRU(width if k else features, width) for k in range(layers)])
        self.heads = nn.ModuleList([Head(width) for _ in range(layers)])

    def forward(self, steps):
        exits = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            steps, _ = layer(steps)
            exits.append(head(steps[-1]))
        return exits


class Spotter1d(nn.Module):
    """One-dimensional convolutions over raw audio (batch, 1, 400)."""

    def __init__(self):
        super().__init__()
        sizes = ((1, 12, 16, 4), (12, 16, 5, 2), (16, 24, 5, 2))
        self.parts = nn.ModuleList(
            [
                nn.Sequential(nn.Conv1d(i, o, size, stride, size // 2), nn.BatchNorm1d(o), nn.ReLU(), nn.MaxPool1d(2))
                for i, o, size, stride in sizes
            ]
        )
        self.heads = nn.ModuleList([Head(o) for _, o, _, _ in sizes])

    def forward(self, x):
        exits = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            exits.append(head(x))
        return exits


class Step(nn.Module):
    """What Looped does again and again: improve h, looking at x."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.mix, self.out = nn.LayerNorm(width), nn.Linear(2 * width, 64), nn.Linear(64, width)

    def forward(self, h, x):
        return h + self.out(torch.tanh(2 * self.mix(torch.cat([self.norm(h), x], -1))))


class Looped(nn.Module):
    """One block and one head, run four times; takes vectors (batch, 24)."""

    def __init__(self, width=32, times=4):
        super().__init__()
        self.times = times
        self.embed, self.block = nn.Linear(24, width), Step(width)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CLASSES))

    def forward(self, x):
        x = self.embed(x)
        h, exits = torch.zeros_like(x), []
        for _ in range(self.times):
            h = self.block(h, x)
            exits.append(4 * self.head(h))
        return exits
