"""The answers of every exit of the deployed engines to every sample; a calibration that was killed records none twice."""

import io
from time import monotonic

import numpy as np

from ...errors import DataError
from ...progress import Progress
from ...runtime import EveryExit, Net
from ...runtime.chain.samples import Samples
from .resume import Part, Resume

__all__ = ["SAMPLES_AT_ONCE", "record_answers"]

SAMPLES_AT_ONCE = 100
"""Samples that are recorded between two looks at the clock."""


def record_answers(
    net: Net, x: Samples, *, resume: Resume, part: Part, progress: Progress, save_s: float = 10.0
) -> EveryExit:
    """Run every sample through every exit, one at a time as in the product.

    Args:
        net: the chain, or a static network.
        x: the samples.
        resume: answers recorded so far are stored there; those of an earlier run are taken from there.
        part: names this recording there.
        progress: is told after each hundred samples.
        save_s: seconds between two saves. Recordings shorter than a tenth of this are not stored: they spare the disk.

    Raises:
        DataError: a score is not a number.
    """
    count, exits = len(x), len(net.exits)
    label, score = np.empty((count, exits), np.int64), np.empty((count, exits), np.float32)
    done = _restore(resume.load(part), label, score)
    last_save_s = monotonic()
    for first in range(done, count, SAMPLES_AT_ONCE):
        rows = slice(first, min(first + SAMPLES_AT_ONCE, count))
        try:
            answers = net.every_exit(x[rows])
        except DataError as error:
            raise DataError(f"Counted from sample {first} on: {error}") from error
        label[rows], score[rows] = answers.label, answers.score
        progress("recording", rows.stop, count)
        if monotonic() - last_save_s > save_s:
            resume.save(part, _dump(label[: rows.stop], score[: rows.stop]))
            last_save_s = monotonic()
    if monotonic() - last_save_s > save_s / 10 and done < count:
        resume.save(part, _dump(label, score))
    return EveryExit(label, score)


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
