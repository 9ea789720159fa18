"""What a chain refuses: thresholds out of range, answers that no exit gives, samples and stages that an engine cannot run."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import numpy as np

from ...bundle.manifest import NEVER
from ...errors import BundleError, DataError, MissingError, OfframpError, UsageError
from ..engines import lacks_memory

__all__ = [
    "LEAST_SCORE",
    "MOST_SCORE",
    "Where",
    "are_answers",
    "check_answers",
    "check_thresholds",
    "errors_located",
    "raise_explained",
    "refuse_answer",
]

Where = tuple[str | None, str]
"""A stage's device and its file: ("cuda:0", "stage1.onnx")."""

LEAST_SCORE, MOST_SCORE = -0.02, 1.02
"""Scores run from 0 to 1. Half precision may lead so far beyond."""

MOST_CHARACTERS = 400
"""Of an engine's message so many are shown."""


def check_thresholds(values: Sequence[float] | np.ndarray, exits: int) -> tuple[float, ...]:
    """Return thresholds rounded to float32, as scores are.

    Raises:
        UsageError: these are no numbers, there are more or fewer than exits before the last, or one is out of range.
    """
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(())
    if numbers.ndim != 1:
        raise UsageError(
            f"Thresholds are a sequence of numbers, one per exit but the last, such as (0.9, 0.8), not {values!r:.60}."
        )
    if exits == 1 and len(numbers):
        raise UsageError(
            "This is a static network: it has one exit and takes no threshold. For early exit load the chain, by a point that "
            "has it, such as balanced-early, or by load_uncalibrated()."
        )
    if len(numbers) != exits - 1:
        raise UsageError(f"{exits} exits take {exits - 1} thresholds, not {len(numbers)}.")
    if not all(0 <= value <= NEVER for value in numbers):
        raise UsageError(f"Thresholds lie between 0 and 2.0 (never), not {numbers.tolist()}.")
    return tuple(float(np.float32(value)) for value in numbers)


@contextlib.contextmanager
def errors_located(where: Where) -> Iterator[None]:
    """Let an error of a device or a stage's file say which they are."""
    try:
        yield
    except (BundleError, MissingError) as error:
        error.device, error.stage = where
        raise


def raise_explained(
    error: Exception, where: Where, *, samples: int, has_lengths: bool, try_zeros: Callable[[], bool]
) -> NoReturn:
    """Raise the error for samples that an engine cannot run. Engines raise various types, which nobody can catch by name.

    Args:
        error: what the engine raised.
        where: the stage that it was raised in.
        samples: how many samples went through the stage at once.
        has_lengths: whether an input has named axes, whose lengths the samples choose.
        try_zeros: runs as many samples of zeros, of the same shape, through the chain to that stage; returns whether that went
            well. Then the values are to blame, else the shape or the stage itself.
    """
    device, stage = where
    if isinstance(error, MissingError):
        error.device, error.stage = where
    if isinstance(error, OfframpError):
        raise error
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("Exception from")]
    line = (lines or [type(error).__name__])[0][:MOST_CHARACTERS]
    kind: type[OfframpError] = DataError
    cannot = f"The engine cannot run {'this sample' if samples == 1 else f'{samples} samples at once'}: {line}"
    if lacks_memory(error):
        kind, words = MissingError, f"Memory ran out in {stage}: {line}"
    elif try_zeros():
        words = f"{cannot} It can run zeros of the same shape: is a value out of range?"
    elif has_lengths:
        words = f"{cannot} Nor can it run zeros of the same shape: is a sequence too short or long?"
    else:
        fixed = "" if samples == 1 else ", or its batch is fixed"
        kind = BundleError
        words = (
            f"{stage} cannot run {'any sample' if samples == 1 else f'{samples} samples at once'}, not even zeros: {line} "
            f"It does not fit the manifest{fixed}, or the engine fails. Run: offramp verify"
        )
    raise kind(words, device=device, stage=stage) from error


def are_answers(label: np.ndarray, score: np.ndarray, classes: int) -> np.ndarray:
    """Return for each label and score whether an exit of a network with so many classes can give them.

    A network with 0 classes does not classify, and its labels mean nothing.
    """
    is_score = (score >= LEAST_SCORE) & (score <= MOST_SCORE)
    return is_score & (label >= 0) & (label < classes) if classes else is_score


def check_answers(
    is_right: np.ndarray, label: np.ndarray, score: np.ndarray, classes: int, where: Callable[[tuple[int, ...]], Where]
) -> None:
    """Refuse the first answer of a batch that is not right.

    Args:
        is_right, label, score: (N, ...).
        classes: the network's number of classes.
        where: returns the stage that gave an answer, by the answer's index.

    Raises:
        DataError, BundleError: as `refuse_answer`.
    """
    if not is_right.all():
        index = tuple(int(i) for i in np.argwhere(~is_right)[0])
        refuse_answer(int(label[index]), float(score[index]), classes, where(index), row=index[0])


def refuse_answer(label: int, score: float, classes: int, where: Where, *, row: int | None = None) -> NoReturn:
    """Refuse a label or a score that no exit gives; `row` is the number of the sample in its batch.

    Raises:
        DataError: the score is not a number.
        BundleError: the score is not from 0 to 1, or there is no such label.
    """
    device, stage = where
    which = "the sample" if row is None else f"sample {row}"
    if score != score:
        raise DataError(
            f"The network's answer to {which} is not a number, though every value of the sample is finite: weights that are NaN, "
            "a division by zero or an overflow within the network make it so.",
            device=device,
            stage=stage,
        )
    if not classes:
        label_words, range_words = f"score {score:.4g}", "scores run"
    else:
        label_words = f"label {label} and score {score:.4g}"
        range_words = f"labels run from 0 to {classes - 1} and scores"
    raise BundleError(
        f"{stage} answers {which} with {label_words}, but {range_words} from 0 to 1. The file is not what was exported, the "
        "engine computes it wrongly, or a gate of the network itself leaves that range. Run: offramp verify",
        device=device,
        stage=stage,
    )
