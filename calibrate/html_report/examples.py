"""Easy and hard images of each exit: what leaves early, what goes to the end, and where early exits and the last one differ."""

import io
from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from ...bundle import Manifest
from ...errors import DataError, require
from ...runtime import EveryExit
from ..images import find_layout

MOST, PICTURES = 8, 96
"""Pictures in a group, and in all; a group keeps three at least."""

SIDE = 64
"""Pixels of the longer side of a picture that had more."""


class Example(Struct, frozen=True):
    """One sample: its number from 0, its label, the exit at which it left, what that exit and the last one said, and a PNG."""

    sample: int
    label: int
    exit: int
    said: int
    score: float
    last_said: int
    picture: bytes


class Group(Struct, frozen=True):
    """Samples that have something in common, which `title` says; `samples` is how many there are, of which some are shown."""

    title: str
    samples: int
    shown: tuple[Example, ...]


def has_images(manifest: Manifest) -> bool:
    """Tell whether a network takes images."""
    try:
        find_layout(manifest.inputs)
    except DataError:
        return False
    return True


def find_examples(
    x: np.ndarray, y: np.ndarray, every: EveryExit, taken: np.ndarray, manifest: Manifest, *, rng: np.random.Generator
) -> tuple[Group, ...]:
    """Return examples of what leaves at each exit.

    Args:
        x: images as the network takes them, (N, ...).
        y: labels, int64 (N,).
        every: what every exit says of them.
        taken: the exit at which each leaves, int64 (N,).
        manifest: of the bundle.
        rng: draws where no order says which to show.

    Raises:
        DataError: the network takes no images.
        MissingError: Pillow is not installed.
    """
    draw = _Painter(x, manifest)
    rows = np.arange(len(y))
    said, score, last = every.label[rows, taken], every.score[rows, taken], every.label[:, -1]
    exits = every.score.shape[1]
    most = max(3, min(MOST, PICTURES // (2 * exits + 2)))
    groups = list(_group(y, said, score, last, taken, exits=exits, most=most, rng=rng))

    def show(i: int) -> Example:
        return Example(i, int(y[i]), int(taken[i]), int(said[i]), float(score[i]), int(last[i]), draw(i))

    return tuple(Group(title, len(order), tuple(show(int(i)) for i in order[:most])) for title, order in groups)


def _group(
    y: np.ndarray,
    said: np.ndarray,
    score: np.ndarray,
    last: np.ndarray,
    taken: np.ndarray,
    *,
    exits: int,
    most: int,
    rng: np.random.Generator,
) -> Iterator[tuple[str, np.ndarray]]:
    """Give each group's title and its samples, those to be shown first."""
    for k in range(exits):
        there = np.flatnonzero(taken == k)
        order = there[np.argsort(score[there], kind="stable")]
        what = f"Leaves at exit {k}" if k < exits - 1 else f"Goes to the end, exit {k}"
        if len(there) <= most:
            yield f"{what}: from the surest to the least sure", order[::-1]
        else:
            yield f"{what}: the surest", order[::-1]
            yield f"{what}: the least sure", order
    early = taken < exits - 1
    for title, which in (
        ("An early exit is right where the last one is wrong", early & (said == y) & (last != y)),
        ("An early exit is wrong where the last one is right", early & (said != y) & (last == y)),
    ):
        yield title, rng.permutation(np.flatnonzero(which))


class _Painter:
    """Makes pictures of samples; pixels that were normalised are stretched, each channel from its least value to its greatest."""

    def __init__(self, x: np.ndarray, manifest: Manifest) -> None:
        self._pil = require("PIL.Image", extra="report")
        *_, first = find_layout(manifest.inputs)
        self._x = np.moveaxis(x, 1, -1) if first else x
        seen = self._x[:: max(1, len(x) // 1000)].astype(np.float32)
        self._low, high = seen.min(axis=(0, 1, 2)), seen.max(axis=(0, 1, 2))
        if x.dtype == np.uint8:
            self._low, high = np.zeros_like(high), np.full_like(high, 255)
        self._span = np.maximum(high - self._low, 1e-12)

    def __call__(self, i: int) -> bytes:
        pixels = np.clip((self._x[i] - self._low) / self._span, 0, 1)
        image = self._pil.fromarray(np.round(pixels * 255).astype(np.uint8).squeeze())
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()
