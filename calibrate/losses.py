"""How wrong an answer is, from 0 to 1 for each sample: losses by name, or a function of the user's.

absolute:90              the mean absolute error over 90, at most 1
iou:map                  of the part `map`: 1 - the mean intersection over union of the classes in a sample
f1@0.5:net.py:decode     1 - F1 of the boxes that net.py's function decode makes of an answer
net.py:loss              net.py's function: loss(answer, truth) -> float (N,)
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..errors import DataError, OfframpError, UsageError, quoted, unknown_name
from .user_code import read_callable

__all__ = ["LOSSES", "Answer", "Decode", "Loss", "evaluate", "find_decode", "find_likeliest", "read_loss"]

FEW_CLASSES = 256
"""Classes below this are counted as they are; others, such as 65535 for pixels that nobody labelled, are numbered first."""

Answer = Mapping[str, np.ndarray]
"""The parts of the answers to some samples by name, (N, ...)."""

Loss = Callable[[Answer, Any], Any]
"""From answers, and what is true of the same samples, to losses (N,) in [0, 1]."""

Decode = Callable[[Answer], Sequence[Any]]
"""From answers to the boxes of each sample, float (boxes, 5): left, top, right, bottom, class."""


def zero_one(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """1 if anything differs: of scores (N, classes, ...) the likeliest class counts."""
    return np.asarray(_differing(*_as_classes(ours, truth)).reshape(len(truth), -1).any(1), np.float64)


def hamming(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The share of labels that are wrong (Hamming, 1950); scores above 0 say that a label is there."""
    ours, truth = (labels > 0 if labels.dtype.kind == "f" else labels for labels in (ours, np.asarray(truth)))
    return np.asarray(_differing(ours, truth).reshape(len(truth), -1).mean(1))


def absolute(ours: np.ndarray, truth: np.ndarray, scale: float) -> np.ndarray:
    """The mean absolute error over a scale, at most 1."""
    if ours.shape != np.shape(truth):
        raise ValueError(f"the answers are {ours.shape}, the truth is {np.shape(truth)}")
    far = np.abs(ours.astype(np.float64) - truth).reshape(len(ours), -1).mean(1)
    return np.asarray(np.minimum(far / scale, 1))


def iou(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """1 - the mean over the classes in a sample of intersection over union (Jaccard; Everingham et al., IJCV 88, 2010).

    Maps of scores (N, classes, height, width) are taken at their likeliest class, and maps smaller than the truth are enlarged
    by repeating pixels.
    """
    labels, truth = _as_classes(ours, truth)
    codes = _number_classes(np.stack([_enlarge(labels, truth.shape), truth]))
    classes = int(codes.max(initial=0)) + 1
    losses = np.empty(len(truth))
    for i, (a, b) in enumerate(zip(*codes, strict=True)):
        found, true, both = (np.bincount(part.ravel(), minlength=classes) for part in (a, b, a[a == b]))
        either = found + true - both
        losses[i] = 1 - np.mean(both[either > 0] / either[either > 0])
    return losses


def word_errors(ours: np.ndarray, truth: Sequence[np.ndarray]) -> np.ndarray:
    """The edit distance to the true words over their number, at most 1; words are whole numbers, and those below 0 are blanks."""
    if ours.ndim != 2 or ours.dtype.kind not in "iu":
        raise ValueError(f"words are whole numbers (N, words), not {ours.dtype} {ours.shape}")
    pairs = [(a[a >= 0], b[b >= 0]) for a, b in zip(ours, map(np.asarray, truth), strict=True)]
    return np.array([_edit_distance(a, b) / max(1, len(b)) for a, b in pairs]).clip(0, 1)


def f1(decode: Decode, overlap: float, answer: Answer, truth: "Sequence[np.ndarray] | Answer") -> np.ndarray:
    """1 - F1 of each sample's boxes: one that overlaps a true box of its class by `overlap` (IoU), each used once, is right.

    Args:
        decode: from answers to a list with the boxes of each sample, float (boxes, 5): left, top, right, bottom, class. They
            stand in the order in which they are matched, the surest first.
        overlap: intersection over union.
        answer: the answers.
        truth: the true boxes of each sample, in the same form; or other answers, which are decoded likewise.
    """
    found, truth = decode(answer), decode(truth) if isinstance(truth, Mapping) else truth
    if len(found) != len(truth):
        raise ValueError(f"decode gives the boxes of {len(found)} samples for {len(truth)}")
    return np.array([1 - _f1_of(np.asarray(a), np.asarray(b), overlap) for a, b in zip(found, truth, strict=True)])


LOSSES = ("absolute", "f1@", "hamming", "iou", "word_errors", "zero_one")
"""The names of the losses that are ready; `f1@` is followed by the overlap."""


def read_loss(given: "str | Loss") -> Loss:
    """Return a loss by its name, as this module lists them, or the function that was given.

    Raises:
        UsageError: there is no such loss, or it lacks what it needs.
        MissingError: the file of a function is not there.
    """
    if callable(given):
        return given
    name, _, rest = str(given).partition(":")
    if name.endswith(".py"):
        return read_callable(str(given), "loss")
    if name.startswith("f1@"):
        overlap = _read_number(name.removeprefix("f1@"), str(given))
        if overlap > 1 or not rest:
            raise UsageError(
                f"The loss {given!r:.80} is written f1@0.5:file.py:decode, with a function that makes boxes."
            )
        return partial(f1, read_callable(rest, "function that makes boxes"), overlap)
    part, equals, number = rest.partition("=")
    if name == "absolute":
        if not equals:
            part, number = "", rest
        scale = _read_number(number, str(given))
        return lambda answer, truth: absolute(_pick(answer, part), _pick(truth, part), scale)
    plain: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
        "zero_one": zero_one,
        "hamming": hamming,
        "iou": iou,
        "word_errors": word_errors,
    }
    if name not in plain:
        raise unknown_name("loss", str(given), (*LOSSES, "file.py:function"))
    return lambda answer, truth: plain[name](_pick(answer, rest), _pick(truth, rest))


