"""The page of a sweep: what the trials of the last rung reach, and the table."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from ..calibrate.html_report.figures import BLUE, GREY, RED, add_tip, data_source, empty_figure, move_legend_below
from ..errors import require
from ..files import write_atomically
from ..units import show_share
from .ranking import lay_tradeoffs
from .settings import TRAINED, Settings
from .table import TrialRow, name_trial

if TYPE_CHECKING:
    from bokeh.plotting import figure

__all__ = ["TITLES", "show_row", "write_page"]

TITLES = ("place", "trial", "form", "takes", "accuracy", "mean MACs", "at an accuracy of")
"""What the columns of the table are called."""


def show_row(row: TrialRow, rows: Sequence[TrialRow]) -> list[str]:
    """Return a row as texts, one for each of `TITLES`.

    Args:
        row: the row.
        rows: all of the sweep; what all trials take alike is left out.
    """
    takes = ", ".join(
        f"{name} {_show(getattr(row.choices, name))}"
        for name in TRAINED
        if any(getattr(other.choices, name) != getattr(row.choices, name) for other in rows)
    )
    trial = name_trial(row.trial)
    if row.standing is None:
        return ["-", trial, row.variant, takes, row.failed or "-", "-", "-"]
    standing = row.standing
    return [
        f"{standing.place}{'' if standing.stays else ', ends here'}",
        trial,
        row.variant if row.variant == row.precision else f"{row.variant} ({row.rule}, {row.precision})",
        takes,
        " ".join(map(show_share, row.accuracy)),
        f"{standing.macs:,.0f}",
        show_share(standing.accuracy) + ("" if standing.met else ", which misses the target"),
    ]


def _show(choice: Any) -> str:
    """Write what a trial takes of one list; of several arguments those that are not as they are by default."""
    if isinstance(choice, Struct):
        choice = {
            field.name: value for field in fields(choice) if (value := getattr(choice, field.name)) != field.default
        }
    return "none" if choice is None else choice if isinstance(choice, str) else msgspec.json.encode(choice).decode()


def write_page(path: Path, folder: Path, settings: Settings, rows: Sequence[TrialRow]) -> None:
    """Write the page. It loads nothing, and runs only the scripts that it names by their sha256.

    Raises:
        MissingError: bokeh or jinja2 is not installed, or the file cannot be written.
    """
    jinja2 = require("jinja2", extra="report")
    require("bokeh", extra="report")
    from bokeh.embed import components
    from bokeh.resources import Resources

    library = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    last = max(row.rung for row in rows)
    script, place = components(
        _draw([row for row in rows if row.rung == last and row.standing is not None], folder), wrap_script=False
    )
    safe = jinja2.utils.markupsafe.Markup
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resources.files(__package__).joinpath("page.html.jinja").read_text("utf-8"))
    style = resources.files("offramp.calibrate.html_report").joinpath("page.css").read_text("utf-8")
    page = template.render(
        name=folder.name,
        settings=settings,
        target=settings.make_target().describe_limits(),
        versions=rows[-1].versions,
        plot=safe(place),
        titles=TITLES,
        rungs=[
            {
                "number": rung + 1,
                "epochs": next(row.epochs for row in rows if row.rung == rung),
                "rows": [show_row(row, rows) for row in rows if row.rung == rung],
            }
            for rung in range(last, -1, -1)
        ],
        style=safe(style),
        scripts=[safe(part) for part in (library, script)],
        hashes=[base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (library, script)],
    )
    write_atomically(path, page.encode())


def _draw(rows: Sequence[TrialRow], folder: Path) -> "figure":
    """Draw what thresholds of each row reach, those that nothing beats in a colour, and each row's best point."""
    plot = empty_figure(height=430, x_axis_label="mean multiply-accumulates", y_axis_label="accuracy, %")
    points = [(macs, accuracy, row) for row in rows for macs, accuracy in lay_tradeoffs(row, folder)]
    best = [point for point in points if not any(_beats(other, point) for other in points)]
    chosen = [(row.standing.macs, row.standing.accuracy, row) for row in rows if row.standing is not None]
    layers: tuple[tuple[str, list[tuple[float, float, TrialRow]], dict[str, Any]], ...] = (
        ("other thresholds", points, {"color": GREY, "size": 5, "alpha": 0.6}),
        ("no trial does better", sorted(best, key=lambda point: point[:2]), {"color": BLUE, "size": 8}),
        ("best for the target", chosen, {"color": RED, "size": 10, "marker": "diamond"}),
    )
    for name, marks, look in layers:
        source = data_source(
            {
                "x": [macs for macs, _, _ in marks],
                "y": [accuracy * 100 for _, accuracy, _ in marks],
                "name": [f"{name_trial(row.trial)} {row.variant}" for _, _, row in marks],
                "takes": [show_row(row, rows)[3] for _, _, row in marks],
            }
        )
        plot.scatter("x", "y", source=source, legend_label=name, **look)
    add_tip(plot, "<b>@name</b> @takes: @y{0.00} % at @x{0,0}")
    plot.x_range.start = 0
    move_legend_below(plot, columns=1)
    return plot


def _beats(point: tuple[float, float, TrialRow], other: tuple[float, float, TrialRow]) -> bool:
    return point[:2] != other[:2] and point[0] <= other[0] and point[1] >= other[1]
