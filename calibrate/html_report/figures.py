"""What all plots of a report share: colours, an empty figure, columns of data, tips under the mouse, legends."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...bundle import OperatingPoint

if TYPE_CHECKING:
    from bokeh.plotting import figure

BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#767676"
"""Colours of Okabe and Ito that colour-blind readers can tell apart (Color Universal Design, 2008)."""


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


def empty_figure(**options: Any) -> "figure":
    """Make a figure without data, as wide as the page and without tools."""
    from bokeh.plotting import figure

    plot = figure(
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        background_fill_color=None,
        border_fill_color=None,
        **options,
    )
    plot.outline_line_color = None
    plot.min_border_right = 16
    return plot


def data_source(columns: Mapping[str, Any]) -> Any:
    """Make Bokeh's table of named columns."""
    from bokeh.models import ColumnDataSource

    return ColumnDataSource({name: list(column) for name, column in columns.items()})


def add_tip(plot: "figure", tip: str) -> None:
    """Show a text under the mouse; `@name` in it stands for a value of the column `name`."""
    from bokeh.models import HoverTool

    plot.add_tools(HoverTool(tooltips=tip))


def move_legend_below(plot: "figure", columns: int = 2) -> None:
    """Move the legend of a figure below its axes."""
    plot.add_layout(plot.legend[0], "below")
    plot.legend.ncols = columns
    plot.legend.location = "left"
    plot.legend.border_line_color = None
    plot.legend.background_fill_color = None
    plot.legend.label_text_font_size = "12px"


def exit_colours(count: int) -> list[str]:
    """Return a colour for each exit, from dark to light; all of them can be seen on white."""
    from bokeh.palettes import viridis

    return list(viridis(count + max(1, count // 4))[:count])
