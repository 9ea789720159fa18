"""Every sample through every exit of the deployed engines; what a killed calibration has recorded is not recorded again."""

import io
from time import monotonic

import numpy as np

from ...errors import DataError
from ...progress import Progress
from ...runtime import EveryExit, Net
from ...runtime.chain.samples import Samples
from .resume import Kept

CHUNK = 100
"""Samples between two looks at the time."""

SAVE_S = 10.0
"""What was recorded is stored about as often; less than that is not worth the disk's wear."""


def record(net: Net, x: Samples, *, kept: Kept, part: dict[str, str], progress: Progress) -> EveryExit:
    """Run every sample through every exit, one at a time as in the product.

    Args:
        net: the chain.
        x: the samples.
        kept: where what is done is kept from time to time.
        part: names this recording there.
        progress: is told after each hundred samples.

    Raises:
        DataError: a score is not a number.
    """
    n, exits = len(x), len(net.exits)
    label, score = np.empty((n, exits), np.int64), np.empty((n, exits), np.float32)
    done = _restore(kept.load(part), label, score)
    saved_s = monotonic()
    for first in range(done, n, CHUNK):
        rows = slice(first, min(first + CHUNK, n))
        try:
            answers = net.every_exit(x[rows])
        except DataError as error:
            raise DataError(f"Counted from sample {first} on: {error}") from error
        label[rows], score[rows] = answers.label, answers.score
        progress("recording", rows.stop, n)
        if monotonic() - saved_s > SAVE_S:
            kept.save(part, _dump(label[: rows.stop], score[: rows.stop]))
            saved_s = monotonic()
    if monotonic() - saved_s > SAVE_S / 10 and done < n:
        kept.save(part, _dump(label, score))
    return EveryExit(label, score)


def _dump(label: np.ndarray, score: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, label=label.astype(np.int32), score=score)
    return file.getvalue()


def _restore(content: bytes | None, label: np.ndarray, score: np.ndarray) -> int:
    """Put what was recorded before into place; return how many samples that are."""
    if content is None:
        return 0
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        done = len(file["score"])
        label[:done], score[:done] = file["label"], file["score"]
    return done
