"""The table of a sweep: a row for each form of each trial at each rung, as lines of JSON."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from .. import __version__
from ..errors import DataError
from ..files import os_errors_explained, write_atomically
from .settings import Choices

__all__ = [
    "RunFigures",
    "Standing",
    "TrialRow",
    "list_versions",
    "name_trial",
    "read_answers",
    "read_rows",
    "write_rows",
]


class RunFigures(Struct, frozen=True, kw_only=True):
    """What differs from run to run: who did it, how long it took, and the mean latency of leaving at each exit there.

    The worker may have had other work at the time: `calibrate` measures what counts.
    """

    worker: str
    seconds: float
    latency_s: tuple[float, ...]


class Standing(Struct, frozen=True, kw_only=True):
    """How a row stands among those of its rung.

    Attributes:
        met: whether it meets the target.
        macs: its mean multiply-accumulates at the best thresholds that do; without, those of its best exit.
        accuracy: its accuracy there.
        thresholds: one for each exit but the last; none without.
        place: of its trial, 1 for the best.
        stays: whether the trial trains on, or after the last rung is in the bundle.
    """

    met: bool
    macs: float
    accuracy: float
    thresholds: tuple[float, ...]
    place: int = 0
    stays: bool = False


class TrialRow(Struct, frozen=True, kw_only=True):
    """One form of one trial at one rung.

    Attributes:
        trial, rung: their numbers, counted from 0.
        epochs: to which it was trained.
        choices: what the trial takes of the space.
        seed: of the network and of the order of samples.
        variant: the form's name in the trial's bundle; in the sweep's bundle `name_trial` names it.
        rule: how its scores are made.
        precision: `fp32`, `int8` or `fp16`.
        exits: their names, or the places where `attach` put them.
        accuracy: of each exit, on the samples that judge.
        macs: multiply-accumulates of leaving at each exit, earlier heads included.
        loss: of each exit in the last epoch of training.
        versions: of what computed it.
        measured: what differs from run to run.
        standing: None until the rung is complete.
        failed: why the trial has no other figures; empty if it has.

    Example:
        >>> import msgspec
        >>> from offramp.sweep import TrialRow
        >>> line = b'{"trial": 7, "rung": 0, "epochs": 3, "choices": {"lr": 0.05}, "seed": 0, "versions": {}, "accuracy": [0.9]}'
        >>> row = msgspec.json.decode(line, type=TrialRow)  # as the table has them
        >>> row.choices.lr, max(row.accuracy), row.standing is None
        (0.05, 0.9, True)
    """

    trial: int
    rung: int
    epochs: int
    choices: Choices
    seed: int
    versions: dict[str, str]
    variant: str = ""
    rule: str = ""
    precision: str = ""
    exits: tuple[str, ...] = ()
    accuracy: tuple[float, ...] = ()
    macs: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    measured: RunFigures | None = None
    standing: Standing | None = None
    failed: str = ""


def name_trial(number: int, variant: str = "") -> str:
    """Return the name of a trial, or of one of its variants in the sweep's bundle: `trial007`, `trial007-int8`."""
    return f"trial{number:03d}{f'-{variant}' if variant else ''}"


def list_versions() -> dict[str, str]:
    """Return the versions of what a trial's figures may depend on."""
    packages = {name: version(name) for name in ("torch", "onnxruntime", "numpy")}
    return {"offramp": __version__, "python": platform.python_version()} | packages


def write_rows(path: Path, rows: Sequence[TrialRow]) -> None:
    """Replace a file of rows, atomically.

    Raises:
        MissingError: it cannot be written.
    """
    write_atomically(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def read_rows(path: Path) -> list[TrialRow]:
    """Return the rows of a file.

    Raises:
        MissingError: it cannot be read.
        DataError: it holds no rows.
    """
    with os_errors_explained(path, "read"):
        content = path.read_bytes()
    try:
        return msgspec.json.Decoder(TrialRow).decode_lines(content)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{path} holds no rows of a sweep: {error}. Remove the folder that it lies in.", path=path
        ) from error


def read_answers(folder: Path, row: TrialRow) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of a row's exits, float32 (N, exits), and where they are wrong, int8 (N, exits)."""
    path = folder / f"rung{row.rung}.{row.variant}.npz"
    with os_errors_explained(path, "read"), np.load(path, allow_pickle=False) as file:
        return file["score"], file["wrong"]
