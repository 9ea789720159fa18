"""The plot of what can be had: accuracy over mean latency or energy, for points, static networks and other thresholds."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ...bundle import Calibration, OperatingPoint
from ...bundle.calibration import StaticPoint
from ...units import show_mj, show_share, show_thresholds, show_time
from .contents import Measured, Report
from .figures import (
    BLUE,
    ORANGE,
    RED,
    add_tip,
    data_source,
    empty_figure,
    move_legend_below,
    show_placement,
    show_static,
)

if TYPE_CHECKING:
    from bokeh.plotting import figure

TIP = '<div style="max-width:22em;white-space:pre-line"><b>@name</b>\n@tip</div>'
"""Text under the mouse on a mark; Bokeh escapes the values."""

PLOT_WIDTH, PLOT_HEIGHT = 640, 300
"""The area that marks are drawn in, in pixels, on a screen of middling width."""

LETTER_WIDTH, LINE_HEIGHT, MARK_RADIUS = 6.2, 13, 6
"""Pixels that a label takes, on average, and a mark."""

MOST_LABELLED = 12
"""Layers with more marks than this get no labels, which would cover each other."""


KEPT = "accuracy against the whole network's"
"""What is drawn if some labels are unknown: 100 % less the drop."""


class _Mark(Struct, frozen=True, kw_only=True):
    """One mark in the plot.

    Attributes:
        name: what the mark stands for.
        label: the text beside it; empty for none.
        accuracy: share of right labels, or 1 less the mean loss; 1 less the drop if accuracy is unknown; without labels agreement
            with the whole network.
        latency_s, energy_j: means; `energy_j` is None if no energy was measured.
        lines: further lines of its tip.
    """

    name: str
    label: str = ""
    accuracy: float
    latency_s: float
    energy_j: float | None = None
    lines: tuple[str, ...] = ()


class _Layer(Struct, frozen=True):
    """Marks of one kind: their name in the legend, the marks, and how Bokeh shall draw them."""

    name: str
    marks: list[_Mark]
    look: dict[str, Any]


def draw_frontier(report: Report, *, energy: bool) -> "figure":
    """Draw accuracy or loss, or agreement without labels, over mean latency or energy."""
    calibration = report.calibration
    right = "loss" if calibration.point.target.counts == "losses" else "accuracy"
    whole = calibration.point.full_accuracy_interval
    measure = right if calibration.point.accuracy is not None else "agreement" if whole is None else KEPT
    unit, factor = ("mJ", 1e3) if energy else ("us", 1e6)
    plot = empty_figure(
        height=430,
        x_axis_label=f"mean {'energy' if energy else 'latency'}, {unit}",
        y_axis_label="agreement with the whole network, %" if measure == "agreement" else f"{measure}, %",
    )
    layers = _calibrated_layers(calibration, lower=0.0 if whole is None else 1 - whole[1])
    if report.measured is not None and not energy:
        layers += _measured_layers(report.measured, is_relative=whole is not None)
    drawn = [mark for layer in layers for mark in layer.marks if _cost(mark, energy) is not None]
    for layer in layers:
        _draw_layer(plot, layer, measure, energy=energy, factor=factor)
    add_tip(plot, TIP)
    costs = [(_cost(mark, energy) or 0.0) * factor for mark in drawn]
    plot.x_range.start, plot.x_range.end = 0, max(costs) * 1.18
    heights = [_height(mark, measure) for mark in drawn]
    low, high = min(heights), max(heights)
    plot.y_range.start, plot.y_range.end = low - 0.12 * (high - low) - 0.05, high + 0.15 * (high - low) + 0.05
    labelled = [mark for layer in layers if len(layer.marks) <= MOST_LABELLED for mark in layer.marks if mark.label]
    labelled = [mark for mark in labelled if _cost(mark, energy) is not None]
    _write_labels(plot, labelled, measure, energy=energy, factor=factor)
    move_legend_below(plot, columns=1)
    return plot


def _draw_layer(plot: "figure", layer: _Layer, measure: str, *, energy: bool, factor: float) -> None:
    marks = [mark for mark in layer.marks if _cost(mark, energy) is not None]
    if not marks:
        return
    columns: Mapping[str, Sequence[Any]] = {
        "x": [(_cost(mark, energy) or 0.0) * factor for mark in marks],
        "y": [_height(mark, measure) for mark in marks],
        "name": [mark.name for mark in marks],
        "tip": [_show_tip(mark, measure) for mark in marks],
    }
    source = data_source(columns)
    plot.scatter("x", "y", source=source, legend_label=layer.name, **layer.look)


def _write_labels(plot: "figure", marks: Sequence[_Mark], measure: str, *, energy: bool, factor: float) -> None:
    """Write the marks' labels beside them, each where it covers none that was written before."""
    from bokeh.models import LabelSet

    x = [(_cost(mark, energy) or 0.0) * factor for mark in marks]
    y = [_height(mark, measure) for mark in marks]
    horizontal, vertical = plot.x_range, plot.y_range
    points = [
        (
            PLOT_WIDTH * (right - horizontal.start) / (horizontal.end - horizontal.start),
            PLOT_HEIGHT * (up - vertical.start) / (vertical.end - vertical.start),
        )
        for right, up in zip(x, y, strict=True)
    ]
    offsets = place_labels(points, [mark.label for mark in marks])
    source = data_source(
        {
            "x": x,
            "y": y,
            "label": [mark.label for mark in marks],
            "right": [dx for dx, _ in offsets],
            "up": [dy for _, dy in offsets],
        }
    )
    plot.add_layout(
        LabelSet(x="x", y="y", text="label", source=source, x_offset="right", y_offset="up", text_font_size="11px")
    )


