"""Easy and hard samples of a network that does not classify: how wrong their answers are, and what they look like."""

from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from ...bundle import Manifest
from ...runtime import Net
from ...runtime.chain.samples import Samples
from ..losses import Decode
from ..truth import Truth
from .answer_pictures import COLOURS, AnswerPainter, View

__all__ = ["AnswerExamples", "Outcomes", "find_answer_examples"]

MOST_SHOWN = 5
"""Samples of a group that are shown; each has up to four pictures."""


MOST_NUMBERS_DRAWN = 300
"""Samples whose answers are drawn if these are one number."""


class Outcomes(Struct, frozen=True):
    """What became of some samples.

    Attributes:
        exit: where each left, int64 (N,).
        score, loss: those of that exit, float (N,).
        last_loss: that of the last exit, float (N,).
        differs: how far that exit's answer is from the whole network's; without a measure of it, how far the losses differ.
    """

    exit: np.ndarray
    score: np.ndarray
    loss: np.ndarray
    last_loss: np.ndarray
    differs: np.ndarray


class AnsweredExample(Struct, frozen=True):
    """One sample: its number from 0, what `Outcomes` says of it, and its answers and the truth as pictures or text."""

    sample: int
    exit: int
    score: float
    loss: float
    last_loss: float
    differs: float
    views: tuple[View, ...]


class AnsweredGroup(Struct, frozen=True):
    """Samples that have something in common: a title that says what, their number, and the samples that are shown."""

    title: str
    samples: int
    shown: tuple[AnsweredExample, ...]


class AnsweredNumbers(Struct, frozen=True, kw_only=True):
    """Answers that are one number, of some samples drawn at random.

    Attributes:
        name: of the part that is this number.
        truth: what is true.
        answer, exit: what was answered, and at which exit.
    """

    name: str
    truth: tuple[float, ...]
    answer: tuple[float, ...]
    exit: tuple[int, ...]


class AnswerExamples(Struct, frozen=True):
    """Groups of samples, the colours of the classes in their pictures, and answers that are one number; None if they are not."""

    groups: tuple[AnsweredGroup, ...]
    colours: dict[int, str]
    numbers: AnsweredNumbers | None = None


def find_answer_examples(
    net: Net,
    x: Samples,
    y: Truth,
    outcomes: Outcomes,
    manifest: Manifest,
    *,
    decode: Decode | None,
    rng: np.random.Generator,
) -> AnswerExamples:
    """Return easy samples, hard ones, and those to which an early exit and the last one give other answers.

    Args:
        net: gives every exit's answers.
        x, y: the samples and what is true of them.
        outcomes: of the samples.
        manifest: of the bundle.
        decode: makes boxes of answers; None if the loss has none.
        rng: draws the samples to show if no order says which.

    Raises:
        MissingError: Pillow is not installed.
    """
    painter, last = AnswerPainter(x.arrays, manifest, decode), len(net.exits) - 1

    def show(i: int) -> AnsweredExample:
        rows = np.array([i])
        answers, exit_ = net.every_exit(x[rows]).answers or (), int(outcomes.exit[i])
        titled = {f"exit {k}": answers[k] for k in dict.fromkeys((exit_, last))}
        return AnsweredExample(
            sample=i,
            exit=exit_,
            score=float(outcomes.score[i]),
            loss=float(outcomes.loss[i]),
            last_loss=float(outcomes.last_loss[i]),
            differs=float(outcomes.differs[i]),
            views=painter.view(i, titled, y[rows].read()),
        )

    groups = tuple(
        AnsweredGroup(title, len(order), tuple(show(int(i)) for i in order[:MOST_SHOWN]))
        for title, order in _group(outcomes, last, rng)
    )
    drawn = sorted(painter.classes)[: len(COLOURS)]
    colours = {kind: COLOURS[kind % len(COLOURS)] for kind in drawn}
    return AnswerExamples(groups, colours, _find_numbers(net, x, y, outcomes.exit, rng))


def _find_numbers(
    net: Net, x: Samples, y: Truth, exits: np.ndarray, rng: np.random.Generator
) -> AnsweredNumbers | None:
    """Return answers and truth of some samples if the first part of an answer is one real number, and its truth too."""
    rows = np.sort(rng.permutation(len(exits))[:MOST_NUMBERS_DRAWN])
    first = next(iter((net.every_exit(x[rows[:1]]).answers or ())[0].values()))
    if first.size != 1:  # all others are not asked for, which may be large
        return None
    answers, truth = net.every_exit(x[rows]).answers or (), y[rows].read()
    name = next(iter(answers[0]))
    true = truth.get(name) if isinstance(truth, dict) else truth
    parts = [np.asarray(each[name]) for each in answers]
    if not isinstance(true, np.ndarray) or any(
        part.size != len(rows) or part.dtype.kind != "f" for part in (*parts, true)
    ):
        return None
    answered = np.stack([part.reshape(-1) for part in parts], 1)[np.arange(len(rows)), exits[rows]]
    return AnsweredNumbers(
        name=name,
        truth=tuple(true.reshape(-1).tolist()),
        answer=tuple(answered.tolist()),
        exit=tuple(exits[rows].tolist()),
    )


def _group(outcomes: Outcomes, last: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each group's title and its samples; the samples to be shown come first."""
    first = int(outcomes.exit.min())
    if first < last:
        yield f"Easy: leaves at exit {first}", rng.permutation(np.flatnonzero(outcomes.exit == first))
    yield f"Hard: goes to the end, exit {last}", rng.permutation(np.flatnonzero(outcomes.exit == last))
    early = np.flatnonzero((outcomes.exit < last) & (outcomes.differs > 0))
    order = early[np.argsort(-outcomes.differs[early], kind="stable")]
    yield f"Leaves early, and exit {last} answers otherwise: the furthest apart first", order
