"""The page of a sweep: what the trials of the last rung reach, and the table."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from ..calibrate.html_report.figures import BLUE, GREY, NARROW, PAPER, RED, Plot, Tips, add_legend, render_plot
from ..errors import require
from ..files import write_atomically
from ..units import show_share
from .ranking import lay_tradeoffs
from .settings import TRAINED, Settings
from .table import TrialRow, name_trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    """Write the page. It loads nothing and runs nothing.

    Raises:
        MissingError: matplotlib or jinja2 is not installed, or the file cannot be written.
    """
    jinja2 = require("jinja2", extra="report")
    last = max(row.rung for row in rows)
    plot = _make_plot([row for row in rows if row.rung == last and row.standing is not None], folder)
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
        plot=safe(render_plot("trials", plot)),
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
    )
    write_atomically(path, page.encode())


def _make_plot(rows: Sequence[TrialRow], folder: Path) -> Plot:
    """Show what thresholds of each row reach, those that nothing beats in a colour, and each row's best point."""
    points = [(macs, accuracy, row) for row in rows for macs, accuracy in lay_tradeoffs(row, folder)]
    best = [point for point in points if not any(_beats(other, point) for other in points)]
    chosen = [(row.standing.macs, row.standing.accuracy, row) for row in rows if row.standing is not None]
    layers: tuple[tuple[str, list[tuple[float, float, TrialRow]], dict[str, Any]], ...] = (
        ("other thresholds", points, {"color": GREY, "markersize": 4, "marker": "o", "alpha": 0.6}),
        (
            "no trial does better",
            sorted(best, key=lambda point: point[:2]),
            {"color": BLUE, "markersize": 6, "marker": "o"},
        ),
        ("best for the target", chosen, {"color": RED, "markersize": 8, "marker": "D", "markeredgecolor": PAPER}),
    )

    def draw(axes: "Axes", width: int) -> Tips:
        from matplotlib.ticker import EngFormatter

        tips = {}
        for k, (name, marks, look) in enumerate(layers):
            x, y = [macs for macs, _, _ in marks], [100 * accuracy for _, accuracy, _ in marks]
            axes.plot(x, y, linestyle="", label=name, gid=f"trials{k}", **look)
            tips[f"trials{k}"] = [
                f"{name_trial(row.trial)} {row.variant}\n{show_row(row, rows)[3]}\n{show_share(accuracy)} at {macs:,.0f}"
                for macs, accuracy, row in marks
            ]
        axes.set(xlim=(0, None), xlabel="mean multiply-accumulates", ylabel="accuracy, %")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        add_legend(axes, 1 if width == NARROW else 3)
        return tips

    return Plot("Accuracy over mean multiply-accumulates", lambda width: 440 if width == NARROW else 400, draw)


def _beats(point: tuple[float, float, TrialRow], other: tuple[float, float, TrialRow]) -> bool:
    return point[:2] != other[:2] and point[0] <= other[0] and point[1] >= other[1]
