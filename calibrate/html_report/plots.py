"""The plots of a report, by Bokeh: they answer to the mouse, and one file of JavaScript in the page draws them offline."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import Calibration, OperatingPoint
from ...bundle.calibration import Chain
from ...units import show_thresholds, show_time
from .contents import Distribution, Measured, Report
from .reliability import BINS, Reliability

if TYPE_CHECKING:
    from bokeh.plotting import figure

BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#767676"
"""The colours of Okabe and Ito that stand apart for the colour-blind (Color Universal Design, 2008)."""

TIP = '<div style="max-width:22em;white-space:pre-line"><b>@name</b>\n@said</div>'
"""What hovering over a way to run shows; Bokeh escapes the values."""


def draw_plots(report: Report) -> dict[str, "figure"]:
    """Return the plots that a report has data for, by name."""
    found, measured = report.calibration, report.measured
    plots = {"frontier": _draw_frontier(report, energy=False), "shares": _draw_shares(found, measured)}
    if any(point.energy_j is not None for point in found.points.values()):
        plots["energy"] = _draw_frontier(report, energy=True)
    plots["exits"] = _draw_exits(report.chain)
    if measured is not None:
        if measured.distributions:
            plots["latency"] = _draw_distributions(measured.distributions)
        for one, threshold in zip_longest(measured.reliability, measured.thresholds):
            plots[f"reliability{one.exit}"] = _draw_reliability(one, threshold)
    return plots


def show_placement(placement: Sequence[str]) -> str:
    """Name the devices of all stages, or the one of them all."""
    return ", ".join(placement if len(set(placement)) > 1 else placement[:1])


def show_runs(point: OperatingPoint) -> str:
    """Say what an operating point runs."""
    what = "early exit" if point.static is None else f"static network to exit {point.static}"
    return f"{what}, {point.variant} on {show_placement(point.placement)}"


def _draw_frontier(report: Report, *, energy: bool) -> "figure":
    """Draw every way to run: accuracy, or agreement without labels, over mean latency or energy."""
    from bokeh.models import LabelSet

    found, measured = report.calibration, report.measured
    labelled = found.point.accuracy is not None
    unit, factor = ("mJ", 1e3) if energy else ("us", 1e6)
    plot = _figure(
        height=430,
        x_axis_label=f"mean {'energy' if energy else 'latency'}, {unit}",
        y_axis_label="accuracy, %" if labelled else "agreement with the whole network, %",
    )
    kinds: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
        "other thresholds on the frontier": (
            [_tip("early exit", one.accuracy, one, one.thresholds) for one in found.frontier if one.static is None],
            {"marker": "circle", "size": 7, "color": ORANGE},
        ),
        "static network": (
            [
                _tip(f"static network to exit {one.exit}", _right(one), one, ())
                | {"label": f"{one.variant} exit {one.exit}" if len(found.variants) > 1 else f"exit {one.exit}"}
                for one in found.statics
                if found.took_part(one)
            ],
            {"marker": "square", "size": 9, "color": BLUE},
        ),
        "static network, never recommended": (
            [
                _tip(f"static network to exit {one.exit}", _right(one), one, ())
                for one in found.statics
                if not found.took_part(one)
            ],
            {"marker": "square", "size": 9, "line_color": BLUE, "fill_color": None},
        ),
        "operating point": (
            [
                _tip(f"operating point {name}", _right(one), one, one.thresholds, one.promise) | {"label": name}
                for name, one in found.points.items()
            ],
            {"marker": "diamond", "size": 17, "color": RED},
        ),
    }
    if measured is not None and measured.benchmark is not None and not energy:
        contenders = {
            f"early exit, point {measured.point}": measured.benchmark.early,
            "whole static network": measured.benchmark.whole,
        }
        if measured.benchmark.single is not None:
            contenders[str(measured.benchmark.single_name)] = measured.benchmark.single
        kinds["measured on the samples of this report"] = (
            [
                {"x": row.mean_s, "y": row.accuracy, "name": name, "runs": f"{measured.samples} samples"}
                for name, row in contenders.items()
            ],
            {"marker": "x", "size": 11, "line_width": 2.5, "line_color": "black"},
        )
    every = [row for rows, _ in kinds.values() for row in rows if _x(row, energy) is not None]
    for name, (rows, look) in kinds.items():
        rows = [row for row in rows if _x(row, energy) is not None]
        if not rows:
            continue
        columns: dict[str, list[Any]] = {
            "x": [(_x(row, energy) or 0.0) * factor for row in rows],
            "y": [row["y"] * 100 for row in rows],
            "said": [_say(row, "accuracy" if labelled else "agreement") for row in rows],
        }
        columns |= {key: [row.get(key, "") for row in rows] for key in ("name", "label")}
        source = _source(columns)
        plot.scatter("x", "y", source=source, legend_label=name, **look)
        if any(columns["label"]) and len(rows) <= 12:
            plot.add_layout(
                LabelSet(x="x", y="y", text="label", source=source, x_offset=8, y_offset=6, text_font_size="11px")
            )
    _hover(plot, TIP)
    most = max(_x(row, energy) or 0.0 for row in every) * factor
    plot.x_range.start, plot.x_range.end = 0, most * 1.18
    low, high = min(row["y"] for row in every) * 100, max(row["y"] for row in every) * 100
    plot.y_range.start, plot.y_range.end = low - 0.12 * (high - low) - 0.05, high + 0.15 * (high - low) + 0.05
    _legend_below(plot, columns=1)
    return plot


def _x(row: Mapping[str, Any], energy: bool) -> float | None:
    value = row.get("energy_j") if energy else row["x"]
    return None if value is None else float(value)


def _right(one: Any) -> float:
    return float(1 - one.disagreement if one.accuracy is None else one.accuracy)


def _tip(name: str, right: float, one: Any, thresholds: Sequence[float], promise: str = "") -> dict[str, Any]:
    where = one.device if hasattr(one, "device") else show_placement(one.placement)
    return {
        "x": one.latency_s,
        "y": right,
        "energy_j": one.energy_j,
        "name": name,
        "runs": f"{one.variant} on {where}",
        "thresholds": f"thresholds {show_thresholds(thresholds)}" if thresholds else "",
        "promise": promise,
    }


def _say(row: Mapping[str, Any], what: str) -> str:
    lines = [f"{what} {row['y']:.2%}", f"mean latency {show_time(row['x'])}"]
    if row.get("energy_j") is not None:
        lines.append(f"mean energy {row['energy_j'] * 1e3:.4g} mJ")
    lines += [row[key] for key in ("runs", "thresholds", "promise") if row.get(key)]
    return "\n".join(lines)


def _draw_shares(found: Calibration, measured: Measured | None) -> "figure":
    """Draw where samples leave: a bar for each point with early exit, and what was measured."""
    chains = {name: one.exit_shares for name, one in found.points.items() if one.static is None}
    if measured is not None and measured.benchmark is not None:
        chains[f"{measured.point}, measured"] = measured.benchmark.exit_shares
    names = list(chains)[::-1]
    plot = _figure(
        height=110 + 38 * max(1, len(names)),
        x_axis_label="samples, %",
        y_range=names or ["no early exit"],
        x_range=(0, 100),
    )
    exits = max([len(shares) for shares in chains.values()], default=0)
    for k, colour in enumerate(_colours(exits)):
        at = [name for name in names if k < len(chains[name])]
        left = [sum(chains[name][:k]) * 100 for name in at]
        right = [sum(chains[name][: k + 1]) * 100 for name in at]
        said = [f"{chains[name][k]:.2%} leave at exit {k}" for name in at]
        source = _source({"y": at, "left": left, "right": right, "said": said})
        plot.hbar("y", height=0.66, left="left", right="right", source=source, color=colour, legend_label=f"exit {k}")
    _hover(plot, "@y: @said")
    plot.ygrid.visible = False
    if exits:
        _legend_below(plot, columns=4)
    return plot


def _draw_exits(chain: Chain) -> "figure":
    """Draw the latency of leaving at each exit as calibration measured it: median to 99th percentile, and the mean."""
    names = [f"exit {k}" for k in range(len(chain.exits))][::-1]
    plot = _figure(height=110 + 34 * len(names), x_axis_label="latency, us", y_range=names)
    rows = list(chain.exits)[::-1]
    columns: dict[str, list[Any]] = {"y": names}
    columns |= {key: [getattr(one, f"{key}_s") * 1e6 for one in rows] for key in ("mean", "p50", "p90", "p99")}
    columns["said"] = [
        ", ".join(f"{key} {show_time(getattr(one, f'{key}_s'))}" for key in ("mean", "p50", "p90", "p99"))
        for one in rows
    ]
    source = _source(columns)
    plot.hbar("y", height=0.4, left="p50", right="p90", source=source, color=BLUE, legend_label="p50 to p90")
    plot.hbar(
        "y", height=0.12, left="p90", right="p99", source=source, color=BLUE, alpha=0.55, legend_label="p90 to p99"
    )
    plot.scatter("mean", "y", marker="diamond", size=12, source=source, color=RED, legend_label="mean")
    _hover(plot, "@y: @said")
    plot.x_range.start = 0
    _legend_below(plot)
    return plot


def _draw_distributions(found: Sequence[Distribution]) -> "figure":
    """Draw which share of the inferences is done after which time."""
    from bokeh.models import FixedTicker

    plot = _figure(height=400, x_axis_label="latency, us", y_axis_label="inferences done, %", x_axis_type="log")
    decades = range(-1, 10)
    plot.xaxis.ticker = FixedTicker(ticks=[digit * 10.0**decade for decade in decades for digit in (1, 2, 5)])
    share = np.linspace(0, 100, len(found[0].percentiles_s))
    exits = _colours(len(found) - 2)
    looks = [{"color": colour, "line_width": 2} for colour in exits]
    looks += [
        {"color": RED, "line_width": 3, "line_dash": "dashed"},
        {"color": "black", "line_width": 2, "line_dash": "dotted"},
    ]
    for one, look in zip(found, looks, strict=True):
        columns = {"x": [value * 1e6 for value in one.percentiles_s], "y": share}
        columns |= {"name": [one.name] * len(share), "said": [show_time(value) for value in one.percentiles_s]}
        plot.line("x", "y", source=_source(columns), legend_label=one.name, **look)
    _hover(plot, "@name: @y{0.0}% within @said")
    _legend_below(plot)
    return plot


def _draw_reliability(one: Reliability, threshold: float | None) -> "figure":
    """Draw how often an exit is right over its score, with intervals and how many samples each bar stands for."""
    from bokeh.models import FixedTicker, Whisker

    plot = _figure(
        height=300,
        x_axis_label="score",
        y_axis_label="right, %",
        x_range=(0, 1),
        y_range=(0, 128),
        title=f"exit {one.exit}",
    )
    there = [(i, found) for i, found in enumerate(one.bins) if found is not None]
    source = _source(
        {
            "left": [i / BINS for i, _ in there],
            "right": [(i + 1) / BINS for i, _ in there],
            "middle": [(i + 0.5) / BINS for i, _ in there],
            "top": [found.accuracy * 100 for _, found in there],
            "low": [found.interval[0] * 100 for _, found in there],
            "high": [found.interval[1] * 100 for _, found in there],
            "samples": [str(found.samples) for _, found in there],
            "said": [
                f"{found.samples} samples, mean score {found.score:.3f}, {found.accuracy:.1%} right"
                for _, found in there
            ],
        }
    )
    plot.quad(left="left", right="right", top="top", bottom=0, source=source, color=BLUE, fill_alpha=0.3)
    plot.add_layout(Whisker(base="middle", lower="low", upper="high", source=source, line_color=BLUE))
    plot.text("middle", 103, "samples", source=source, angle=np.pi / 2, text_font_size="10px", text_baseline="middle")
    plot.line([0, 1], [0, 100], color=GREY, line_dash="dashed", line_width=2)
    if threshold is not None and threshold <= 1:
        plot.line([threshold] * 2, [0, 102], color=RED, line_width=2)
    plot.yaxis.ticker = FixedTicker(ticks=[0, 20, 40, 60, 80, 100])
    _hover(plot, "@said")
    return plot


def _figure(**options: Any) -> "figure":
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


def _source(columns: Mapping[str, Any]) -> Any:
    from bokeh.models import ColumnDataSource

    return ColumnDataSource({name: list(column) for name, column in columns.items()})


def _hover(plot: "figure", tip: str) -> None:
    from bokeh.models import HoverTool

    plot.add_tools(HoverTool(tooltips=tip))


def _legend_below(plot: "figure", columns: int = 2) -> None:
    plot.add_layout(plot.legend[0], "below")
    plot.legend.ncols = columns
    plot.legend.location = "left"
    plot.legend.border_line_color = None
    plot.legend.background_fill_color = None
    plot.legend.label_text_font_size = "12px"


def _colours(count: int) -> list[str]:
    """Return a colour for each exit, from dark to light, none too pale for a white ground."""
    from bokeh.palettes import viridis

    return list(viridis(count + max(1, count // 4))[:count])
