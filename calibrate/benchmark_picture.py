"""The picture of a benchmark: how long calls take, how right each network is, and where samples leave."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from ..pictures import COLOURS, set_log_scale, style_axes, write_caption, written_figure
from ..runtime import Result
from ..units import show_share, show_time, show_us
from .benchmark import Benchmark, MeasuredLimit
from .correctness import Correctness
from .intervals import Z95, mean_error
from .measure.latency import latencies

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MeasuredNetwork", "draw_benchmark", "list_networks"]

MOST_STEPS = 1000
"""A distribution of more calls is drawn by so many of its quantiles."""

LEAST_NUMBERED, LEAST_LABELLED, LEAST_TIMED = 0.015, 0.09, 0.2
"""Shares from which on a bar has room for the number of its exit, for its share too, and for the latency of leaving there."""

LEAST_LOGARITHMIC = 20
"""Latencies that differ by more are drawn on a logarithmic axis: else the slowest calls take the room of all others."""

TIMES_PIXELS = 370
"""Width of the plot of latencies, in pixels of 1/72 inch."""

LOOKS = {"early": (COLOURS[0], "o", "-"), "whole": (COLOURS[1], "s", "--"), "single": (COLOURS[2], "D", "-.")}
"""Colour, mark and line of each network: nobody must tell them by colour alone."""


class MeasuredNetwork(Struct, frozen=True):
    """What is drawn of one network.

    Attributes:
        latencies_s: of each call, float64 (N,).
        error_s: standard error of their mean, as turns of calls differ.
        right: the accuracy, or 1 less the mean loss, and its 95 % interval.
    """

    latencies_s: np.ndarray
    error_s: float
    right: MeasuredLimit


def list_networks(
    results: Mapping[str, Sequence[Sequence[Result]]], correctness: Correctness, block: int
) -> dict[str, MeasuredNetwork]:
    """Return what is drawn of `early`, `whole` and `single`, by these names, where their answers were judged.

    Args:
        results: by name, of each exit that was forced, or else once, the results in the order of the samples.
        correctness: how right each network is.
        block: how many calls follow each other in a turn.
    """
    networks = {}
    for name in (name for name in LOOKS if name in correctness.right):
        seconds, right = latencies(results[name][0]), correctness.right[name]
        networks[name] = MeasuredNetwork(seconds, mean_error(seconds, block), correctness.measure_mean(right))
    return networks


def draw_benchmark(benchmark: Benchmark, networks: Mapping[str, MeasuredNetwork], output: Path, *, title: str) -> None:
    """Write the picture of a benchmark.

    Args:
        benchmark: the figures and the verdict.
        networks: the networks by name, `early`, `whole` and perhaps `single`.
        output: the file to write, as `check_picture` returns it.
        title: what was measured.

    Raises:
        MissingError: the file cannot be written.
    """
    names = {"early": "early exit", "whole": "whole static network", "single": benchmark.single_name or ""}
    most_s = max(float(np.percentile(each.latencies_s, 99)) for each in networks.values())
    unit, factor = ("us", 1e6) if most_s < 0.01 else ("ms", 1e3)
    with written_figure(output, 9.0, 5.6) as figure:
        count = f"{benchmark.samples} sample{'s' * (benchmark.samples != 1)}"
        figure.suptitle(f"{title}: {count}", x=0.01, ha="left", fontsize=11, fontweight="bold")
        grid = figure.add_gridspec(2, 2, height_ratios=[2.6, 1], width_ratios=[1.15, 1])
        times, rightness = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        shares = figure.add_subplot(grid[1, :])
        _draw_times(times, networks, names, unit, factor)
        least_s = min(float(each.latencies_s.min()) for each in networks.values())
        is_log = 0 < LEAST_LOGARITHMIC * least_s < most_s
        times.set_xlim(0.92 * least_s * factor if is_log else 0, 1.08 * most_s * factor)
        if is_log:
            set_log_scale(times, TIMES_PIXELS)
            times.set_xlabel(f"{times.get_xlabel()}, logarithmic")
        _draw_rightness(rightness, networks, benchmark, unit, factor)
        times.legend(loc="lower right", facecolor="white", framealpha=0.9)
        _draw_shares(shares, benchmark)
        write_caption(figure, _describe(benchmark), 135)


def _draw_times(
    axes: "Axes", networks: Mapping[str, MeasuredNetwork], names: Mapping[str, str], unit: str, factor: float
) -> None:
    """Draw the share of calls that took at most so long, and the means."""
    style_axes(axes, "How long calls take", f"{unit} (upright: means)", "calls that took at most so long, %")
    for name, network in networks.items():
        colour, _, line = LOOKS[name]
        calls = np.sort(network.latencies_s)
        shares = np.linspace(0, 100, max(2, min(len(calls), MOST_STEPS)))
        axes.plot(np.percentile(calls, shares) * factor, shares, line, color=colour, linewidth=1.6, label=names[name])
        axes.axvline(float(calls.mean()) * factor, color=colour, linestyle=line, linewidth=0.9, alpha=0.6)
    axes.set_ylim(0, 101)


def _draw_rightness(
    axes: "Axes", networks: Mapping[str, MeasuredNetwork], benchmark: Benchmark, unit: str, factor: float
) -> None:
    """Draw accuracy or loss over mean latency, each with its 95 % interval."""
    has_losses = benchmark.counts == "losses"
    what = "mean loss" if has_losses else "accuracy"
    style_axes(axes, f"{what.capitalize()} and mean latency", f"mean latency, {unit}", f"{what}, %")
    for name, network in networks.items():
        colour, mark, _ = LOOKS[name]
        value, low, high = network.right.value, network.right.low, network.right.high
        if has_losses:
            value, low, high = 1 - value, 1 - high, 1 - low
        axes.errorbar(
            float(network.latencies_s.mean()) * factor,
            100 * value,
            xerr=Z95 * network.error_s * factor,
            yerr=[[100 * max(0.0, value - low)], [100 * max(0.0, high - value)]],
            fmt=mark,
            color=colour,
            capsize=3,
            markersize=6,
            linewidth=1.2,
        )
    axes.margins(x=0.15)
    axes.set_xlim(left=0)


def _draw_shares(axes: "Axes", benchmark: Benchmark) -> None:
    """Draw where samples leave, as it was measured and as calibration predicted."""
    from matplotlib import colormaps

    style_axes(axes, "Where samples leave", "samples, %")
    bars = {"measured": benchmark.exit_shares} | (
        {} if benchmark.predicted_shares is None else {"predicted": benchmark.predicted_shares}
    )
    colours = colormaps["viridis"](np.linspace(0.1, 0.9, len(benchmark.exit_shares)))
    for row, (bar, shares) in enumerate(bars.items()):
        left = 0.0
        for k, share in enumerate(shares):
            axes.barh(row, 100 * share, left=left, color=colours[k], height=0.72)
            if share >= LEAST_NUMBERED:
                ink = "white" if colours[k][:3] @ (0.3, 0.59, 0.11) < 0.5 else "black"
                text = f"exit {k}: {share:.1%}" if share >= LEAST_LABELLED else str(k)
                if bar == "measured" and share >= LEAST_TIMED:
                    text += f", {show_us(benchmark.exit_latency_s[k], 1)}"
                axes.text(left + 50 * share, row, text, ha="center", va="center", color=ink, fontsize=8)
            left += 100 * share
    axes.set_xlim(0, 100)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.grid(visible=False)


def _describe(benchmark: Benchmark) -> list[str]:
    low, high = map(show_share, benchmark.drop_interval)
    what = "Accuracy drop" if benchmark.counts == "labels" else "Loss added"
    groups = "" if benchmark.groups is None else f", over {benchmark.groups} groups"
    pace = "back to back" if benchmark.every_s is None else f"every {show_time(benchmark.every_s)}"
    board = ", ".join(benchmark.fingerprint[key] for key in ("soc", "engine") if key in benchmark.fingerprint)
    return [
        benchmark.verdict,
        f"{what} {show_share(benchmark.drop)}, paired 95 % interval {low} to {high}{groups}. Bars are 95 % intervals. The "
        f"slowest 1 % of calls may lie beyond the edge. Called {pace}. {board}.",
    ]
