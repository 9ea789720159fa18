"""Canvases of 96 x 96 with handwritten digits scattered over them, and where and which each is; as many as one likes.

A canvas holds one to eight digits of 14 to 34 pixels. How hard it is, from 0 to 1, is drawn for each canvas: hard ones hold
more digits, which lie on each other, pieces of digits that count for nothing, and noise. Most are easy. Training draws from
other digits than calibration and test.
"""

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(1, str(Path(__file__).parent / "quickstart"))

import numpy as np
import torch
from torch.nn import functional as F

import digits
from offramp.calibrate import Ragged

SIDE = 96
SIZES = tuple(range(14, 35, 2))
INK = 0.4  # how bright a pixel of a digit is, at least


class Canvases(NamedTuple):
    """Canvases and what is true of them.

    Attributes:
        images: float32 (N, 1, 96, 96), ink 1 on ground 0, with noise.
        boxes: float32 (boxes, 5) of N canvases: left, top, right, bottom in pixels, and the digit, 0 to 9.
        masks: uint8 (N, 96, 96): 0 where nothing is, 1 + the digit where one is.
    """

    images: np.ndarray
    boxes: Ragged
    masks: np.ndarray


def draw(part: str, count: int, seed: int = 0) -> Canvases:
    """Draw canvases; `part` is "training", or anything else for digits that training never sees."""
    rng = _numbers(part, seed)
    rows = slice(digits.TRAIN_DIGITS) if part == "training" else slice(digits.TRAIN_DIGITS, None)
    pictures, labels = (array[rows] for array in digits.digits())
    scaled = {size: _scale(pictures, size) for size in SIZES}
    images = np.zeros((count, SIDE, SIDE), np.float32)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    boxes, offset = [], [0]
    for image, mask, hard in zip(images, masks, rng.random(count) ** 3, strict=True):
        found: list[tuple[float, ...]] = []
        for _ in range(rng.integers(1, 3 + round(6 * hard))):
            drawn, size = rng.integers(len(labels)), SIZES[rng.integers(len(SIZES))]
            digit = scaled[size][drawn]
            place = _place(rng, size, found, 0.5 * hard)
            if place is None:
                continue
            left, top = place
            window = np.s_[top : top + size, left : left + size]
            np.maximum(image[window], digit, out=image[window])
            mask[window][digit > INK] = 1 + labels[drawn]
            rows_, columns = np.nonzero(digit > INK)
            found.append(
                (
                    left + columns.min(),
                    top + rows_.min(),
                    left + columns.max() + 1,
                    top + rows_.max() + 1,
                    labels[drawn],
                )
            )
        _disturb(rng, image, scaled, hard)
        boxes += found
        offset.append(len(boxes))
    return Canvases(images[:, None], Ragged(np.array(boxes, np.float32), np.array(offset)), masks)


def difficulty(part: str, count: int, seed: int = 0) -> np.ndarray:
    """Return how hard each canvas is that `draw` draws by the same part, count and seed, float64 (count,)."""
    return _numbers(part, seed).random(count) ** 3


def _numbers(part: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, part == "training"])


def _scale(pictures: np.ndarray, size: int) -> np.ndarray:
    """Return digits (N, size, size) in 0..1."""
    scaled = F.interpolate(torch.from_numpy(pictures), size=(size, size), mode="bilinear", antialias=True)
    return scaled[:, 0].numpy()


def _place(rng: np.random.Generator, size: int, others: list[tuple[float, ...]], most: float) -> tuple[int, int] | None:
    """Return a corner (left, top) for a digit that covers at most the share `most` of any other; None if ten tries find none."""
    for _ in range(10):
        left, top = rng.integers(0, SIDE - size, 2)
        for x0, y0, x1, y1, _ in others:
            wide, high = min(x1, left + size) - max(x0, left), min(y1, top + size) - max(y0, top)
            if max(wide, 0) * max(high, 0) > most * (x1 - x0) * (y1 - y0):
                break
        else:
            return int(left), int(top)
    return None


def _disturb(rng: np.random.Generator, image: np.ndarray, scaled: dict[int, np.ndarray], hard: float) -> None:
    """Lay strokes over a canvas that are no digits, pieces of 8 x 8 of some, and noise over all."""
    pieces = scaled[28]
    for other in rng.integers(len(pieces), size=round(12 * hard)):
        (top, left), (row, column) = rng.integers(0, SIDE - 8, 2), rng.integers(4, 16, 2)
        place = image[top : top + 8, left : left + 8]
        np.maximum(place, pieces[other, row : row + 8, column : column + 8], out=place)
    image += 0.3 * hard * rng.standard_normal(image.shape, np.float32)
