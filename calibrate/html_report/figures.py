"""What all plots share: colours, an empty figure, and how it becomes SVG that a page holds in two widths."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from msgspec import Struct

from ...bundle import OperatingPoint
from ...errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

BLUE, ORANGE, RED, GREY = "#0072b2", "#e69f00", "#d55e00", "#767676"
"""Colours of Okabe and Ito that colour-blind readers can tell apart (Color Universal Design, 2008)."""

INK, PAPER, GRID, SHADE = "#1b1b1b", "#fefefe", "#d4d4d4", "#e3f1ec"
"""Colours of letters, ground, grid and what a target allows. The page's style says what they are by day and by night."""

VARIABLES = {
    BLUE: "--blue",
    ORANGE: "--orange",
    RED: "--red",
    GREY: "--quiet",
    INK: "--text",
    PAPER: "--ground",
    GRID: "--line",
    SHADE: "--allowed",
}
"""The variable of the page's style that stands for each colour."""

WIDE, NARROW = 800, 350
"""Widths of a plot in pixels: for screens and paper, and for telephones."""

MOST_LETTERS = 40
"""Letters of a name in a plot."""

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 11,
}
"""How Matplotlib draws; text stays text, and a dollar sign is one."""

Tips = Mapping[str, Sequence[str]]
"""Texts under the mouse: one for each mark of the lines that have this `gid`."""


class Plot(Struct, frozen=True):
    """A plot before it is drawn.

    Attributes:
        title: what it shows, for readers who do not see it.
        height: in pixels, by the width in pixels.
        draw: draws into axes of that width, and returns the tips of its marks.
        widths: what it is drawn in; the last is for telephones.
    """

    title: str
    height: Callable[[int], int]
    draw: Callable[["Axes", int], Tips]
    widths: tuple[int, ...] = (WIDE, NARROW)


def show_placement(placement: Sequence[str]) -> str:
    """Name the device of each stage, or the one device of them all: `openvino:CPU, cpu, cpu`, or `cpu`."""
    return ", ".join(placement if len(set(placement)) > 1 else placement[:1])


def show_static(exit_: int) -> str:
    """Name a static network by the exit at which it ends."""
    return f"static network to exit {exit_}"


def show_runs(point: OperatingPoint) -> str:
    """Say what an operating point runs: `early exit, fp32 on cpu`."""
    network = "early exit" if point.static is None else show_static(point.static)
    return f"{network}, {point.variant} on {show_placement(point.placement)}"


def shorten(name: str, most: int = MOST_LETTERS) -> str:
    """Return a name as a plot holds it: on one line, without letters that cannot be shown, and not too long."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return clean if len(clean) <= most else f"{clean[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def render_plot(name: str, plot: Plot) -> str:
    """Return a plot as HTML: one SVG for each of its widths, of which the page's style shows one.

    Args:
        name: names what is inside, so that two plots of a page do not mix.
        plot: what is drawn.

    Raises:
        MissingError: matplotlib is not installed.
    """
    require("matplotlib", extra="report")
    from matplotlib import style
    from matplotlib.figure import Figure

    drawn = []
    for width in plot.widths:
        kind = "narrow" if len(plot.widths) > 1 and width == plot.widths[-1] else "broad"
        settings = {**SETTINGS, "svg.hashsalt": f"{name}{width}"}
        with (
            style.context(["default", settings]),
            warnings.catch_warnings(),
        ):  # whatever the user's own file of settings says
            warnings.simplefilter("ignore", UserWarning)  # of letters that only the browser has
            figure = Figure(figsize=(width / 72, plot.height(width) / 72), dpi=72, layout="constrained")
            figure.patch.set_alpha(0)
            axes = figure.add_subplot()
            axes.patch.set_alpha(0)
            tips = plot.draw(axes, width)
            drawn.append(_write_svg(figure, tips, title=plot.title, kind=kind, width=width))
    return "\n".join(drawn)


def _write_svg(figure: "Figure", tips: Tips, *, title: str, kind: str, width: int) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.BytesIO()
    settle_layout(figure)
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(file, metadata=empty)  # type: ignore[no-untyped-call]
    root = ElementTree.fromstring(file.getvalue())
    for part in root.findall(f"{{{SVG}}}metadata"):
        root.remove(part)
    for group in root.iter(f"{{{SVG}}}g"):
        marks = group.iter(f"{{{SVG}}}use") if group.get("id") in tips else ()
        for mark, tip in zip(marks, tips.get(group.get("id", ""), ()), strict=False):
            ElementTree.SubElement(mark, f"{{{SVG}}}title").text = tip
    root.attrib |= {"class": kind, "role": "img", "aria-label": title, "width": str(width)}
    root.attrib.pop("height")
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    text = ElementTree.tostring(root, encoding="unicode")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def settle_layout(figure: "Figure | SubFigure") -> None:
    """Give the parts of a plot their place, once: what is drawn later finds them there."""
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def add_legend(axes: "Axes", columns: int) -> None:
    """Put the legend of a plot below its axes."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=columns,
            borderaxespad=0,
            handlelength=1.6,
            columnspacing=1.4,
        )


def exit_colours(count: int) -> list[str]:
    """Return a colour for each exit; all of them can be seen on white and on black."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](0.25 + 0.5 * k / max(1, count - 1))) for k in range(count)]
