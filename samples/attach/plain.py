"""A plain classifier without exits: a small ResNet for handwritten digits, and its training."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions, and a shortcut that adds the input to their output."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class PlainResNet(nn.Module):
    """Images (N, 1, 28, 28) -> logits (N, 10); 20 million multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(
            Block(16, 16), Block(16, 32, 2), Block(32, 32), Block(32, 64, 2), Block(64, 64), Block(64, 64)
        )
        self.classify = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classify(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def train_plain(x: np.ndarray, y: np.ndarray, *, epochs: int) -> nn.Module:
    """Train the network on images (N, 1, 28, 28) and labels; return it in eval mode."""
    torch.manual_seed(0)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    network, batch = PlainResNet().train(), 50
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.004, total_steps=steps)
    for epoch in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // batch * batch].reshape(-1, batch):
            shift = torch.randint(-2, 3, (2,)).tolist()
            loss = F.cross_entropy(network(torch.roll(images[rows], shift, (2, 3))), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
    return network.eval()
