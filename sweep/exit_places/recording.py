"""The answers of all exits to the held-back samples, kept in a file."""

import hashlib
import io
from pathlib import Path

import msgspec
import numpy as np

from ...bundle import Bundle
from ...calibrate.labels import hash_samples
from ...calibrate.measure.answers import record_answers
from ...calibrate.measure.tables import ExitTable
from ...devices import fingerprint
from ...files import write_atomically
from ...progress import Progress
from ...runtime import load_uncalibrated
from ...runtime.chain.samples import Samples
from ...runtime.selection import packages_of
from .costs import as_costs

__all__ = ["Halves", "Workbench", "hash_of", "record_table"]


class Halves(msgspec.Struct, frozen=True):
    """Answers of all exits: to the samples that choose, and to those that give the figures."""

    selecting: ExitTable
    reporting: ExitTable


class Workbench(msgspec.Struct, frozen=True):
    """Where networks run, and where what was found is kept.

    Attributes:
        folder: of what is kept.
        device, threads: as for `load`.
        seconds: how long a measurement takes, about.
        progress: is told as work goes on.
    """

    folder: Path
    device: str
    threads: int
    seconds: float
    progress: Progress

    @property
    def key(self) -> str:
        """A text that changes with the machine, its software and the device."""
        return str(sorted(fingerprint(packages=packages_of([self.device]), threads=self.threads).items())) + self.device


def hash_of(*parts: object) -> str:
    """Return twelve digits that change if a part does."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:12]


def record_table(bundle: Bundle, x: Samples, y: np.ndarray, bench: Workbench) -> ExitTable:
    """Return what every exit of a bundle's first variant answers to samples with the labels `y`; costs are not in it."""
    key = hash_of(bundle.variant().digest, hash_samples(x), bench.key)
    path = bench.folder / f"answers-{key}.npz"
    if not path.exists():
        with load_uncalibrated(bundle, bench.device, threads=bench.threads) as net:
            answers = record_answers(net, x, progress=bench.progress, threads=bench.threads)
        content = io.BytesIO()
        np.savez(content, label=answers.label.astype(np.int32), score=answers.score)
        write_atomically(path, content.getvalue())
    with np.load(path, allow_pickle=False) as file:
        label, score = file["label"], file["score"]
    right = label == y[:, None]
    return ExitTable(
        score=score,
        label=label,
        right=right,
        reference_right=right[:, -1],
        differs=(label != label[:, -1:]).astype(np.int8),
        costs=as_costs(np.zeros(score.shape[1])),
    )
