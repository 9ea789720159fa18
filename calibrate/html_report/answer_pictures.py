"""Answers that are no labels: boxes and maps over their images, curves, rows of classes, numbers. The rest is named."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from ...bundle import Manifest
from ...errors import DataError, quoted, require
from ..losses import Answer, Decode, find_likeliest
from .figures import GREY
from .input_pictures import InputPainter, draw_curves, is_curves

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["COLOURS", "AnswerPainter", "View"]

SIDE = 96
"""Pictures are enlarged by a whole number, or shrunk, until their longer side has about so many pixels."""

MOST_NUMBERS, MOST_CLASSES, MOST_BOXES = 16, 64, 50
"""Numbers of a part, and classes of a row, that are written out, and boxes that are drawn in a picture, at most."""

COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#8C564B", "#9467BD", "#17BECF"),
    *("#BCBD22", "#E377C2", "#2CA02C", "#D62728", "#1F77B4", "#7F7F7F", "#FFBB78", "#98DF8A", "#AEC7E8", "#C49C94"),
)
"""Colours of classes; those of Okabe and Ito come first. Classes as many apart share one."""

OPACITY = 0.6
"""How much of a map's colours hides the image beneath."""


class View(Struct, frozen=True):
    """An answer to a sample, or what is true of it.

    Attributes:
        title: whose answer it is.
        picture: a PNG if it can be drawn.
        lines: lines of text.
        tokens: a row of classes, and of each whether it is wrong.
    """

    title: str
    picture: bytes | None
    lines: tuple[str, ...]
    tokens: tuple[tuple[str, bool], ...] = ()


