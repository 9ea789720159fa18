"""A stand-in for samples/attach/plain.py that trains in moments, and is right on most of `few_digits` before."""

import torch
from torch import nn

from offramp.tests.zoo.few_digits import Digits


class PlainResNet(nn.Module):
    """The first exit of `few_digits`, with convolutions in front of its head that change nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        digits = Digits()
        self.stem, self.classify = digits.stages[0], digits.heads[0]
        self.blocks = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)))
        for block in self.blocks:
            nn.init.dirac_(block.weight)
            nn.init.zeros_(block.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classify(self.blocks(self.stem(x)).flatten(1))
        return logits
