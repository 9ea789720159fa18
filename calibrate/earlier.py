"""What earlier calibrations of a bundle know of its network's accuracy, and samples that do not fit to that."""

import math
from typing import NamedTuple

import numpy as np

from ..bundle import Bundle
from ..errors import DataError, OfframpError
from ..runtime.selection import belongs
from ..units import show_share

FAR_ERRORS = 3.0
"""Standard errors by which two accuracies differ at least, where anything is said."""

FEW_ERRORS = 0.75
"""Accuracy is far above an earlier one if the share of errors is at most so many times the earlier one's."""

__all__ = ["KnownAccuracy", "compare_accuracy", "find_known_accuracy"]


class KnownAccuracy(NamedTuple):
    """The whole network's accuracy by an earlier calibration: the file's name, the share, and of how many samples."""

    name: str
    accuracy: float
    samples: int


def find_known_accuracy(bundle: Bundle) -> KnownAccuracy | None:
    """Return the whole network's accuracy by the calibration in the bundle with the most samples; None if none knows it.

    A mean over groups is another figure than the share of samples, with an error of its own, and is left out.
    """
    known = []
    for path in bundle.calibrations():
        try:
            calibration = bundle.read_calibration(path)
        except OfframpError:
            continue
        accuracy = calibration.point.full_accuracy
        if accuracy is not None and calibration.groups is None and belongs(bundle, calibration):
            known.append(KnownAccuracy(path.name, accuracy, calibration.report_samples))
    return max(known, key=lambda each: each.samples, default=None)


def compare_accuracy(right: np.ndarray, known: KnownAccuracy | None, *, chance: float) -> list[str]:
    """Compare the whole network's accuracy on some samples with what an earlier calibration knew; return notes.

    Args:
        right: bool (N,), which samples the whole network is right on.
        known: what is known.
        chance: the accuracy by chance.

    Raises:
        DataError: of what the network is better than chance, half is missing.
    """
    if known is None:
        return []
    n, accuracy = len(right), float(right.mean())
    pooled = (accuracy * n + known.accuracy * known.samples) / (n + known.samples)
    error = math.sqrt(max(pooled * (1 - pooled), 1 / (n + known.samples)) * (1 / n + 1 / known.samples))
    if abs(accuracy - known.accuracy) <= FAR_ERRORS * error:
        return []
    said = (
        f"The whole network is right on {show_share(accuracy)} of these {n} samples, but {known.name} knows "
        f"{show_share(known.accuracy)} of {known.samples}"
    )
    if accuracy - chance < (known.accuracy - chance) / 2:
        raise DataError(
            f"{said}. Do the labels belong to other samples, or are the samples scaled differently? If both are right, remove "
            f"calibrations/{known.name} from the bundle and calibrate again."
        )
    if accuracy < known.accuracy:
        return [f"{said}: these samples are harder, or some labels are wrong."]
    if 1 - accuracy <= FEW_ERRORS * (1 - known.accuracy):
        return [
            f"{said}. Was the network trained on some of these? Then no figure and no promise here is true of other inputs."
        ]
    return []
