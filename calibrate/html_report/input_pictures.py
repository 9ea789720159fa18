"""Pictures of what a network takes: images as they are, signals as curves; few numbers are written out."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...bundle import Manifest
from ...errors import DataError, require
from ..images import find_layout
from .figures import BLUE, GREY, ORANGE, RED

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CURVE_SIZE", "InputPainter", "Painter", "draw_curves", "has_images", "is_curves", "show_numbers"]

PICTURE_SIDE = 64
"""Larger pictures are shrunk until their longer side has this many pixels."""

CURVE_SIZE = (160, 72)
"""Width and height of a picture of curves, in pixels."""

FINER = 2
"""Curves are drawn so many times as large and then shrunk, so that lines are smooth."""

LEAST_CURVE, MOST_CURVES, MOST_NUMBERS = 8, 6, 16
"""Shorter rows are no curves; channels that are drawn; numbers that are written out."""

COLOURS = (BLUE, ORANGE, RED, GREY, "#009e73", "#cc79a7")


def has_images(manifest: Manifest) -> bool:
    """Return True if a network takes images."""
    try:
        find_layout(manifest.inputs)
    except DataError:
        return False
    return True


class Painter:
    """Makes pictures of samples. Normalised pixels are stretched: each channel from its smallest value to its largest.

    Attributes:
        size: width and height of a sample in pixels.
    """

    def __init__(self, x: np.ndarray, manifest: Manifest) -> None:
        self._pil = require("PIL.Image", extra="report")
        _, height, width, channels_first = find_layout(manifest.inputs)
        self.size = width, height
        self._x = np.moveaxis(x, 1, -1) if channels_first else x
        some = self._x[:: max(1, len(x) // 1000)]
        self._low, high = (edge(axis=(0, 1, 2)).astype(np.float64) for edge in (some.min, some.max))
        if x.dtype == np.uint8:
            self._low, high = np.zeros_like(high), np.full_like(high, 255)
        self._span = np.where(high > self._low, high - self._low, 1)

    def image(self, i: int) -> "Image":
        """Return sample `i` in its own size, grey or in colour."""
        pixels = np.round(np.clip((self._x[i] - self._low) / self._span, 0, 1) * 255).astype(np.uint8)
        image: Image = self._pil.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return image

    def paint(self, i: int) -> bytes:
        """Return sample `i` as a PNG."""
        image = self.image(i)
        image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()


class InputPainter:
    """Shows samples: a picture if one can be drawn, and a line of text else.

    Args:
        arrays: what the network takes, (N, ...) each; the first is shown.
        manifest: of the bundle.

    Attributes:
        images: paints the samples if they are images, else None.
    """

    def __init__(self, arrays: Sequence[np.ndarray], manifest: Manifest) -> None:
        self._x = arrays[0]
        self.images = Painter(self._x, manifest) if has_images(manifest) else None
        self._range = (0.0, 1.0)
        if self.images is None and is_curves(self._x[0]):
            some = self._x[:: max(1, len(self._x) // 200)]
            self._range = (float(np.nanmin(some)), float(np.nanmax(some)))

    def paint(self, i: int) -> bytes | None:
        """Return sample i as a PNG; None if it is neither an image nor a signal."""
        if self.images is not None:
            return self.images.paint(i)
        return draw_curves(self._x[i], self._range) if is_curves(self._x[i]) else None

    def describe(self, i: int) -> str:
        """Return sample i as text if it has no picture."""
        if self.images is not None or is_curves(self._x[i]):
            return ""
        return show_numbers(self._x[i])


def is_curves(values: np.ndarray) -> bool:
    """Return True for numbers in a row, (time,), or in few rows, (channels, time) or (time, channels)."""
    if values.dtype.kind != "f" or values.ndim not in (1, 2) or max(values.shape) < LEAST_CURVE:
        return False
    return values.ndim == 1 or min(values.shape) * 2 <= max(values.shape)


def draw_curves(values: np.ndarray, limits: tuple[float, float]) -> bytes:
    """Draw curves as a PNG: the longer axis is time; at most `MOST_CURVES` channels are shown.

    Args:
        values: see `is_curves`.
        limits: the values at the lower and the upper edge.
    """
    rows = np.atleast_2d(values).astype(np.float64)
    rows = rows.T if rows.shape[0] > rows.shape[1] else rows
    image_module, draw_module = (require(f"PIL.{name}", extra="report") for name in ("Image", "ImageDraw"))
    width, height = CURVE_SIZE[0] * FINER, CURVE_SIZE[1] * FINER
    image: Image = image_module.new("RGB", (width, height), "white")
    pen, (low, high) = draw_module.Draw(image), limits
    for row, colour in zip(rows[:MOST_CURVES], COLOURS, strict=False):
        x = np.linspace(4, width - 5, len(row))
        share = np.clip((np.nan_to_num(row, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0), 0, 1)
        y = height - 5 - share * (height - 10)
        pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=colour, width=FINER + 1)
    file = io.BytesIO()
    image.resize(CURVE_SIZE).save(file, "PNG")
    return file.getvalue()


def show_numbers(values: np.ndarray) -> str:
    """Write the first numbers of an array."""
    flat = np.asarray(values).ravel()
    shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in flat[:MOST_NUMBERS].tolist()]
    return ", ".join(shown) + (" ..." if flat.size > MOST_NUMBERS else "")
