"""Samples and labels, checked once before anything is measured with them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from ..bundle import Manifest, Target
from ..errors import DataError, UsageError
from ..runtime.chain.samples import Samples, convert_samples, hash_each, to_array
from ..units import show_share
from .truth import Truth, check_truth

__all__ = [
    "LEAST_SAMPLES",
    "UNKNOWN",
    "SampleSet",
    "chance_of_agreement",
    "check_asked_labels",
    "check_classes",
    "check_data",
    "check_known",
    "check_label_form",
    "check_labelled",
    "check_labels",
    "check_test_data",
    "compare_with_commonest",
    "hash_samples",
    "hash_set",
    "settle_labels",
]

HOW_TO_READ = "load_samples makes one of a file, a folder, a dataset or a loader."

UNKNOWN = -1
"""The label of a sample whose label nobody knows."""

LEAST_SAMPLES = 20
"""Samples that calibrating takes, however few classes there are."""

LEAST_ASKED = 50
"""Fewer labels of samples on which networks differ tell nothing about whose they are."""

CHANCE_ERRORS = 2.33
"""The network must be right more often than by chance, by at least so many standard errors: by luck alone once in a hundred."""


class SampleSet(Struct, frozen=True):
    """Samples that were checked.

    Attributes:
        x: the samples, in the network's dtypes.
        y: labels, int64 (N,), `UNKNOWN` where they are; or what is true of samples whose network does not classify; or None.
        hashes: of each sample, uint64 (N,): copies have the same.
        sha256: of all samples.
    """

    x: Samples
    y: "np.ndarray | Truth | None"
    hashes: np.ndarray
    sha256: str

    def __len__(self) -> int:
        return len(self.x)

    @property
    def has_unknown(self) -> bool:
        """True if some labels are known and some are not."""
        return isinstance(self.y, np.ndarray) and bool((self.y == UNKNOWN).any())

    def rows(self, rows: np.ndarray) -> "SampleSet":
        """Return some of the samples."""
        x, hashes = self.x[rows], self.hashes[rows]
        return SampleSet(x, None if self.y is None else self.y[rows], hashes, _hash_all(x, hashes))


def check_labelled(
    data: tuple[Any, np.ndarray], manifest: Manifest, *, may_lack: bool = False
) -> tuple[Samples, np.ndarray]:
    """Return samples in the network's dtypes, the batch axis first, and labels int64 (N,), which may be `UNKNOWN` if so told.

    Raises:
        UsageError: `data` is no pair.
        DataError: there are none, shapes or dtypes do not fit, a value is not finite, or a label is not one of the classes.
    """
    if not manifest.classes:
        raise UsageError(
            f"The network answers with {', '.join(manifest.answer)}, not with labels. calibrate() measures it by a loss; this is "
            "for networks that classify."
        )
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UsageError(f"The samples are given with their labels, as a pair: (samples, labels). {HOW_TO_READ}")
    x, y = convert_samples(data[0], manifest.inputs), to_array(data[1])
    check_label_form(y, len(x))
    wrong = (y < (UNKNOWN if may_lack else 0)) | (y >= manifest.classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        if y[row] == UNKNOWN:
            raise DataError(f"The label of sample {row} is unknown (-1): only calibrate() does without some labels.")
        raise DataError(
            f"Label {y[row]} of sample {row} is not one of the network's classes, 0 to {manifest.classes - 1}."
            f"{_advise_labels(y, manifest.classes)}"
        )
    return x, y.astype(np.int64)


def check_label_form(y: np.ndarray, samples: int, *, name: str | None = None) -> None:
    """Refuse labels that are not one whole number for each sample, and say what makes them so.

    Args:
        y: labels, (N,).
        samples: how many samples there are.
        name: what has both, in messages.

    Raises:
        DataError: the shape or the dtype is another.
    """
    if y.shape != (samples,):
        advice = ""
        if y.shape == (samples, 1):
            advice = " Give y[:, 0]."
        elif y.ndim == 2 and len(y) == samples and (y.sum(axis=1) == 1).all() and np.isin(y, (0, 1)).all():
            advice = " These are one-hot: give y.argmax(axis=1)."
        raise DataError(
            f"{name or 'data'} has {samples} samples but labels of shape {y.shape}: one label per sample is needed.{advice}"
        )
    if y.dtype.kind not in "iu":
        is_whole = y.dtype.kind in "fb" and np.isfinite(y).all() and (y == np.trunc(y)).all()
        advice = " Give y.astype(np.int64)." if is_whole else ""
        of = f" of {name}" if name else ""
        raise DataError(f"The labels{of} are {y.dtype}; they must be whole numbers, the index of the class.{advice}")


def _advise_labels(y: np.ndarray, classes: int) -> str:
    """Return what makes labels that are out of range fit; empty if nothing obvious does."""
    if y.min() == 1 and y.max() == classes:
        return f" The labels run from 1 to {classes}: counted from 0 they are y - 1."
    if (count := len(np.unique(y))) > classes:
        return f" There are {count} different labels: does the bundle belong to other data?"
    return ""


def check_test_data(data: tuple[Any, Any], manifest: Manifest) -> "tuple[Samples, np.ndarray | Truth]":
    """Return samples in the network's dtypes, and labels int64 (N,), or what is true of them if the network does not classify.

    Raises:
        UsageError, DataError: as for `check_labelled` and `check_data`, or the truth is not known.
    """
    if manifest.classes:
        return check_labelled(data, manifest)
    samples = check_data(data, manifest)
    if not isinstance(samples.y, Truth):
        raise UsageError("The samples come without the truth, so nothing tells how wrong answers are.")
    return samples.x, samples.y


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
    y: np.ndarray | Truth | None = None
    if data[1] is None or not manifest.classes:
        x = convert_samples(data[0], manifest.inputs)
        y = None if data[1] is None else check_truth(data[1], len(x))
    else:
        x, y = check_labelled((data[0], data[1]), manifest, may_lack=True)
        y = None if len(y) and (y == UNKNOWN).all() else y
    needed = max(LEAST_SAMPLES, manifest.classes)
    if len(x) < needed:
        raise DataError(
            f"There are {len(x)} samples in {name}; calibrating takes at least {needed}, and some thousands to be precise."
        )
    samples = hash_set(x, y)
    if (distinct := len(np.unique(samples.hashes))) < needed:
        raise DataError(
            f"Only {distinct} of the {len(x)} samples in {name} differ; calibrating takes at least {needed}."
        )
    return samples


def check_classes(y: np.ndarray) -> None:
    """Refuse labels of a single class."""
    if len(np.unique(y)) == 1:
        raise DataError(
            f"All {len(y)} labels are class {y[0]}: samples of every class are needed, as the product meets them."
        )


def check_labels(y: np.ndarray, answers: np.ndarray, classes: int) -> None:
    """Refuse labels that the network's answers match no better than by chance.

    By chance means: as often as if the same labels were dealt to other samples, so that a network that always answers the
    commonest class is right by chance, however common that is; labels of a single class tell nothing. The standard error is that
    of Cohen's kappa without agreement (Fleiss, Cohen and Everitt, Psychological Bulletin 72, 1969).

    Args:
        y: labels, int64 (N,).
        answers: the whole network's, (N,).
        classes: how many classes there are.

    Raises:
        DataError: the answers match no better than by chance.
    """
    n, right = len(y), float((answers == y).mean())
    labelled, answered = _class_shares(y, classes), _class_shares(answers, classes)
    chance = chance_of_agreement(y, answers, classes)
    spread = chance + chance**2 - float((labelled * answered) @ (labelled + answered))
    if labelled.max() < 1 and right - chance <= CHANCE_ERRORS * (max(0.0, spread) / n) ** 0.5:
        raise DataError(
            f"The whole network is right on {right:.1%} of the samples, no better than chance among {classes} "
            "classes: with shuffled "
            f"labels it would be right on {chance:.1%}. Do the labels belong to another set, or to other samples of "
            "it? Are they in "
            "another order (as folders are sorted)? Are the samples scaled differently than in training?"
        )


def check_asked_labels(y: np.ndarray, answers: np.ndarray, classes: int) -> None:
    """Refuse labels that are among a sample's answers no more often than by chance, where only some labels are known.

    People are asked for the labels of samples of which networks say different things, so that one network alone may well be wrong
    there. By chance means, as in `check_labels`: if the same labels were dealt to other samples. Few labels tell nothing, nor do
    two classes.

    Args:
        y: labels, int64 (N,), `UNKNOWN` where they are.
        answers: of every exit of all networks, (N, answers).
        classes: how many classes there are.

    Raises:
        DataError: the labels match no better than by chance.
    """
    known = np.flatnonzero(y != UNKNOWN)
    said = np.zeros((len(known), classes), bool)
    said[np.arange(len(known))[:, None], answers[known]] = True
    found = float(said[np.arange(len(known)), y[known]].mean())
    chance = float((said @ _class_shares(y[known], classes)).mean())
    error = (chance * (1 - chance) / len(known)) ** 0.5
    if len(known) >= LEAST_ASKED and chance < 0.5 and found - chance <= CHANCE_ERRORS * error:
        raise DataError(
            f"Of {len(known)} labels {found:.1%} are what any exit says of their samples, no more than if they were shuffled "
            f"({chance:.1%}). Do they belong to other samples, or are classes counted in another order?"
        )


def settle_labels(y: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return labels where each unknown one is the reference's: the worst case for whoever says something else.

    What a network loses against the reference on a sample is 1, 0 or -1 whatever its label, and 0 if it says the same; with this
    label it is 1 if it says something else. So losses are exact where labels are known wherever networks differ, and else too
    high: the test of a drop, which fails more easily the more is lost, still keeps its chance of error.
    """
    return np.where(y == UNKNOWN, reference, y)


