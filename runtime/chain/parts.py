"""The parts of answers: room for those of many samples, and copies of them out of the chain's memory."""

from collections.abc import Sequence

import numpy as np

__all__ = ["Parts", "copy_parts", "make_room", "put_one", "put_rows"]

Parts = dict[str, np.ndarray]
"""The parts of answers by name: {"logits": ...}, or what a network that does not classify gives."""


def make_room(samples: int, exits: Sequence[Parts | None]) -> Parts | None:
    """Return arrays (samples, ...) for answers that may come from any of some exits; None if no answers are read.

    Args:
        samples: how many.
        exits: of each exit the parts of an answer, with their batch axis.

    Returns:
        Arrays by name. Where the exits give other shapes it is an object array (samples,), to hold one array for each sample.
    """
    room: Parts = {}
    for name, first in (exits[0] or {}).items():
        forms = {(parts[name].shape[1:], parts[name].dtype) for parts in exits if parts is not None}
        alike = len(forms) == 1
        room[name] = np.empty((samples, *first.shape[1:]), first.dtype) if alike else np.empty(samples, object)
    return room or None


def put_rows(room: Parts, rows: np.ndarray, parts: Parts, chosen: np.ndarray) -> None:
    """Copy the answers of some samples of a batch.

    Args:
        room: is written to.
        rows: the samples' numbers in it.
        parts: the answers of the whole batch.
        chosen: which of them these samples are, a bool for each sample of the batch.
    """
    for name, place in room.items():
        picked = parts[name][chosen]
        if place.dtype != object:
            place[rows] = picked
        else:
            for row, part in zip(rows, picked, strict=True):
                place[row] = part.copy()


def put_one(room: Parts, row: int, parts: Parts) -> None:
    """Copy the answer of one sample, whose parts have no batch axis."""
    for name, place in room.items():
        place[row] = parts[name] if place.dtype != object else parts[name].copy()


def copy_parts(parts: Parts) -> tuple[np.ndarray | None, Parts | None]:
    """Return an answer as results carry it, copied: its logits, or else all its parts."""
    copies = {name: part.copy() for name, part in parts.items()}
    return (logits, None) if (logits := copies.get("logits")) is not None else (None, copies)