def find_decode(loss: Loss | None) -> Decode | None:
    """Return the function that makes boxes of answers for a loss; None if it has none."""
    decode: Decode | None = loss.args[0] if isinstance(loss, partial) and loss.func is f1 else None
    return decode


def evaluate(loss: Loss, answer: Answer, truth: Any, numbers: np.ndarray, *, what: str = "loss") -> np.ndarray:
    """Return the losses of some samples, checked.

    Args:
        loss: a function of the user's, or one of these.
        answer, truth: what it takes.
        numbers: the samples' numbers, (N,).
        what: what the function is called.

    Raises:
        DataError: it raises, or gives another number of values, or one that is no number from 0 to 1.
    """
    which = f"of samples {int(numbers[0])} to {int(numbers[-1])}"
    try:
        # Copies, since a function may change its arguments in place, and what comes after it reads them too.
        values = np.asarray(loss(*copy.deepcopy((answer, truth))), np.float64)
    except OfframpError:
        raise
    except (Exception, SystemExit) as error:  # a script may end with sys.exit()
        raise DataError(f"The {what} {which} cannot be computed: {type(error).__name__}: {quoted(error)}") from error
    if values.shape != (len(numbers),):
        raise DataError(
            f"The {what} {which} has the shape {values.shape}; it gives one number per sample, ({len(numbers)},)."
        )
    wrong = ~((values >= -1e-9) & (values <= 1 + 1e-9))  # NaN is neither
    if wrong.any():
        i = int(np.argmax(wrong))
        raise DataError(f"The {what} of sample {int(numbers[i])} is {values[i]:.6g}; it lies between 0 and 1.")
    return values.clip(0, 1)


def _read_number(text: str, given: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"The loss {given!r:.80} has {text!r:.20} where a number above 0 belongs, as in absolute:90.")
    return number


def _pick(values: Any, part: str) -> Any:
    """Return a part of an answer or of what is true; without a name the only one."""
    if not isinstance(values, Mapping):
        return values
    if part:
        if part not in values:
            raise unknown_name("part", part, values)
        return values[part]
    if len(values) != 1:
        raise UsageError(
            f"Which part? There are {', '.join(values)}: write the loss as iou:{next(iter(values), 'map')}."
        )
    return next(iter(values.values()))


def _as_classes(ours: np.ndarray, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return classes: of scores, which have an axis of classes that the truth lacks or both have as floats, the likeliest."""
    truth = np.asarray(truth)
    if ours.ndim == truth.ndim + 1:
        return find_likeliest(ours), truth
    if ours.ndim == truth.ndim > 1 and ours.dtype.kind == truth.dtype.kind == "f":
        return find_likeliest(ours), find_likeliest(truth)
    return ours, truth


def find_likeliest(scores: np.ndarray) -> np.ndarray:
    """Return the likeliest class of scores (N, classes, ...); a single class is there if its score is above 0."""
    return np.asarray(scores.argmax(1) if scores.shape[1] > 1 else scores[:, 0] > 0)


def _number_classes(labels: np.ndarray) -> np.ndarray:
    """Return classes as whole numbers from 0, int64: as they are where they are few, else numbered anew."""
    if labels.dtype.kind in "bui" and labels.size and labels.min() >= 0 and labels.max() < FEW_CLASSES:
        return labels.astype(np.int64)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def _differing(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    if ours.shape != np.shape(truth):
        raise ValueError(f"the answers are {ours.shape}, the truth is {np.shape(truth)}")
    return np.asarray(ours != truth)


def _enlarge(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return maps (N, height, width) at another size, each pixel the one that its middle lies in."""
    if labels.shape == shape:
        return labels
    if labels.ndim != 3 or len(shape) != 3 or len(labels) != shape[0]:
        raise ValueError(f"the maps are {labels.shape}, the truth is {shape}")
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(labels.shape[1:], shape[1:], strict=True)
    )
    return np.asarray(labels[:, rows[:, None], columns[None]])


def _edit_distance(ours: np.ndarray, truth: np.ndarray) -> int:
    """Return the number of words to insert, delete or change (Levenshtein, 1966)."""
    row = list(range(len(truth) + 1))
    for i, word in enumerate(ours.tolist(), 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(truth.tolist(), 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def _f1_of(found: np.ndarray, true: np.ndarray, overlap: float) -> float:
    """Return F1 of one sample's boxes; 1 if there are none and none was found."""
    if not len(found) or not len(true):
        return float(len(found) == len(true))
    overlaps = _overlaps(found, true)
    overlaps[~(overlaps >= overlap) | (found[:, None, 4] != true[:, 4])] = -1
    right = 0
    for i in np.flatnonzero(overlaps.max(1) >= 0):
        best = overlaps[i].argmax()
        if overlaps[i, best] >= 0:
            overlaps[:, best] = -1
            right += 1
    return 2 * right / (len(found) + len(true))


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersection over union of boxes (A, 4 or more) with boxes (B, ...), float (A, B): left, top, right, bottom."""
    a, b = a[:, None], b[None]
    inside = np.maximum(0, np.minimum(a[..., 2:4], b[..., 2:4]) - np.maximum(a[..., :2], b[..., :2])).prod(-1)
    first, second = (np.maximum(0, boxes[..., 2:4] - boxes[..., :2]).prod(-1) for boxes in (a, b))
    both = first + second - inside
    overlaps: np.ndarray = np.divide(inside, both, out=np.zeros(both.shape), where=both > 0)
    return overlaps