class AnswerPainter:
    """Draws answers.

    Args:
        arrays: what the network takes, (N, ...) each.
        manifest: of the bundle.
        decode: makes boxes of answers; None if the loss has none.

    Attributes:
        classes: those that were drawn.
    """

    def __init__(self, arrays: Sequence[np.ndarray], manifest: Manifest, decode: Decode | None) -> None:
        self._pil, self._draw = (require(f"PIL.{name}", extra="report") for name in ("Image", "ImageDraw"))
        self._inputs = InputPainter(arrays, manifest)
        self._painter = self._inputs.images
        self._decode = decode
        self.classes = set[int]()

    def view(self, i: int, answers: Mapping[str, Answer], truth: Any) -> tuple[View, ...]:
        """Return the views of a sample.

        Args:
            i: its number.
            answers: the answers to this sample, a batch of one each, by their titles.
            truth: what is true of this sample, a batch of one, as a loss takes it.

        Raises:
            DataError: its boxes cannot be made.
        """
        if self._decode is not None:
            try:
                return self._view_boxes(i, answers, truth, self._decode)
            except Exception as error:  # the function is the user's
                reason = f"{type(error).__name__}: {quoted(error)}"
                raise DataError(f"The boxes of sample {i}, alone, cannot be drawn: {reason}") from error
        named: dict[str, Mapping[str, Any]] = {**answers, "truth": truth if isinstance(truth, Mapping) else {"": truth}}
        for part in next(iter(answers.values())):
            maps = {title: _read_map(values.get(part, values.get(""))) for title, values in named.items()}
            drawn = {title: classes for title, classes in maps.items() if classes is not None}
            if len(drawn) == len(maps) and not _is_scores(named["truth"].get(part, named["truth"].get(""))):
                pictures = {title: self._paint_map(i, classes) for title, classes in drawn.items()}
                return tuple(
                    View(
                        title, pictures[title], _say({name: values[name] for name in values if name not in (part, "")})
                    )
                    for title, values in named.items()
                )
        return self._view_input(i), *_view_values(named)

    def _view_input(self, i: int) -> View:
        if self._painter is not None:
            return View("input", _save(self._ground(i)), ())
        return View("input", self._inputs.paint(i), tuple(filter(None, [self._inputs.describe(i)])))

    def _view_boxes(self, i: int, answers: Mapping[str, Answer], truth: Any, decode: Decode) -> tuple[View, ...]:
        found = {title: decode(answer)[0] for title, answer in answers.items()}
        found["truth"] = (decode(truth) if isinstance(truth, Mapping) else truth)[0]
        boxes = {
            title: np.asarray(each, np.float64) if len(each) else np.zeros((0, 5)) for title, each in found.items()
        }
        true = boxes["truth"]
        is_share = len(true) > 0 and float(true[:, :4].max()) <= 1
        return tuple(
            View(
                title,
                None if self._painter is None else self._paint_boxes(i, each, is_share=is_share),
                (f"{len(each)} box{'' if len(each) == 1 else 'es'}{', not drawn' if self._painter is None else ''}",),
            )
            for title, each in boxes.items()
        )

    def _ground(self, i: int) -> "Image":
        """Return sample i as an image in colour of about `SIDE` pixels."""
        assert self._painter is not None
        return self._resize(self._painter.image(i).convert("RGB"))

    def _resize(self, image: "Image") -> "Image":
        longest = max(image.size)
        if longest > SIDE:
            image.thumbnail((SIDE, SIDE))
            return image
        factor = max(1, SIDE // longest)
        return image.resize((image.width * factor, image.height * factor), self._pil.Resampling.NEAREST)

    def _paint_boxes(self, i: int, boxes: np.ndarray, *, is_share: bool) -> bytes:
        assert self._painter is not None
        picture, (width, height) = self._ground(i), (1, 1) if is_share else self._painter.size
        pen = self._draw.Draw(picture)
        for left, top, right, bottom, kind in boxes[:MOST_BOXES, :5]:
            if not all(map(math.isfinite, (left, top, right, bottom, kind))):
                continue
            x = sorted(min(max(edge / width, 0), 1) * (picture.width - 1) for edge in (left, right))
            y = sorted(min(max(edge / height, 0), 1) * (picture.height - 1) for edge in (top, bottom))
            pen.rectangle((x[0], y[0], x[1], y[1]), outline=COLOURS[int(kind) % len(COLOURS)], width=2)
            self.classes.add(int(kind))
        return _save(picture)

    def _paint_map(self, i: int, classes: np.ndarray) -> bytes:
        """Lay the colours of classes (height, width) over sample i; class 0 has none."""
        ground = self._ground(i) if self._painter else self._resize(self._pil.new("RGB", classes.shape[::-1], GREY))
        self.classes |= set(np.unique(classes[classes != 0])[: len(COLOURS)].tolist())
        palette = np.array([[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in COLOURS], np.uint8)
        layers = palette[classes % len(COLOURS)], np.uint8(255 * OPACITY) * (classes != 0)
        colours, mask = (
            self._pil.fromarray(layer.astype(np.uint8)).resize(ground.size, self._pil.Resampling.NEAREST)
            for layer in layers
        )
        ground.paste(colours, (0, 0), mask)
        return _save(ground)


def _view_values(named: Mapping[str, Mapping[str, Any]]) -> Iterator[View]:
    """Yield the views of answers and of the truth, a batch of one each by part: rows of classes, curves, or numbers."""
    for title, values in named.items():
        rest, picture, tokens = dict(values), None, None
        for name in values:
            each = {
                key: np.asarray(_find_part(parts, name)[0])
                for key, parts in named.items()
                if _find_part(parts, name) is not None
            }
            if tokens is None and (tokens := _read_tokens(each[title], each.get("truth"))) is not None:
                del rest[name]
            elif picture is None and each[title].size > MOST_NUMBERS and is_curves(each[title]):
                shown = [one for one in each.values() if is_curves(one)]
                limits = min(float(np.nanmin(v)) for v in shown), max(float(np.nanmax(v)) for v in shown)
                picture = draw_curves(each[title], limits)
                del rest[name]
        yield View(title, picture, _say(rest), tokens or ())


def _find_part(parts: Mapping[str, Any], name: str) -> Any:
    """Return the part of a name; a single one may have none. None if there is no such part."""
    return parts.get(name, parts.get("", None if name else next(iter(parts.values()))))


def _read_tokens(values: np.ndarray, truth: np.ndarray | None) -> tuple[tuple[str, bool], ...] | None:
    """Return a row of classes, (time,), or the likeliest of (classes, time), and which are wrong; None if it is no row."""
    is_row = truth is not None and truth.ndim == 1 and truth.dtype.kind in "iu"
    if is_row and truth is not None and values.ndim == 2 and values.dtype.kind == "f" and values.shape[1] == len(truth):
        values = find_likeliest(values[None])[0].astype(np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu" or not 2 <= len(values) <= MOST_CLASSES:
        return None
    true = truth.tolist() if is_row and truth is not None else values.tolist()
    true = [each for each in true if each >= 0]
    found = [each for each in values.tolist() if each >= 0]  # those below 0 are blanks
    return tuple((str(each), k >= len(true) or each != true[k]) for k, each in enumerate(found))


def _read_map(values: Any) -> np.ndarray | None:
    """Return the classes of a map, int (height, width), of a batch of one; of scores the likeliest. None if it is no map."""
    if not isinstance(values, np.ndarray):
        return None
    if _is_scores(values):
        return np.asarray(find_likeliest(values)[0], np.int64)
    return np.asarray(values[0], np.int64) if values.ndim == 3 and values.dtype.kind in "iub" else None


def _is_scores(values: Any) -> bool:
    """Return True for scores of classes, (1, classes, height, width)."""
    return isinstance(values, np.ndarray) and values.ndim == 4 and values.dtype.kind == "f"


def _say(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Write the numbers of a batch of one, a line for each part; of parts with many what they are."""
    lines = []
    for name, batch in values.items():
        part = np.asarray(batch[0])
        lead = f"{name} " if name else ""
        if part.size <= MOST_NUMBERS:
            lines.append(lead + (", ".join(f"{value:.4g}" for value in part.ravel().tolist()) or "empty"))
        else:
            lines.append(f"{lead}{part.dtype} {'x'.join(map(str, part.shape))}, not drawn")
    return tuple(lines)


def _save(image: "Image") -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
