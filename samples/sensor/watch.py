"""Movements recorded by a smartwatch, and a one-dimensional network with three exits that classifies them.

The recordings come with the PyPI package seglearn (BSD licence, from the study in arXiv 1802.01489). Ten people did seven
exercises of the shoulder with either arm; the watch recorded three axes of acceleration and three of rotation at 50 Hz. Cut into
pieces of two seconds, which do not overlap, they are 2,369 samples. Five people are for training, three others for calibration,
and the last two for the test.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

LENGTH = 100
CLASS_NAMES = ("pendulum", "abduction", "elevation", "internal rotation", "external rotation", "trapezius", "row")
TRAIN, CALIBRATION, TEST = (1, 3, 5, 7, 9), (2, 4, 6), (8, 10)

Samples = tuple[np.ndarray, np.ndarray]


class Pieces(NamedTuple):
    """Samples float32 (N, 6, 100), labels int64 (N,), and the number of the person who moved, int64 (N,)."""

    x: np.ndarray
    y: np.ndarray
    person: np.ndarray

    @property
    def labelled(self) -> Samples:
        """The samples and labels."""
        return self.x, self.y


@functools.cache
def recordings() -> list[tuple[np.ndarray, int, int]]:
    """Return every recording: the signal float32 (axes, time), the number of its exercise, and the number of the person."""
    from seglearn.datasets import load_watch

    data = load_watch()
    x = [np.ascontiguousarray(recording.T, np.float32) for recording in data["X"]]
    return list(zip(x, data["y"].tolist(), data["subject"].tolist(), strict=True))


def pieces(people: tuple[int, ...]) -> Pieces:
    """Return samples of some of the people, in a fixed random order."""
    x, y, persons = [], [], []
    for signal, exercise, person in recordings():
        if person in people:
            count = signal.shape[1] // LENGTH
            x.append(signal[:, : count * LENGTH].reshape(6, count, LENGTH).swapaxes(0, 1))
            y += [exercise] * count
            persons += [person] * count
    order = np.random.default_rng(0).permutation(len(y))
    return Pieces(np.concatenate(x)[order], np.array(y)[order], np.array(persons)[order])


def training() -> Samples:
    """Return the training samples, of five people."""
    return pieces(TRAIN).labelled


def calibration() -> Pieces:
    """Return the calibration samples, of three other people, and who moved."""
    return pieces(CALIBRATION)


def test() -> Pieces:
    """Return the test samples, of the last two people, and who moved."""
    return pieces(TEST)


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, 5, stride, padding=2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()
    )


class Head(nn.Module):
    """Average and maximum over time, then a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out = nn.Linear(2 * channels, len(CLASS_NAMES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(torch.cat([x.mean(2), x.amax(2)], 1))
        return logits


class Movements(nn.Module):
    """Signals (N, 6, 100) in the sensor's units -> the logits (N, 7) of three exits; 10 million multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(6)
        self.stages = nn.ModuleList(
            [
                conv(6, 32, 2),
                nn.Sequential(conv(32, 64), conv(64, 64)),
                nn.Sequential(conv(64, 128, 2), conv(128, 192), conv(192, 192)),
            ]
        )
        self.heads = nn.ModuleList([Head(32), Head(64), Head(192)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, exits = self.scale(x), []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            exits.append(head(x))
        return exits
