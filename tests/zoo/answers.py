"""Small networks that do not classify, with random weights: each exit gives named tensors. Most take (N, 1, 16, 16)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn


class Detector(nn.Module):
    """A grid of boxes and their classes, of one shape at each exit; classes are whole numbers."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, 1, 1)])
        self.boxes = nn.ModuleList([nn.Conv2d(8, 5, 3, 2, 1), nn.Conv2d(12, 5, 1), nn.Conv2d(12, 5, 1)])
        self.classes = nn.ModuleList([nn.Conv2d(8, 4, 3, 2, 1), nn.Conv2d(12, 4, 1), nn.Conv2d(12, 4, 1)])

    def forward(self, x):
        exits = []
        for part, boxes, classes in zip(self.parts, self.boxes, self.classes, strict=True):
            x = torch.relu(part(x))
            exits.append({"boxes": 2 * boxes(x).flatten(2), "classes": classes(x).argmax(1)})
        return exits


class Segmenter(nn.Module):
    """Maps of other sizes at each exit, each a tensor alone."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)])
        self.heads = nn.ModuleList([nn.Conv2d(8, 3, 1) for _ in range(3)])

    def forward(self, x):
        exits = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = torch.relu(part(x))
            exits.append(4 * head(x))
        return exits


class Angle(nn.Module):
    """One number for each sample, (batch,), and a gate that says how sure it is."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(256, 16), nn.Linear(16, 16), nn.Linear(16, 16)])
        self.heads = nn.ModuleList([nn.Linear(16, 2) for _ in range(3)])

    def forward(self, x):
        outputs: dict[str, torch.Tensor] = {}
        x = x.flatten(1)
        for k, (part, head) in enumerate(zip(self.parts, self.heads, strict=True)):
            x = torch.relu(part(x))
            y = head(x)
            outputs |= {f"exit{k}.angle": 90 * y[:, 0], f"exit{k}.sure": y[:, 1].sigmoid()}
        return outputs


class Tagger(nn.Module):
    """Many labels for each sample: the logits of six tags, which are no classes."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(256, 16), nn.Linear(16, 16), nn.Linear(16, 16)])
        self.heads = nn.ModuleList([nn.Linear(16, 6) for _ in range(3)])

    def forward(self, x):
        exits, x = [], x.flatten(1)
        for part, head in zip(self.parts, self.heads, strict=True):
            x = torch.relu(part(x))
            exits.append({"tags": 3 * head(x)})
        return exits


class Refiner(nn.Module):
    """One block applied four times to its own answer, and a gate after each pass: the stages in between are one file."""

    def __init__(self):
        super().__init__()
        self.first, self.block = nn.Linear(256, 16), nn.Linear(32, 16)
        self.answer, self.halt = nn.Linear(16, 9), nn.Linear(16, 1)

    def forward(self, x):
        given = torch.relu(self.first(x.flatten(1)))
        state, outputs = torch.zeros_like(given), dict[str, torch.Tensor]()
        for k in range(4):
            state = torch.tanh(self.block(torch.cat([given, state], 1)))
            outputs |= {f"pass{k}.cells": self.answer(state), f"pass{k}.halt": self.halt(state)}
        return outputs


class Words(nn.Module):
    """A tag for each token of a sequence (N, time, 6), whose length differs from call to call."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv1d(6, 8, 3, 1, 1), nn.Conv1d(8, 8, 3, 1, 1)])
        self.heads = nn.ModuleList([nn.Conv1d(8, 4, 1) for _ in range(2)])

    def forward(self, x):
        x, exits = x.transpose(1, 2), []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = torch.relu(part(x))
            exits.append({"tokens": 3 * head(x)})
        return exits


class Entry(NamedTuple):
    """A network and how it is exported."""

    make: Callable[[], nn.Module]
    options: dict[str, Any]
    shape: tuple[int, ...] = (1, 16, 16)

    def draw(self, n, seed=0):
        """Draw samples."""
        return np.random.default_rng(seed).standard_normal((n, *self.shape)).astype(np.float32)

    def build(self):
        """Build the network with seeded weights."""
        torch.manual_seed(0)
        return self.make().eval()


ANSWERS = {
    "detector": Entry(Detector, {"answer": ["boxes", "classes"], "rule": "agreement:boxes=2,classes"}),
    "detector, mean over classes": Entry(Detector, {"answer": ["classes", "boxes"], "rule": "mean_softmax:boxes"}),
    "segmenter": Entry(Segmenter, {"answer": ["map"], "rule": "pixel_share:map=0.6"}),
    "regressor": Entry(
        Angle, {"answer": ["angle"], "rule": "gate", "gates": ["exit0.sure", "exit1.sure", "exit2.sure"]}
    ),
    "many labels": Entry(Tagger, {"answer": ["tags"], "rule": "agreement:tags=3"}),
    "refiner": Entry(
        Refiner, {"answer": ["cells"], "rule": "gate_logit", "gates": [f"pass{k}.halt" for k in range(4)]}
    ),
    "words": Entry(
        Words, {"answer": ["tokens"], "rule": "mean_softmax", "axes": ("batch", "time", None)}, shape=(12, 6)
    ),
}


def parts_of(output, answer):
    """Return the parts of each exit's answer in what a network here returns, as arrays."""
    if isinstance(output, dict):
        names = dict.fromkeys(name.partition(".")[0] for name in output)
        return [{part: output[f"{name}.{part}"].numpy() for part in answer} for name in names]
    exits = [part if isinstance(part, dict) else {answer[0]: part} for part in output]
    return [{part: values[part].numpy() for part in answer} for values in exits]
