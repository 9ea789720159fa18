"""Samples are checked once, before anything is measured with them."""

from typing import Any

import numpy as np

from ..bundle import Manifest
from ..errors import DataError, UsageError
from ..runtime.chain.samples import Samples, convert_samples

LEAST = 20
"""Samples that calibrating takes whatever the number of classes."""

CHANCE = 1.2
"""So many times as often as by chance the whole network must be right at least."""


def check_labelled(data: tuple[Any, np.ndarray], manifest: Manifest) -> tuple[Samples, np.ndarray]:
    """Return samples in the network's dtypes, the batch axis first, and labels int64 (N,).

    Raises:
        DataError: there are none, shapes or dtypes do not fit, a value is not finite, or a label is not one of the classes.
    """
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


def check_data(data: Any, manifest: Manifest, *, name: str = "data") -> tuple[Samples, np.ndarray | None]:
    """Return samples as `check_labelled` does, and labels, or None where there are none.

    Args:
        data: a pair, (samples, labels) or (samples, None).
        manifest: of the bundle.
        name: what `data` is called in messages.

    Raises:
        UsageError: it is no pair.
        DataError: as for `check_labelled`, or there are too few.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UsageError(f"{name} is a pair: (samples, labels), or (samples, None) without labels.")
    if data[1] is None:
        x, y = convert_samples(data[0], manifest.inputs), None
    else:
        x, y = check_labelled((data[0], data[1]), manifest)
    needed = max(LEAST, manifest.classes)
    if len(x) < needed:
        raise DataError(
            f"There are {len(x)} samples in {name}; calibrating takes at least {needed}, and some thousands to be precise."
        )
    return x, y


def check_classes(y: np.ndarray) -> None:
    """Refuse labels of one class alone."""
    if len(np.unique(y)) == 1:
        raise DataError(
            f"All {len(y)} labels are class {y[0]}: samples of every class are needed, as the product meets them."
        )


def check_labels(y: np.ndarray, said: np.ndarray, classes: int) -> None:
    """Refuse labels that the network knows no better than by chance."""
    right, chance = float((said == y).mean()), 1 / classes
    # Few samples may be right too seldom by bad luck: two standard deviations.
    if right + 2 * (chance * (1 - chance) / len(y)) ** 0.5 <= CHANCE * chance:
        raise DataError(
            f"The whole network is right on {right:.1%} of the samples, no better than chance among {classes} classes. Are the "
            "labels those of another set, or in another order (as folders are sorted), or the samples scaled differently than in "
            "training?"
        )
