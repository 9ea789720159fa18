"""A transformer encoder with an exit after each of its four blocks, and the digits of the quickstart as sequences.

A digit is read like a line of text, column by column from left to right; each column is a vector of 28 pixels. A sequence starts
with the first column that has ink and ends with the last one, so a one has a few steps and a zero about twenty.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

LONGEST, WIDTH, BLOCKS = 20, 96, 4


def sequences(images: np.ndarray) -> list[np.ndarray]:
    """Turn images (N, 1, 28, 28) into sequences float32 (time, 28), each of its own length."""
    columns = images[:, 0].swapaxes(1, 2)
    inked = columns.max(2) > 0
    first, last = inked.argmax(1), inked.shape[1] - inked[:, ::-1].argmax(1)
    return [np.ascontiguousarray(x[a:b]) for x, a, b in zip(columns, first, last, strict=True)]


def padded(samples: list[np.ndarray], length: int = LONGEST) -> np.ndarray:
    """Return sequences of one length, float32 (N, length, 28): empty columns fill up their ends."""
    x = np.zeros((len(samples), length, samples[0].shape[1]), np.float32)
    for row, sample in zip(x, samples, strict=True):
        row[: len(sample)] = sample
    return x


class Block(nn.Module):
    """Attention and a feed-forward part; each reads normalised input, and its output is added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 3 * WIDTH), nn.GELU(), nn.Linear(3 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, 4, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, width))
        feed: torch.Tensor = self.feed(self.norm2(x))
        return x + feed


class Encoder(nn.Module):
    """Sequences (N, time, 28) of any length to 20 -> the logits (N, 10) of four exits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(28, WIDTH)
        self.positions = nn.Parameter(torch.randn(LONGEST, WIDTH) * 0.02)
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.heads = nn.ModuleList([nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)) for _ in range(BLOCKS)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.embed(x) + self.positions[: x.shape[1]]
        exits = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x)
            exits.append(head(x.mean(1)))
        return exits


def train_encoder(samples: list[np.ndarray], labels: np.ndarray, *, epochs: int) -> nn.Module:
    """Train all exits together with AdamW; plain stochastic gradient descent hardly trains a transformer.

    A batch has sequences of about the same length, padded by a random number of steps, so that the network sees every length
    with and without padding. Each batch is shifted up or down by up to two pixels.
    """
    torch.manual_seed(0)
    network, batch = Encoder().train(), 25
    steps = epochs * (len(samples) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.002, total_steps=steps)
    for epoch in range(epochs):
        order = sorted(torch.randperm(len(samples)).tolist(), key=lambda row: len(samples[row]))
        for part in torch.randperm(len(samples) // batch).tolist():
            rows = order[part * batch : (part + 1) * batch]
            picked = [samples[row] for row in rows]
            length = int(torch.randint(max(map(len, picked)), LONGEST + 1, ()))
            x = torch.from_numpy(padded(picked, length)).roll(int(torch.randint(-2, 3, ())), 2)
            y = torch.from_numpy(labels[rows])
            loss = torch.stack([F.cross_entropy(z, y) for z in network(x)]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
    return network.eval()
