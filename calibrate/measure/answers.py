"""The answers of every exit of the deployed engines to every sample; a calibration that was killed records none twice."""

import io
from time import monotonic, perf_counter

import numpy as np

from ...errors import DataError, OfframpError
from ...progress import Progress
from ...runtime import EveryExit, Net
from ...runtime.chain.samples import Samples
from .resume import Part, Resume

__all__ = ["record_answers"]

SAMPLES_AT_ONCE = 100
"""Samples that are recorded between two looks at the clock."""

SIZES = 4, 16
"""Batch sizes that are tried beside single samples."""

TRIED_SAMPLES = 48
"""Samples that batch sizes are tried on, and samples whose answers are compared with single ones."""

LEAST_SAMPLES = 10 * TRIED_SAMPLES
"""With fewer samples a trial costs more than it saves."""


def record_answers(
    net: Net,
    x: Samples,
    *,
    progress: Progress,
    resume: Resume | None = None,
    part: Part | None = None,
    save_s: float = 10.0,
    like: EveryExit | None = None,
) -> EveryExit:
    """Return what every exit answers to every sample.

    A product asks for one sample at a time. Samples go through in batches where that is faster and gives the same answers, bit by
    bit, on the samples that are compared: the first 48 before, and afterwards about 48 of which an exit was least sure.

    Args:
        net: the chain, or a static network.
        x: the samples.
        progress: is told after each hundred samples.
        resume, part: answers recorded so far are stored in `resume` under the name `part`, and those of an earlier run are taken
            from there; None stores nothing.
        save_s: seconds between two saves. Recordings shorter than a tenth of this are not stored: they spare the disk.
        like: answers of another network, which are returned if this one gives exactly the same where it is looked at.

    Raises:
        DataError: a score is not a number.
    """
    stored = None if resume is None or part is None else resume.load(part)
    if like is not None and stored is None and len(x) >= LEAST_SAMPLES and _answers_so(net, x, like):
        progress("recording", len(x), len(x))
        return like
    label, score = np.empty((len(x), len(net.exits)), np.int64), np.empty((len(x), len(net.exits)), np.float32)
    done = _restore(stored, label, score)
    size = _find_fastest(net, x) if len(x) - done >= LEAST_SAMPLES else 1
    last_save_s = monotonic()
    for first in range(done, len(x), SAMPLES_AT_ONCE):
        rows = slice(first, min(first + SAMPLES_AT_ONCE, len(x)))
        try:
            answers = net.every_exit(x[rows], size=size)
        except DataError as error:
            raise DataError(f"Counted from sample {first} on: {error}") from error
        label[rows], score[rows] = answers.label, answers.score
        progress("recording", rows.stop, len(x))
        if (
            resume is not None
            and part is not None
            and monotonic() - last_save_s > save_s / (10 if rows.stop == len(x) else 1)
        ):
            resume.save(part, _dump(label[: rows.stop], score[: rows.stop]))
            last_save_s = monotonic()
    answers = EveryExit(label, score)
    if len(x) >= LEAST_SAMPLES and not _answers_so(net, x, answers):  # in batches, now or in an earlier run
        answers = net.every_exit(x)
    return answers


def _find_fastest(net: Net, x: Samples) -> int:
    """Return the batch size that is fastest among those whose answers to the first samples equal the single ones."""
    sample, fastest, least_s = x[:TRIED_SAMPLES], 1, np.inf
    try:
        alone = net.every_exit(sample)
        for size in (1, *SIZES):
            net.every_exit(x[:size], size=size)  # the first call allocates
            start = perf_counter()
            answers = net.every_exit(sample, size=size)
            spent_s = perf_counter() - start
            if spent_s < least_s and _are_equal(answers, alone):
                fastest, least_s = size, spent_s
    except OfframpError:  # of a sample, which recording names; or the stage takes no batch
        pass
    return fastest


def _answers_so(net: Net, x: Samples, answers: EveryExit) -> bool:
    """Return True if a network gives these answers to samples alone: to those of which each exit was least sure."""
    each = max(4, TRIED_SAMPLES // answers.score.shape[1])
    rows = np.unique(np.argsort(answers.score, axis=0)[:each])
    return _are_equal(net.every_exit(x[rows]), EveryExit(answers.label[rows], answers.score[rows]))


def _are_equal(one: EveryExit, other: EveryExit) -> bool:
    return np.array_equal(one.label, other.label) and np.array_equal(one.score, other.score)


def _dump(label: np.ndarray, score: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, label=label.astype(np.int32), score=score)
    return file.getvalue()


def _restore(content: bytes | None, label: np.ndarray, score: np.ndarray) -> int:
    """Put answers of an earlier run into place; return how many samples they cover."""
    if content is None:
        return 0
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        done = len(file["score"])
        label[:done], score[:done] = file["label"], file["score"]
    return done
