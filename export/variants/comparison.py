"""`compare_variants`: how much a compressed variant differs from its parent."""

import os
from typing import Any

import numpy as np
from msgspec import Struct

from ...bundle import Bundle, opened
from ...runtime.chain.results import EveryExit
from ...runtime.chain.samples import convert_samples
from ...runtime.loading import load_uncalibrated

__all__ = ["Shift", "compare_variants"]

ALIKE = 0.01
"""Answers are alike if their values differ in the mean by at most this share of the largest, or so many whole numbers differ."""


class Shift(Struct, frozen=True, kw_only=True):
    """What compression changed at one exit, on the samples that were compared.

    Attributes:
        exit: the exit's number.
        accuracy: the share of right labels of the new variant; None if the samples have no labels.
        parent_accuracy: the share of right labels of its parent; None if the samples have no labels.
        alike: the share of samples that get the same label from both. Of a network that does not classify, the share of samples
            whose answers differ in the mean by at most 1 % of the largest value, or in at most 1 % of their whole numbers, in
            every part.
        score_shift: the mean score minus the parent's mean score. If it is far from 0, thresholds found for the parent do not
            fit the new variant.

    Example:
        >>> from offramp.export import Shift
        >>> shift = Shift(exit=0, accuracy=0.91, parent_accuracy=0.92, alike=0.98, score_shift=-0.004)
        >>> f"exit {shift.exit} loses {shift.parent_accuracy - shift.accuracy:.1%}"
        'exit 0 loses 1.0%'
    """

    exit: int
    accuracy: float | None
    parent_accuracy: float | None
    alike: float
    score_shift: float


def compare_variants(
    bundle: str | os.PathLike[str] | Bundle, name: str, parent: str, samples: Any, labels: np.ndarray | None = None
) -> tuple[Shift, ...]:
    """Run samples through all exits of two variants, with ONNX Runtime on this machine's processor, and compare the answers.

    Args:
        bundle: the bundle's folder, or a bundle already opened.
        name: the new variant.
        parent: the variant it is compared with; both have the same exits.
        samples: samples as the network takes them: an array (N, ...), for several inputs a tuple or a dict of them.
        labels: whole numbers (N,), or None; none for a network that does not classify.

    Returns:
        One `Shift` per exit, shallowest first.

    Raises:
        UsageError: there is no such variant.
        DataError: the samples do not fit the network.

    Example:
        >>> import numpy as np
        >>> from offramp.export import compare_variants
        >>> test = np.load("test.npz")
        >>> shifts = compare_variants("digits.offramp", "int8", "fp32", test["x"], test["y"])
        >>> [shift.alike > 0.8 for shift in shifts]
        [True, True, True]
    """
    bundle = opened(bundle)
    converted = convert_samples(samples, bundle.manifest.inputs)
    answers = []
    for variant in (name, parent):
        with load_uncalibrated(bundle, variant=variant) as net:
            answers.append(net.every_exit(converted))
    ours, theirs = answers
    return tuple(_compare_exit(k, ours, theirs, labels) for k in range(ours.label.shape[1]))


def _compare_exit(k: int, ours: EveryExit, theirs: EveryExit, labels: np.ndarray | None) -> Shift:
    """Compare the answers of two variants at one exit."""
    accuracies = [None if labels is None else float((each.label[:, k] == labels).mean()) for each in (ours, theirs)]
    return Shift(
        exit=k,
        accuracy=accuracies[0],
        parent_accuracy=accuracies[1],
        alike=float(_are_alike(ours, theirs, k).mean()),
        score_shift=float(ours.score[:, k].mean(dtype=np.float64) - theirs.score[:, k].mean(dtype=np.float64)),
    )


def _are_alike(ours: EveryExit, theirs: EveryExit, k: int) -> np.ndarray:
    """Return for each sample whether two variants answer alike at exit k."""
    alike: np.ndarray = ours.label[:, k] == theirs.label[:, k]
    for part, values in theirs.answers[k].items() if theirs.answers else ():
        if not values.size:
            continue
        mine, is_float = ours.parts(k)[part], values.dtype.kind == "f"
        far = np.abs(mine.astype(np.float64) - values) if is_float else mine != values
        largest = max(float(np.abs(values).max()), 1e-30) if is_float else 1.0
        alike &= far.reshape(len(values), -1).mean(1) <= ALIKE * largest
    return alike
