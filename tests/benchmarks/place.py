"""Where exits pay on CIFAR-10: the places that `place_exits` finds beside those of `attach(at="auto")` and equal shares.

    CIFAR10=FOLDER python tests/benchmarks/place.py --folder build/place [--json result.json]

A residual network of the size of ResNet-8 with nine blocks, so with nine places for an exit, is trained with an exit at each.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "samples" / "cifar10"))
from cifar10_samples import folder, rows
from resnets import CLASSES, Block, convolve
from train import Batches, read_images

WIDTHS, BLOCKS = (16, 32, 64), 3
"""Channels of each stack, and blocks in it."""

BATCH = 128


class Plain(nn.Module):
    """The residual network of nine blocks of He et al. (arXiv 1512.03385), whose stem halves the image; it has no exits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolve(3, WIDTHS[0], 3, 2), nn.ReLU())
        before, blocks = WIDTHS[0], []
        for stack, width in enumerate(WIDTHS):
            for i in range(BLOCKS):
                blocks.append(Block(before, width, 2 if stack and not i else 1))
                before = width
        self.blocks, self.out = nn.Sequential(*blocks), nn.Linear(before, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def load_batches(seed: int = 0) -> Batches:
    """Return the training images that `cifar10_samples.held` does not give, shifted and mirrored anew in every pass."""
    images, labels = read_images(folder() / "cifar10_train.npz")
    used = rows()[len(rows()) // 10 :]
    generator = torch.Generator().manual_seed(seed)
    return Batches(torch.from_numpy(images[used]), torch.from_numpy(labels[used]), BATCH, generator)