def place_labels(points: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[tuple[float, float]]:
    """Return where to write each label, in pixels right of and above its mark, so that none covers another, or a mark.

    Args:
        points: the marks, in pixels from the lower left corner of the plot.
        labels: their texts.
    """
    taken = [(x - MARK_RADIUS, y - MARK_RADIUS, x + MARK_RADIUS, y + MARK_RADIUS) for x, y in points]
    offsets = []
    for (x, y), label in zip(points, labels, strict=True):
        width = LETTER_WIDTH * len(label)
        places = [
            (dx, dy) for step in range(12) for dx in (8.0, -8.0 - width) for dy in (6.0 + 14 * step, -16.0 - 14 * step)
        ]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + LINE_HEIGHT) for dx, dy in places]
        inside = [i for i, box in enumerate(boxes) if box[0] >= 0 and box[1] >= 0]
        free = [i for i in inside if not any(_overlap(boxes[i], other) for other in taken)]
        best = min(free or inside or [0], key=lambda i: abs(places[i][1]))
        taken.append(boxes[best])
        offsets.append(places[best])
    return offsets


def _overlap(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _calibrated_layers(calibration: Calibration, *, lower: float) -> list[_Layer]:
    """Return what the calibration found: other thresholds, static networks, operating points.

    Args:
        calibration: the calibration.
        lower: what is added to accuracies on the frontier, so that the whole network's is 1, if some labels are unknown.
    """
    several = len(calibration.variants) > 1
    taking_part = [static for static in calibration.statics if calibration.took_part(static)]
    barred = [static for static in calibration.statics if not calibration.took_part(static)]
    thresholds = [
        _Mark(
            name="early exit",
            accuracy=tradeoff.accuracy + lower,
            latency_s=tradeoff.latency_s,
            energy_j=tradeoff.energy_j,
            lines=(f"{tradeoff.variant} on {show_placement(tradeoff.placement)}", *_show_all(tradeoff.thresholds)),
        )
        for tradeoff in calibration.frontier
        if tradeoff.static is None
    ]
    statics = [
        _mark_static(static, f"{static.variant} exit {static.exit}" if several else f"exit {static.exit}")
        for static in taking_part
    ]
    points = [_mark_point(name, point) for name, point in calibration.points.items()]
    hollow = {"marker": "square", "size": 9, "line_color": BLUE, "fill_color": None}
    return [
        _Layer("other thresholds on the frontier", thresholds, {"marker": "circle", "size": 7, "color": ORANGE}),
        _Layer("static network", statics, {"marker": "square", "size": 9, "color": BLUE}),
        _Layer("static network, never recommended", [_mark_static(static, "") for static in barred], hollow),
        _Layer("operating point", points, {"marker": "diamond", "size": 17, "color": RED}),
    ]


def _measured_layers(measured: Measured, *, is_relative: bool) -> list[_Layer]:
    """Return what the samples of the report gave: early exit, the whole static network, the best static network."""
    if measured.benchmark is None:
        return []
    rows = {
        f"early exit, point {measured.point}": measured.benchmark.early,
        "whole static network": measured.benchmark.whole,
    }
    if measured.benchmark.single is not None:
        rows[str(measured.benchmark.single_name)] = measured.benchmark.single
    lower = 1 - rows["whole static network"].accuracy if is_relative else 0.0
    lines = (f"{measured.samples} samples",)
    labels = ("early exit, measured", "whole network, measured", "best static, measured")
    marks = [
        _Mark(name=name, label=label, accuracy=row.accuracy + lower, latency_s=row.mean_s, lines=lines)
        for label, (name, row) in zip(labels, rows.items(), strict=False)
    ]
    look = {"marker": "x", "size": 11, "line_width": 2.5, "line_color": "black"}
    return [_Layer("measured on the samples of this report", marks, look)]


def _mark_static(static: StaticPoint, label: str) -> _Mark:
    return _Mark(
        name=show_static(static.exit),
        label=label,
        accuracy=_accuracy(static),
        latency_s=static.latency_s,
        energy_j=static.energy_j,
        lines=(f"{static.variant} on {static.device}",),
    )


def _mark_point(name: str, point: OperatingPoint) -> _Mark:
    promise = (point.promise,) if point.promise else ()
    return _Mark(
        name=f"operating point {name}",
        label=name,
        accuracy=_accuracy(point),
        latency_s=point.latency_s,
        energy_j=point.energy_j,
        lines=(f"{point.variant} on {show_placement(point.placement)}", *_show_all(point.thresholds), *promise),
    )


def _show_all(thresholds: Sequence[float]) -> tuple[str, ...]:
    return (f"thresholds {show_thresholds(thresholds)}",) if thresholds else ()


def _show_tip(mark: _Mark, measure: str) -> str:
    energy = () if mark.energy_j is None else (f"mean energy {show_mj(mark.energy_j)}",)
    lines = (
        f"{measure} {show_share(_height(mark, measure) / 100)}",
        f"mean latency {show_time(mark.latency_s)}",
        *energy,
        *mark.lines,
    )
    return "\n".join(lines)


def _height(mark: _Mark, measure: str) -> float:
    """Return what is drawn of a mark, in percent."""
    return 100 * (1 - mark.accuracy if measure == "loss" else mark.accuracy)


def _cost(mark: _Mark, energy: bool) -> float | None:
    return mark.energy_j if energy else mark.latency_s


def _accuracy(figures: OperatingPoint | StaticPoint) -> float:
    """Return the accuracy, if it is unknown that against the whole network's, or without labels the agreement with it."""
    if figures.accuracy is None:
        return float(1 - (figures.disagreement if figures.drop is None else figures.drop))
    return float(figures.accuracy)
