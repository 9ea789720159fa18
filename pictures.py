"""Pictures that commands write: the format is told by the file's ending, and checked before long work."""

import io
import math
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError, printable, require
from .files import check_writable, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "GREY", "check_picture", "set_log_scale", "style_axes", "write_caption", "written_figure"]

UNDATED: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
"""By format, what matplotlib leaves out of a file so that the same picture is the same bytes."""

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of Okabe and Ito that colour-blind readers can tell apart (Color Universal Design, 2008)."""

GREY = "#595959"
"""Seen well on the white ground that every picture has."""

STYLE = {"font.size": 9.0, "svg.hashsalt": "offramp", "text.parse_math": False, "font.family": ["DejaVu Sans"]}
"""A name of the user's may hold dollars, which are no formula."""

PIXELS_OF_DECADE = 180
"""A decade that is wider has ticks at 2 and 5 too."""

MOST_CAPTION, MOST_TITLE = 900, 270
"""The most characters of a paragraph below a picture, and of a title."""


def check_picture(path: str | os.PathLike[str]) -> Path:
    """Return the path of a picture that can be written; see that before anything is measured for it.

    Raises:
        UsageError: the file's ending names no format, or there is a folder at the path.
        MissingError: matplotlib is not installed, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower()[1:] not in UNDATED:
        kinds = ", ".join(f".{kind}" for kind in UNDATED)
        raise UsageError(
            f"The ending of a picture's file tells its format, one of {kinds}: {printable(path.name)} has none of them. "
            f"Name it {printable(path.stem.lstrip('.') or 'picture')}.svg, for instance.",
            path=path,
        )
    _require_matplotlib()
    check_writable(path)
    return path


@contextmanager
def written_figure(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """Give an empty figure, so many inches wide and high, and write it in one step when the block has drawn it.

    Raises:
        MissingError: the file cannot be written.
    """
    _require_matplotlib()
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):  # whatever the user's own file of settings says
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        yield figure
        kind, content = path.suffix.lower()[1:], io.BytesIO()
        figure.savefig(content, format=kind, dpi=150, metadata=UNDATED[kind], bbox_inches="tight", pad_inches=0.15)
    write_atomically(path, content.getvalue())


def _require_matplotlib() -> None:
    for module in ("matplotlib", "matplotlib.figure"):
        require(module, extra="report")


def style_axes(axes: "Axes", title: str, x: str, y: str = "") -> None:
    """Name axes and what they show, with lines that do not compete with the data."""
    axes.set_title(textwrap.fill(printable(title, MOST_TITLE), 90), loc="left", fontsize=9.5, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#E0E0E0", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def set_log_scale(axes: "Axes", width: int) -> None:
    """Make the axis of a plot that goes across logarithmic, with as many plain numbers as have room in its width in pixels."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    steps = (1, 2, 5) if width / math.log10(high / low) > PIXELS_OF_DECADE else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def write_caption(figure: "Figure", paragraphs: list[str], width: int = 125) -> None:
    """Write paragraphs below everything else, in lines of at most so many characters; the picture grows by as much."""
    texts = [textwrap.fill(printable(text, MOST_CAPTION), width) for text in paragraphs if text]
    figure.text(0.01, -0.02, "\n".join(texts), va="top", ha="left", color="#333333", fontsize=8.5, linespacing=1.4)
