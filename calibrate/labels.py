"""Samples and labels, checked once before anything is measured with them."""

import hashlib
from typing import Any

import numpy as np
from msgspec import Struct

from ..bundle import Manifest
from ..errors import DataError, UsageError
from ..runtime.chain.samples import Samples, convert_samples

__all__ = [
    "LEAST_SAMPLES",
    "SampleSet",
    "check_classes",
    "check_data",
    "check_labelled",
    "check_labels",
    "hash_samples",
]

HOW_TO_READ = "load_samples makes one of a file, a folder, a dataset or a loader."

LEAST_SAMPLES = 20
"""Samples that calibrating takes, however few classes there are."""

LEAST_OVER_CHANCE = 1.2
"""The whole network must be right at least this many times as often as by chance."""

HASHED_ROWS = 256
"""Samples that are hashed at once, so that no large copy is made."""


class SampleSet(Struct, frozen=True):
    """Samples that were checked.

    Attributes:
        x: the samples, in the network's dtypes.
        y: labels, int64 (N,), or None.
        sha256: of the samples.
    """

    x: Samples
    y: np.ndarray | None
    sha256: str

    def __len__(self) -> int:
        return len(self.x)


def check_labelled(data: tuple[Any, np.ndarray], manifest: Manifest) -> tuple[Samples, np.ndarray]:
    """Return samples in the network's dtypes, the batch axis first, and labels int64 (N,).

    Raises:
        UsageError: `data` is no pair.
        DataError: there are none, shapes or dtypes do not fit, a value is not finite, or a label is not one of the classes.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UsageError(f"The samples are given with their labels, as a pair: (samples, labels). {HOW_TO_READ}")
    x, y = convert_samples(data[0], manifest.inputs), np.asarray(data[1])
    if y.shape != (len(x),):
        raise DataError(f"There are {len(x)} samples but labels of shape {y.shape}: one label per sample is needed.")
    if y.dtype.kind not in "iu":
        raise DataError(f"The labels are {y.dtype}; they must be whole numbers, the index of the class.")
    wrong = (y < 0) | (y >= manifest.classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"Label {y[row]} of sample {row} is not one of the network's classes, 0 to {manifest.classes - 1}."
        )
    return x, y.astype(np.int64)


def check_data(data: Any, manifest: Manifest, *, name: str = "data") -> SampleSet:
    """Check samples and their labels, if they have some, and hash them.

    Args:
        data: a pair, (samples, labels) or (samples, None).
        manifest: of the bundle.
        name: what `data` is called in messages.

    Raises:
        UsageError: `data` is no pair.
        DataError: as for `check_labelled`, or there are too few.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UsageError(f"{name} is a pair: (samples, labels), or (samples, None) without labels. {HOW_TO_READ}")
    if data[1] is None:
        x, y = convert_samples(data[0], manifest.inputs), None
    else:
        x, y = check_labelled((data[0], data[1]), manifest)
    needed = max(LEAST_SAMPLES, manifest.classes)
    if len(x) < needed:
        raise DataError(
            f"There are {len(x)} samples in {name}; calibrating takes at least {needed}, and some thousands to be precise."
        )
    return SampleSet(x, y, hash_samples(x))


def check_classes(y: np.ndarray) -> None:
    """Refuse labels of a single class."""
    if len(np.unique(y)) == 1:
        raise DataError(
            f"All {len(y)} labels are class {y[0]}: samples of every class are needed, as the product meets them."
        )


def check_labels(y: np.ndarray, answers: np.ndarray, classes: int) -> None:
    """Refuse labels that the network's answers match no better than by chance."""
    right, chance = float((answers == y).mean()), 1 / classes
    # Few samples may be right too seldom by bad luck: two standard deviations.
    if right + 2 * (chance * (1 - chance) / len(y)) ** 0.5 <= LEAST_OVER_CHANCE * chance:
        raise DataError(
            f"The whole network is right on {right:.1%} of the samples, no better than chance among {classes} classes. Do the "
            "labels belong to another set? Are they in another order (as folders are sorted)? Are the samples scaled differently "
            "than in training?"
        )


def hash_samples(x: Samples) -> str:
    """Return the sha256 of samples: their dtypes, shapes and values."""
    digest = hashlib.sha256()
    for array in x.arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        for first in range(0, len(array), HASHED_ROWS):
            digest.update(np.ascontiguousarray(array[first : first + HASHED_ROWS]).data)
    return digest.hexdigest()
