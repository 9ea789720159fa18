"""What a device has counted: a record of at most a kilobyte in a file of its own, which survives restarts."""

import contextlib
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ...bundle.record import Count, Record
from ...errors import BundleError, UsageError, printable
from ...files import lock_folder, os_errors_explained, read_file, write_atomically

__all__ = [
    "MOST_BINS",
    "MOST_EDGES",
    "STATE_FILE",
    "AuditState",
    "find_states",
    "open_place",
    "pool_exits",
    "read_state",
    "write_state",
]

STATE_SCHEMA = 1
STATE_FILE = "audit.json"

MOST_STATE_BYTES = 1024
MOST_BINS = 12
"""Of more exits the last ones are counted together, so that a state stays small."""

MOST_EDGES = 5
"""Scores are counted in one bin more at most."""

MOST_PLACES = 1000
"""So many folders of states are looked at; a device has one for each process that audits at the same time."""

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Counts = Annotated[tuple[Count, ...], Meta(min_length=1, max_length=MOST_BINS)]


class AuditState(Record, frozen=True, kw_only=True):
    """What one process of one device has counted for an operating point, over all its restarts.

    Attributes:
        schema: the version of this form.
        device: a random name of the file, by which it is counted once.
        sequence: how often it was written.
        variant: the start of the digest of what runs.
        point: the operating point's name.
        promised: the share that may disagree; None if only exits are counted.
        chance: of a false alarm of disagreement, and of shares and of scores each.
        calibrated: how many of the calibration's samples left at each exit; empty if that is unknown.
        exits: how many picked inputs left at each exit.
        edges: between bins of the scores of the first exit that is taken; empty if they are unknown.
        known_scores, scores: how many of the calibration's samples, and of the picked inputs, are in each bin.
        audited: how many of them were compared with the last exit.
        disagreeing: how many of these differed; or the sum of their disagreements.
        alarms: what has ever raised an alarm: `disagreement`, `shares`, `scores`.
    """

    schema: Annotated[int, Meta(ge=STATE_SCHEMA, le=STATE_SCHEMA)] = STATE_SCHEMA
    device: Name
    sequence: Count = 0
    variant: Name
    point: Annotated[str, Meta(max_length=100)]
    promised: Share | None
    chance: tuple[Share, Share]
    calibrated: Annotated[tuple[Count, ...], Meta(max_length=MOST_BINS)]
    exits: Counts
    edges: Annotated[tuple[Share, ...], Meta(max_length=MOST_EDGES)] = ()
    known_scores: Annotated[tuple[Count, ...], Meta(max_length=MOST_EDGES + 1)] = ()
    scores: Annotated[tuple[Count, ...], Meta(max_length=MOST_EDGES + 1)] = ()
    audited: Count = 0
    disagreeing: Annotated[float, Meta(ge=0)] = 0.0
    alarms: Annotated[tuple[Annotated[str, Meta(max_length=20)], ...], Meta(max_length=3)] = ()

    def __post_init__(self) -> None:
        if not self.disagreeing <= self.audited <= sum(self.exits):
            raise ValueError("more disagree than were audited, or more were audited than picked")
        if self.calibrated and len(self.calibrated) != len(self.exits):
            raise ValueError(f"it counts {len(self.exits)} exits and {len(self.calibrated)} calibrated ones")
        bins = len(self.edges) + 1 if self.edges else 0
        if not len(self.scores) == len(self.known_scores) == bins:
            raise ValueError(f"it counts {len(self.scores)} bins of scores, and has {len(self.edges)} edges")

    @property
    def subject(self) -> tuple[object, ...]:
        """What was audited. States of the same subject may be added."""
        scores = self.edges, self.known_scores
        return self.variant, self.point, self.promised, self.chance, self.calibrated, len(self.exits), scores


def pool_exits(counts: "tuple[int, ...] | list[int]") -> tuple[int, ...]:
    """Return counts by exit with those of the last exits together, if there are too many."""
    if len(counts) <= MOST_BINS:
        return tuple(counts)
    return (*counts[: MOST_BINS - 1], sum(counts[MOST_BINS - 1 :]))


def read_state(path: Path) -> AuditState:
    """Read a state.

    Raises:
        BundleError: it is damaged, or newer than this offramp.
        MissingError: it cannot be read.
    """
    with os_errors_explained(path, "read"):
        content = read_file(path, most=MOST_STATE_BYTES)
    try:
        if len(content) > MOST_STATE_BYTES:
            raise ValueError(f"it has more than {MOST_STATE_BYTES} bytes")
        return msgspec.json.decode(content, type=AuditState)
    except (ValueError, msgspec.MsgspecError) as error:
        raise BundleError(f"{path} is no state of an audit: {printable(error, 200)}.", path=path) from error


def write_state(path: Path, state: AuditState) -> None:
    """Write a state so that a kill leaves the old one or the new one.

    Raises:
        MissingError: the folder cannot be written or the disk is full.
    """
    write_atomically(path, msgspec.json.encode(state))


def find_states(path: Path) -> list[Path]:
    """Return the files of states at a path: the file itself, or those in a folder, in its folders and theirs.

    Raises:
        UsageError: nothing is there, or no state.
        MissingError: a folder cannot be read.
    """
    with os_errors_explained(path, "read"):
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise UsageError(f"There is no file or folder {path}.", path=path)
    inner = _list_folders(path)
    folders = [path, *inner, *(each for folder in inner for each in _list_folders(folder))]
    files = [folder / STATE_FILE for folder in folders if (folder / STATE_FILE).is_file()]
    if not files:
        raise UsageError(f"{path} holds no state of an audit: no {STATE_FILE} is in it or in its folders.", path=path)
    return files


def _list_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder; `Path.glob` says nothing of those that it cannot read."""
    with os_errors_explained(folder, "read"), os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def open_place(folder: Path, new: AuditState) -> tuple[Path, AuditState, int | None, str]:
    """Take a place in a folder of states: one that nobody uses and that holds the same subject, else a new one.

    Each process has a place, so that none overwrites what another has counted.

    Returns:
        The state's path, the state, the descriptor that holds the lock, and what is wrong with other states, in words.

    Raises:
        MissingError: the folder cannot be written.
    """
    wrong = ""
    with os_errors_explained(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob(f"*/{STATE_FILE}"))[:MOST_PLACES]:
            try:
                lock = lock_folder(path.parent)
            except OSError:  # another process has it
                continue
            try:
                state = read_state(path)
                if state.subject == new.subject and state.device == path.parent.name:
                    return path, state, lock, wrong
            except BundleError as error:
                wrong = f"{error} A new one is begun."
            _unlock(lock)
        place = folder / new.device
        place.mkdir(mode=0o700)
        write_state(place / STATE_FILE, new)  # so that the next process finds the place
        return place / STATE_FILE, new, lock_folder(place), wrong


def _unlock(lock: int | None) -> None:
    if lock is not None:
        with contextlib.suppress(OSError):
            os.close(lock)
