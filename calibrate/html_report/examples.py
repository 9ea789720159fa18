"""Easy and hard samples: examples that leave at each exit, and examples on which early exits and the last exit differ."""

from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from ...bundle import Manifest
from ...runtime import EveryExit
from .input_pictures import InputPainter

MOST_IN_GROUP, MOST_PICTURES = 8, 96
"""Pictures in one group, and in the whole report; a group shows at least three all the same."""


class Example(Struct, frozen=True):
    """One sample.

    Attributes:
        sample: its number from 0.
        label: its label.
        exit: the exit at which it left.
        said, last_said: what that exit and the last exit answered.
        score: the score of the exit at which it left.
        picture: the sample as a PNG; None if it is neither an image nor a signal.
        text: what stands there without a picture.
    """

    sample: int
    label: int
    exit: int
    said: int
    score: float
    last_said: int
    picture: bytes | None
    text: str = ""


class Group(Struct, frozen=True):
    """Samples that have something in common: a title that says what, their number, and the samples that are shown."""

    title: str
    samples: int
    shown: tuple[Example, ...]


class _Answers(Struct, frozen=True):
    """Arrays (N,): labels, the exit at which each sample leaves, that exit's answer and score, and the last exit's answer."""

    label: np.ndarray
    exit: np.ndarray
    answer: np.ndarray
    score: np.ndarray
    last_answer: np.ndarray


def find_examples(
    arrays: Sequence[np.ndarray],
    y: np.ndarray,
    every: EveryExit,
    taken: np.ndarray,
    manifest: Manifest,
    *,
    rng: np.random.Generator,
) -> tuple[Group, ...]:
    """Return examples of the samples that leave at each exit.

    Args:
        arrays: what the network takes, (N, ...) each.
        y: labels, int64 (N,).
        every: what every exit answers to them.
        taken: the exit at which each sample leaves, int64 (N,).
        manifest: of the bundle.
        rng: draws the samples to show if no order says which.

    Raises:
        MissingError: Pillow is not installed.
    """
    painter = InputPainter(arrays, manifest)
    rows = np.arange(len(y))
    exits = every.score.shape[1]
    most = max(3, min(MOST_IN_GROUP, MOST_PICTURES // (2 * exits + 2)))
    answers = _Answers(y, taken, every.label[rows, taken], every.score[rows, taken], every.label[:, -1])
    groups = list(_group(answers, exits=exits, most=most, rng=rng))

    def show(i: int) -> Example:
        return Example(
            sample=i,
            label=int(y[i]),
            exit=int(taken[i]),
            said=int(answers.answer[i]),
            score=float(answers.score[i]),
            last_said=int(answers.last_answer[i]),
            picture=painter.paint(i),
            text=painter.describe(i),
        )

    return tuple(Group(title, len(order), tuple(show(int(i)) for i in order[:most])) for title, order in groups)


def _group(answers: _Answers, *, exits: int, most: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each group's title and its samples; the samples to be shown come first."""
    for k in range(exits):
        leaving = np.flatnonzero(answers.exit == k)
        order = leaving[np.argsort(answers.score[leaving], kind="stable")]
        title = f"Leaves at exit {k}" if k < exits - 1 else f"Goes to the end, exit {k}"
        if len(leaving) <= most:
            yield f"{title}: from the surest to the least sure", order[::-1]
        else:
            yield f"{title}: the surest", order[::-1]
            yield f"{title}: the least sure", order
    early = answers.exit < exits - 1
    right, last_right = answers.answer == answers.label, answers.last_answer == answers.label
    for title, differing in (
        ("An early exit is right where the last one is wrong", early & right & ~last_right),
        ("An early exit is wrong where the last one is right", early & ~right & last_right),
    ):
        yield title, rng.permutation(np.flatnonzero(differing))
