"""The plots of a report, drawn by Bokeh: they answer to the mouse, and a script inside the page draws them offline."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import Calibration
from ...bundle.calibration import Chain
from ...units import show_share, show_time
from .contents import Distribution, Measured, Report
from .exit_losses import PERCENTS, ExitLosses
from .figures import BLUE, GREY, RED, add_tip, data_source, empty_figure, exit_colours, move_legend_below
from .frontier_plot import draw_frontier
from .reliability import SCORE_BINS, Reliability

if TYPE_CHECKING:
    from bokeh.plotting import figure


def draw_plots(report: Report) -> dict[str, "figure"]:
    """Return the plots that a report has data for, by name."""
    calibration, measured = report.calibration, report.measured
    plots = {"frontier": draw_frontier(report, energy=False), "shares": _draw_shares(calibration, measured)}
    if any(point.energy_j is not None for point in calibration.points.values()):
        plots["energy"] = draw_frontier(report, energy=True)
    plots["exits"] = _draw_exits(report.chain)
    if measured is not None:
        if measured.distributions:
            plots["latency"] = _draw_distributions(measured.distributions)
        if measured.losses:
            plots["losses"] = _draw_losses(measured.losses)
        for reliability, threshold in zip_longest(measured.reliability, measured.thresholds):
            name = f"reliability{reliability.exit}"
            plots[name] = _draw_reliability(reliability, threshold, has_losses=bool(measured.losses))
    return plots


def _draw_shares(calibration: Calibration, measured: Measured | None) -> "figure":
    """Draw where samples leave: a bar for each point with early exit, and a bar for what was measured."""
    chains = {name: point.exit_shares for name, point in calibration.points.items() if point.exits_early}
    if measured is not None and measured.benchmark is not None:
        chains[f"{measured.point}, measured"] = measured.benchmark.exit_shares
    names = list(chains)[::-1]
    plot = empty_figure(
        height=110 + 38 * max(1, len(names)),
        x_axis_label="samples, %",
        y_range=names or ["no early exit"],
        x_range=(0, 100),
    )
    exits = max([len(shares) for shares in chains.values()], default=0)
    for k, colour in enumerate(exit_colours(exits)):
        bars = [name for name in names if k < len(chains[name])]
        left = [sum(chains[name][:k]) * 100 for name in bars]
        right = [sum(chains[name][: k + 1]) * 100 for name in bars]
        tips = [f"{show_share(chains[name][k])} leave at exit {k}" for name in bars]
        source = data_source({"y": bars, "left": left, "right": right, "tip": tips})
        plot.hbar("y", height=0.66, left="left", right="right", source=source, color=colour, legend_label=f"exit {k}")
    add_tip(plot, "@y: @tip")
    plot.ygrid.visible = False
    if exits:
        move_legend_below(plot, columns=4)
    return plot


def _draw_exits(chain: Chain) -> "figure":
    """Draw the latency of leaving at each exit as calibration measured it: median to 99th percentile, and the mean."""
    names = [f"exit {k}" for k in range(len(chain.exits))][::-1]
    plot = empty_figure(height=110 + 34 * len(names), x_axis_label="latency, us", y_range=names)
    latencies = list(chain.exits)[::-1]
    statistics = "mean", "p50", "p90", "p99"
    columns: dict[str, list[Any]] = {"y": names}
    columns |= {key: [getattr(latency, f"{key}_s") * 1e6 for latency in latencies] for key in statistics}
    columns["tip"] = [
        ", ".join(f"{key} {show_time(getattr(latency, f'{key}_s'))}" for key in statistics) for latency in latencies
    ]
    source = data_source(columns)
    plot.hbar("y", height=0.4, left="p50", right="p90", source=source, color=BLUE, legend_label="p50 to p90")
    plot.hbar(
        "y", height=0.12, left="p90", right="p99", source=source, color=BLUE, alpha=0.55, legend_label="p90 to p99"
    )
    plot.scatter("mean", "y", marker="diamond", size=12, source=source, color=RED, legend_label="mean")
    add_tip(plot, "@y: @tip")
    plot.x_range.start = 0
    move_legend_below(plot)
    return plot


def _draw_distributions(distributions: Sequence[Distribution]) -> "figure":
    """Draw the share of inferences that are done after a time: each exit, then early exit, then the whole static network."""
    from bokeh.models import FixedTicker

    plot = empty_figure(height=400, x_axis_label="latency, us", y_axis_label="inferences done, %", x_axis_type="log")
    decades = range(-1, 10)
    plot.xaxis.ticker = FixedTicker(ticks=[digit * 10.0**decade for decade in decades for digit in (1, 2, 5)])
    share = np.linspace(0, 100, len(distributions[0].percentiles_s))
    looks: list[dict[str, Any]] = [
        {"color": colour, "line_width": 2} for colour in exit_colours(len(distributions) - 2)
    ]
    looks += [
        {"color": RED, "line_width": 3, "line_dash": "dashed"},
        {"color": "black", "line_width": 2, "line_dash": "dotted"},
    ]
    for distribution, look in zip(distributions, looks, strict=True):
        times_s = distribution.percentiles_s
        source = data_source(
            {
                "x": [value * 1e6 for value in times_s],
                "y": share,
                "name": [distribution.name] * len(share),
                "tip": [show_time(value) for value in times_s],
            }
        )
        plot.line("x", "y", source=source, legend_label=distribution.name, **look)
    add_tip(plot, "@name: @y{0.0}% within @tip")
    move_legend_below(plot)
    return plot


def _draw_losses(losses: Sequence[ExitLosses]) -> "figure":
    """Draw for each exit the share of samples whose loss is at most so large."""
    plot = empty_figure(
        height=320, x_axis_label="loss", y_axis_label="samples with at most this loss, %", x_range=(0, 1)
    )
    for exit_, colour in zip(losses, exit_colours(len(losses)), strict=True):
        name = f"exit {exit_.exit}"
        columns = {"x": exit_.percentiles, "y": PERCENTS, "name": [name] * len(PERCENTS)}
        plot.line("x", "y", source=data_source(columns), legend_label=name, color=colour, line_width=2)
    add_tip(plot, "@name: @y{0}% of the samples have a loss of at most @x{0.000}")
    move_legend_below(plot, columns=4)
    return plot


def _draw_reliability(reliability: Reliability, threshold: float | None, *, has_losses: bool) -> "figure":
    """Draw how often an exit is right, or 1 less its loss, by its score, with intervals; above bars stand numbers of samples."""
    from bokeh.models import FixedTicker, Whisker

    plot = empty_figure(
        height=300,
        x_axis_label="score",
        y_axis_label="100 % less the mean loss" if has_losses else "right, %",
        x_range=(0, 1),
        y_range=(0, 128),
        title=f"exit {reliability.exit}",
    )
    filled = [(i, bin_) for i, bin_ in enumerate(reliability.bins) if bin_ is not None]
    source = data_source(
        {
            "left": [i / SCORE_BINS for i, _ in filled],
            "right": [(i + 1) / SCORE_BINS for i, _ in filled],
            "middle": [(i + 0.5) / SCORE_BINS for i, _ in filled],
            "top": [bin_.accuracy * 100 for _, bin_ in filled],
            "low": [bin_.interval[0] * 100 for _, bin_ in filled],
            "high": [bin_.interval[1] * 100 for _, bin_ in filled],
            "samples": [str(bin_.samples) for _, bin_ in filled],
            "tip": [
                f"{bin_.samples} samples, mean score {bin_.score:.3f}, "
                + (f"loss {1 - bin_.accuracy:.1%}" if has_losses else f"{bin_.accuracy:.1%} right")
                for _, bin_ in filled
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
    add_tip(plot, "@tip")
    return plot