def compare_with_commonest(y: np.ndarray, answers: np.ndarray) -> list[str]:
    """Return a note if the network is not surely right more often than an answer that is always the commonest class."""
    commonest = int(np.bincount(y).argmax())
    gained = int(((answers == y) & (y != commonest)).sum())
    missed = int(((answers != y) & (y == commonest)).sum())
    if gained - missed > CHANCE_ERRORS * (gained + missed) ** 0.5:
        return []
    return [
        f"The whole network is right on {show_share(float((answers == y).mean()))} of the samples; always answering class "
        f"{commonest}, the commonest, would be right on {show_share(float((y == commonest).mean()))}. Do all labels "
        "belong to these "
        "samples?"
    ]


def chance_of_agreement(y: np.ndarray, answers: np.ndarray, classes: int) -> float:
    """Return how often answers are right by chance: if the labels were dealt to other samples."""
    return float(_class_shares(y, classes) @ _class_shares(answers, classes))


def _class_shares(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels[(labels >= 0) & (labels < classes)], minlength=classes) / len(labels)


def hash_set(x: Samples, y: "np.ndarray | Truth | None") -> SampleSet:
    """Hash samples that were checked."""
    hashes = hash_each(x)
    return SampleSet(x, y, hashes, _hash_all(x, hashes))


def hash_samples(x: Samples) -> str:
    """Return the sha256 of samples: their dtypes, shapes and hashes."""
    return _hash_all(x, hash_each(x))


def _hash_all(x: Samples, hashes: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in x.arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(hashes.astype("<u8").tobytes())
    return digest.hexdigest()


def check_known(samples: SampleSet, targets: Mapping[str, Target], *, name: str = "data") -> None:
    """Refuse limits of accuracy itself if labels are unknown.

    Raises:
        UsageError: a target has such a limit.
    """
    if not samples.has_unknown or not isinstance(samples.y, np.ndarray):
        return
    for target in targets.values():
        if limited := [limit for limit in ("min_accuracy", "max_loss") if limit in target.limits]:
            raise UsageError(
                f"{limited[0]} needs every label, and {int((samples.y == UNKNOWN).sum())} of the {len(samples)} in {name} are "
                "unknown (-1): limit max_drop instead, which needs them only where networks differ, or give all labels."
            )
