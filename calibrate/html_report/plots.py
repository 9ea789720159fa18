"""The plots of a report as SVG: they need no script, follow the page by night, and print."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from ...bundle import Calibration
from ...bundle.calibration import Chain
from ...pictures import set_log_scale
from ...units import show_share, show_time
from .answer_examples import AnsweredNumbers
from .contents import Distribution, Measured, Report
from .exit_losses import PERCENTS, ExitLosses
from .figures import (
    BLUE,
    GREY,
    INK,
    NARROW,
    PAPER,
    RED,
    Plot,
    Tips,
    add_legend,
    exit_colours,
    render_plot,
    shorten,
    show_placement,
)
from .frontier_plot import make_frontier
from .label_places import choose_axis
from .reliability import SCORE_BINS, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_WRITTEN = 6.0
"""A part of a bar that takes fewer percent of it has no room for its figure."""

DASHES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P")
"""Lines and marks of exits, which differ without their colours too."""


def draw_plots(report: Report) -> dict[str, str]:
    """Return the plots that a report has data for as HTML, by name; `why` is the one of its goal, `other_cost` the other."""
    calibration, measured = report.calibration, report.measured
    has_energy = any(point.energy_j is not None for point in calibration.points.values())
    by_energy = has_energy and calibration.points[report.point].target.goal == "energy"
    plots = {"why": make_frontier(report, energy=by_energy), "exits": _make_exits(report.chain)}
    shares = _make_shares(calibration, measured)
    if shares is not None:
        plots["shares"] = shares
    if has_energy:
        plots["other_cost"] = make_frontier(report, energy=not by_energy)
    if measured is not None:
        if measured.distributions:
            plots["latency"] = _make_distributions(measured.distributions)
        if measured.losses:
            plots["losses"] = _make_losses(measured.losses)
        if measured.answers is not None and measured.answers.numbers is not None:
            plots["numbers"] = _make_numbers(measured.answers.numbers)
        for reliability, threshold in zip_longest(measured.reliability, measured.thresholds):
            name = f"reliability{reliability.exit}"
            plots[name] = _make_reliability(reliability, threshold, has_losses=bool(measured.losses))
    return {name: render_plot(name, plot) for name, plot in plots.items()}


def _make_shares(calibration: Calibration, measured: Measured | None) -> Plot | None:
    """Show where samples leave: a bar for each point with early exit, and one for what was measured. None without any."""
    bars = {name: point.exit_shares for name, point in calibration.points.items() if point.exits_early}
    if measured is not None and measured.benchmark is not None:
        bars[f"{measured.point}, measured"] = measured.benchmark.exit_shares
    if not bars:
        return None
    exits = max(map(len, bars.values()))

    def draw(axes: "Axes", width: int) -> Tips:
        for k, colour in enumerate(exit_colours(exits)):
            reaching = [row for row, shares in enumerate(bars.values()) if k < len(shares)]
            left = [100 * sum(shares[:k]) for shares in bars.values() if k < len(shares)]
            part = [100 * shares[k] for shares in bars.values() if k < len(shares)]
            rows = axes.barh(reaching, part, 0.66, left, color=colour, edgecolor=PAPER, label=f"exit {k}")
            least = LEAST_WRITTEN * (2 if width == NARROW else 1)
            texts = [f"{value:.1f}%" if value >= least else "" for value in part]
            axes.bar_label(rows, texts, label_type="center", fontsize=10, color=PAPER)
        axes.set(xlim=(0, 100), xlabel="samples, %")
        axes.set_yticks(range(len(bars)), [shorten(name, width // 20) for name in bars])
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        add_legend(axes, 3 if width == NARROW else 8)
        return {}

    rows = len(bars)
    legend = {True: 16 * -(-exits // 3), False: 16 * -(-exits // 8)}
    return Plot("Where samples leave", lambda width: 60 + 34 * rows + legend[width == NARROW], draw)


def _make_exits(chain: Chain) -> Plot:
    """Show the latency of leaving at each exit as calibration measured it: median to 99th percentile, and the mean."""
    factor, unit = _choose_unit(max(exit_.p99_s for exit_ in chain.exits))
    shown = [
        seconds * factor for exit_ in chain.exits for seconds in (exit_.mean_s, exit_.p50_s, exit_.p90_s, exit_.p99_s)
    ]
    across = choose_axis(shown, shown, may_be_log=True)

    def draw(axes: "Axes", width: int) -> Tips:
        rows = np.arange(len(chain.exits))
        mean, p50, p90, p99 = (
            np.array([getattr(exit_, f"{key}_s") for exit_ in chain.exits]) * factor
            for key in ("mean", "p50", "p90", "p99")
        )
        axes.barh(rows, p90 - p50, 0.42, p50, color=BLUE, edgecolor=BLUE, label="p50 to p90")
        axes.barh(rows, p99 - p90, 0.14, p90, color=BLUE, edgecolor=BLUE, alpha=0.6, label="p90 to p99")
        axes.plot(mean, rows, "D", color=RED, markersize=8, markeredgecolor=PAPER, label="mean", gid="exit_means")
        axes.set(xlim=(across.low, across.high), xlabel=f"latency, {unit}{', logarithmic' if across.is_log else ''}")
        if across.is_log:
            set_log_scale(axes, width)
        axes.set_yticks(rows, [f"exit {k}" for k in rows])
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        add_legend(axes, 3)
        return {"exit_means": [f"exit {k}: mean {show_time(exit_.mean_s)}" for k, exit_ in enumerate(chain.exits)]}

    title = f"Latency of leaving at each exit of {chain.variant} on {show_placement(chain.placement)}"
    return Plot(title, lambda _: 76 + 30 * len(chain.exits), draw)


def _choose_unit(seconds: float) -> tuple[float, str]:
    """Return by what seconds are multiplied, and the unit that this gives."""
    return (1e6, "us") if seconds < 9999.5e-6 else (1e3, "ms")


def _make_distributions(distributions: Sequence[Distribution]) -> Plot:
    """Show the share of inferences that are done after a time: each exit, then early exit, then the whole static network."""
    factor, unit = _choose_unit(max(each.percentiles_s[-1] for each in distributions))

    def draw(axes: "Axes", width: int) -> Tips:
        share = np.linspace(0, 100, len(distributions[0].percentiles_s))
        *exits, early, whole = distributions
        for k, (each, colour) in enumerate(zip(exits, exit_colours(len(exits)), strict=True)):
            axes.plot(_scaled(each, factor), share, DASHES[k % 4], color=colour, linewidth=1.6, label=each.name)
        axes.plot(_scaled(early, factor), share, color=RED, linewidth=2.6, label=early.name)
        axes.plot(_scaled(whole, factor), share, color=INK, linewidth=2, linestyle=(0, (1, 1)), label=whole.name)
        axes.set(xlabel=f"latency, {unit}, logarithmic", ylabel="inferences done, %", ylim=(0, 100))
        set_log_scale(axes, width)
        add_legend(axes, 1 if width == NARROW else 3)
        return {}

    rows = len(distributions)
    return Plot(
        "Distribution of latencies", lambda width: 300 + 17 * (rows if width == NARROW else -(-rows // 3)), draw
    )


def _scaled(distribution: Distribution, factor: float) -> list[float]:
    return [seconds * factor for seconds in distribution.percentiles_s]


def _make_losses(losses: Sequence[ExitLosses]) -> Plot:
    """Show for each exit the share of samples whose loss is at most so large."""

    def draw(axes: "Axes", width: int) -> Tips:
        for exit_, colour in zip(losses, exit_colours(len(losses)), strict=True):
            dash = DASHES[exit_.exit % 4]
            axes.plot(exit_.percentiles, PERCENTS, dash, color=colour, linewidth=2, label=f"exit {exit_.exit}")
        largest = max(exit_.percentiles[-1] for exit_ in losses)
        axes.set(
            xlabel="loss",
            ylabel="samples with at most this loss, %",
            xlim=(0, min(1, largest * 1.04) or 1),
            ylim=(0, 100),
        )
        add_legend(axes, 3 if width == NARROW else 8)
        return {}

    return Plot(
        "Losses of each exit", lambda width: 290 + 17 * (-(-len(losses) // (3 if width == NARROW else 8))), draw
    )


def _make_numbers(numbers: AnsweredNumbers) -> Plot:
    """Show answers that are one number over what is true, each exit with marks of its own."""
    exits = sorted(set(numbers.exit))

    def draw(axes: "Axes", width: int) -> Tips:
        for k, colour in zip(exits, exit_colours(len(exits)), strict=True):
            rows = [i for i, exit_ in enumerate(numbers.exit) if exit_ == k]
            x, y = [numbers.truth[i] for i in rows], [numbers.answer[i] for i in rows]
            name = f"left at exit {k} ({len(rows)})"
            axes.plot(x, y, MARKERS[k % len(MARKERS)], color=colour, markersize=4.5, alpha=0.8, label=name)
        ends = min(numbers.truth), max(numbers.truth)
        axes.plot(ends, ends, "--", color=GREY, linewidth=1.6)
        axes.set(xlabel=f"true {shorten(numbers.name)}", ylabel=f"answered {shorten(numbers.name)}")
        add_legend(axes, 1 if width == NARROW else 4)
        return {}

    rows = len(exits)
    return Plot(
        "Answers over the truth",
        lambda width: 330 + 17 * (rows if width == NARROW else -(-rows // 4)),
        draw,
        (560, NARROW),
    )


def _make_reliability(reliability: Reliability, threshold: float | None, *, has_losses: bool) -> Plot:
    """Show how often an exit is right, or 1 less its loss, by its score, with intervals; above bars stand numbers of samples."""

    def draw(axes: "Axes", width: int) -> Tips:
        filled = [(i, bin_) for i, bin_ in enumerate(reliability.bins) if bin_ is not None]
        middle = [(i + 0.5) / SCORE_BINS for i, _ in filled]
        top = [100 * bin_.accuracy for _, bin_ in filled]
        low = [max(0.0, 100 * (bin_.accuracy - bin_.interval[0])) for _, bin_ in filled]
        high = [max(0.0, 100 * (bin_.interval[1] - bin_.accuracy)) for _, bin_ in filled]
        axes.bar(middle, top, 1 / SCORE_BINS, color=BLUE, edgecolor=BLUE, alpha=0.35)
        axes.errorbar(middle, top, (low, high), fmt="none", ecolor=BLUE, capsize=3, linewidth=1.4)
        for x, (_, bin_) in zip(middle, filled, strict=True):
            axes.text(x, 103, str(bin_.samples), rotation=90, fontsize=10, ha="center", va="bottom")
        axes.plot([0, 1], [0, 100], "--", color=GREY, linewidth=1.6)
        if threshold is not None and threshold <= 1:
            axes.plot([threshold] * 2, [0, 101], color=RED, linewidth=2)
        axes.set(xlim=(0, 1), ylim=(0, 132), xlabel="score", yticks=range(0, 101, 20))
        axes.set_ylabel("100 % less the mean loss" if has_losses else "right, %")
        axes.set_title(f"exit {reliability.exit}", loc="left", fontsize=12, fontweight="bold")
        return {}

    rightness = show_share(reliability.accuracy)
    return Plot(
        f"Reliability of the scores of exit {reliability.exit}, right {rightness}", lambda _: 270, draw, (NARROW,)
    )
