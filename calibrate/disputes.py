"""Which samples' labels can change what a calibration finds: those of which some network says something else than the reference.

What a network loses against the reference on a sample is 0 if both say the same, whatever is true. So no accuracy drop depends on
the labels of other samples.
"""

from collections.abc import Sequence

import numpy as np

from ..runtime import EveryExit
from .labels import UNKNOWN
from .measure.configurations import Answers
from .truth import Truth

__all__ = ["count_labels", "describe_labels", "find_disputed", "rank_disputed"]


def find_disputed(answers: Sequence[Answers], reference: EveryExit) -> np.ndarray:
    """Return which samples get another label than the reference's from any exit or static network, bool (N,)."""
    if reference.answers is not None:  # they are no labels
        return np.zeros(len(reference.label), bool)
    columns = [label for each in answers for label in each.labels]
    return np.asarray((np.hstack(columns) != reference.label).any(axis=1))


def rank_disputed(answers: Sequence[Answers], reference: EveryExit) -> np.ndarray:
    """Return from about which disagreement on a point gives each sample another label, float64 (N,); infinite if none does.

    An exit that lets a sample leave lets all leave of which it is as sure: the share of all samples that differ among them is
    about the disagreement of a point at which this sample leaves there. A static network, or a last exit, lets all leave. Small
    disagreements are those of points that may keep a target, so that they decide a promise.
    """
    least = np.full(len(reference.label), np.inf)
    for each in answers:
        for k, label in enumerate(each.chain.label.T):
            differs = label != reference.label[:, 0]
            is_last = k == each.chain.label.shape[1] - 1
            reached = np.full(len(least), differs.mean()) if is_last else _reach(differs, each.chain.score[:, k])
            least = np.where(differs, np.minimum(least, reached), least)
        for static in each.statics:
            differs = static.label[:, 0] != reference.label[:, 0]
            least = np.where(differs, np.minimum(least, differs.mean()), least)
    return least


def count_labels(y: "np.ndarray | Truth | None", disputed: np.ndarray) -> tuple[int, int] | None:
    """Return how many labels are known, and how many samples are disputed; None if all labels are known, or none is."""
    if not isinstance(y, np.ndarray) or (y != UNKNOWN).all():
        return None
    return int((y != UNKNOWN).sum()), int(disputed.sum())


def describe_labels(y: "np.ndarray | Truth | None", disputed: np.ndarray) -> list[str]:
    """Say what unknown labels leave open."""
    if not isinstance(y, np.ndarray) or (y != UNKNOWN).all():
        return []
    unknown = y == UNKNOWN
    known = int((~unknown).sum())
    said = f"{known} of the {len(y)} labels {'is' if known == 1 else 'are'} known. "
    lacking = int((unknown & disputed).sum())
    if not lacking:
        return [
            f"{said}No other changes a drop or a promise, since there all exits of all variants say the same. "
            "Accuracy itself is not known."
        ]
    return [
        f"{said}Some exit of some variant labels {int(disputed.sum())} of the samples otherwise than the whole network, and "
        f"{lacking} of them {'has' if lacking == 1 else 'have'} no label: wherever networks differ there, the whole network "
        "counts as right. Drops are at most what is said, and promises hold; with more labels more may be promised, which is "
        "another question to these samples."
    ]


def _reach(differs: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the disagreement of an exit that lets all samples leave of which it is as sure as of each, float64 (N,)."""
    falling = np.argsort(-score, kind="stable")
    total = np.cumsum(differs[falling]) / len(differs)
    last = np.searchsorted(-score[falling], -score, side="right") - 1  # equal scores leave together
    return np.asarray(total[last])
