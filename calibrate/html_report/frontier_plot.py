"""The plot of what can be had: accuracy over mean latency or energy, and what the target allows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ...bundle import OperatingPoint
from ...pictures import set_log_scale
from ...units import show_mj, show_share, show_time
from .contents import Report
from .figures import (
    BLUE,
    GREY,
    INK,
    NARROW,
    ORANGE,
    PAPER,
    RED,
    SHADE,
    Plot,
    Tips,
    add_legend,
    settle_layout,
    shorten,
)
from .frontier_marks import BARRED, KINDS, MEASURED, OTHER, PROMISED, STATIC, UNPROMISED, Mark, collect_marks
from .label_places import Axis, choose_axis, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEPT = "accuracy against the whole network's"
"""What is drawn if some labels are unknown: 100 % less the drop."""

WIDTH, HEIGHT = 560, 400
"""Beside the recommendation, in pixels."""

LABEL_SIZE, FAR = 11, 15
"""Size of labels in pixels; a label so far from its mark is tied to it by a line."""

LEAST_APART = 5.0
"""Marks that are so near, in pixels, share a label."""

LOOKS: dict[str, dict[str, Any]] = {
    OTHER: {"marker": "o", "markersize": 5, "color": ORANGE, "markeredgecolor": ORANGE},
    BARRED: {"marker": "s", "markersize": 7, "color": PAPER, "markeredgecolor": GREY},
    STATIC: {"marker": "s", "markersize": 8, "color": BLUE, "markeredgecolor": PAPER},
    PROMISED: {"marker": "D", "markersize": 10, "color": RED, "markeredgecolor": PAPER},
    UNPROMISED: {"marker": "D", "markersize": 9, "color": PAPER, "markeredgecolor": RED, "markeredgewidth": 2},
    MEASURED: {"marker": "x", "markersize": 8, "color": INK, "markeredgewidth": 2.2},
}
"""How marks look: their shapes differ, not only their colours. Later ones lie above."""


class Scene(Struct, frozen=True, kw_only=True):
    """What is drawn.

    Attributes:
        marks: the most important first.
        measure: what stands on the upright axis: `accuracy`, `loss`, `agreement`, or `KEPT`.
        energy: whether the cost is energy.
        across, up: the axes: cost in mJ, us or ms, and accuracy in percent.
        factor, unit: by what seconds or joules are multiplied, and what that gives.
        least, most: the least accuracy in percent and the largest cost that the target allows; None without such a limit.
    """

    marks: Sequence[Mark]
    measure: str
    energy: bool
    across: Axis
    up: Axis
    factor: float
    unit: str
    least: float | None
    most: float | None

    def place(self, mark: Mark) -> tuple[float, float]:
        """Return where a mark stands; one that is far outside stands at the end of the axis."""
        return self.across.place((mark.cost(energy=self.energy) or 0.0) * self.factor), self.up.place(
            100 * mark.accuracy
        )

    def label(self, mark: Mark) -> str:
        """Return a mark's label, with the figures that its place does not show."""
        cost = mark.cost(energy=self.energy) or 0.0
        right = 1 - mark.accuracy if self.measure == "loss" else mark.accuracy
        outside = [show_share(right)] if self.up.is_outside(100 * mark.accuracy) else []
        if self.across.is_outside(cost * self.factor):
            outside.append(show_mj(cost) if self.energy else show_time(cost))
        label = shorten(mark.label)
        return f"{label} ({', '.join(outside)})" if outside and label else label

    def arrow(self, mark: Mark) -> str | None:
        """Return the marker that points to where a mark would be; None if it is inside."""
        cost, height = (mark.cost(energy=self.energy) or 0.0) * self.factor, 100 * mark.accuracy
        if self.across.is_outside(cost):
            return ">" if cost > self.across.high else "<"
        if self.up.is_outside(height):
            return "^" if height > self.up.high else "v"
        return None


def make_frontier(report: Report, *, energy: bool) -> Plot:
    """Make the plot of accuracy or loss, or agreement without labels, over mean latency or energy."""
    scene = arrange_scene(report, energy=energy)

    def draw(axes: "Axes", width: int) -> Tips:
        return _draw(scene, axes, width)

    kinds = len({mark.kind for mark in scene.marks}) + 1
    title = f"{scene.measure} over mean {'energy' if energy else 'latency'}"
    return Plot(
        title[:1].upper() + title[1:],
        lambda width: HEIGHT + 17 * (kinds if width == NARROW else -(-kinds // 2)) - 60,
        draw,
        (WIDTH, NARROW),
    )


def arrange_scene(report: Report, *, energy: bool) -> Scene:
    """Choose what the plot of a report shows, and its axes."""
    calibration = report.calibration
    whole = calibration.point.full_accuracy_interval
    right = "loss" if calibration.point.target.counts == "losses" else "accuracy"
    measure = right if calibration.point.accuracy is not None else "agreement" if whole is None else KEPT
    lower = 0.0 if whole is None else 1 - whole[1]
    marks = collect_marks(report, lower=lower, is_relative=whole is not None, energy=energy)
    costs = [mark.cost(energy=energy) or 0.0 for mark in marks]
    factor, unit = (1e3, "mJ") if energy else (1e6, "us") if max(costs) < 9999.5e-6 else (1e3, "ms")
    ours = [mark for mark in marks if mark.rank == 0]
    point = calibration.points[report.point]
    least, most = _find_limits(point, measure, energy=energy)
    limits = [] if least is None else [100 * least]
    up = choose_axis(
        [100 * mark.accuracy for mark in marks] + limits,
        [100 * mark.accuracy for mark in ours] + limits,
        may_be_log=False,
    )
    across = choose_axis(
        [cost * factor for cost in costs],
        [(mark.cost(energy=energy) or 0.0) * factor for mark in ours],
        may_be_log=True,
    )
    return Scene(
        marks=marks,
        measure=measure,
        energy=energy,
        across=across,
        up=up,
        factor=factor,
        unit=unit,
        least=None if least is None else 100 * least,
        most=None if most is None else most * factor,
    )


def _find_limits(point: OperatingPoint, measure: str, *, energy: bool) -> tuple[float | None, float | None]:
    """Return the least of what is drawn, as a fraction, and the largest cost that a point's target allows over all samples."""
    target, least = point.target, []
    if measure == "agreement":
        least = [1 - target.max_disagreement] if target.max_disagreement is not None else []
    elif measure == KEPT:
        least = [1 - target.max_drop] if target.max_drop is not None else []
    else:
        if target.max_drop is not None and point.full_accuracy is not None:
            least.append(point.full_accuracy - target.max_drop)
        if target.min_accuracy is not None:
            least.append(target.min_accuracy)
        if target.max_loss is not None:
            least.append(1 - target.max_loss)
    return max(least, default=None), target.max_energy_j if energy else target.max_latency_s


def _draw(scene: Scene, axes: "Axes", width: int) -> Tips:
    axes.set(xlim=(scene.across.low, scene.across.high), ylim=(scene.up.low, scene.up.high))
    _draw_scales(scene, axes, width)
    _shade_allowed(scene, axes)
    tips: dict[str, list[str]] = {}
    for kind in reversed(KINDS):
        of_kind = [mark for mark in scene.marks if mark.kind == kind]
        label: str | None = kind
        for arrow in dict.fromkeys(scene.arrow(mark) for mark in of_kind):
            marks = [mark for mark in of_kind if scene.arrow(mark) == arrow]
            name = f"frontier{'e' if scene.energy else ''}{KINDS.index(kind)}{arrow or ''}"
            look = {**LOOKS[kind], **({"marker": arrow} if arrow else {})}
            x, y = zip(*map(scene.place, marks), strict=True)
            axes.plot(x, y, linestyle="", clip_on=False, gid=name, label=label, zorder=4, **look)
            tips[name], label = [mark.describe(scene.measure) for mark in marks], None
    add_legend(axes, 1 if width == NARROW else 2)
    _write_labels(scene, axes)
    return tips


def _draw_scales(scene: Scene, axes: "Axes", width: int) -> None:
    from matplotlib.ticker import MaxNLocator

    what = "energy" if scene.energy else "latency"
    axes.set_xlabel(f"mean {what}, {scene.unit}{', logarithmic' if scene.across.is_log else ''}")
    name = {"agreement": "agreement with the whole network", KEPT: KEPT}.get(scene.measure, scene.measure)
    axes.set_ylabel(f"{name}, %{', less is better' if scene.measure == 'loss' else ''}")
    if scene.across.is_log:
        set_log_scale(axes, width)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4 if width == NARROW else 7))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if scene.measure == "loss":
        axes.yaxis.set_major_formatter(lambda value, _: f"{round(100 - value, 6):g}")


def _shade_allowed(scene: Scene, axes: "Axes") -> None:
    """Shade what the target allows, up to its limits."""
    if scene.least is None and scene.most is None:
        return
    low = scene.up.low if scene.least is None else scene.up.place(scene.least)
    high = scene.across.high if scene.most is None else scene.across.place(scene.most)
    axes.fill_between(
        [scene.across.low, high],
        low,
        scene.up.high,
        color=SHADE,
        linewidth=0,
        zorder=0.5,
        label="what the target allows",
    )
    if scene.least is not None:
        axes.plot([scene.across.low, high], [low, low], "--", color=GREY, linewidth=1.2, zorder=1)
    if scene.most is not None:
        axes.plot([high, high], [low, scene.up.high], "--", color=GREY, linewidth=1.2, zorder=1)


def _write_labels(scene: Scene, axes: "Axes") -> None:
    """Write the marks' labels beside them, where they cover neither another label nor a mark; the others are left out."""
    from matplotlib.textpath import TextPath

    settle_layout(axes.figure)
    corner, area = axes.bbox.p0, (axes.bbox.width, axes.bbox.height)
    spots: list[tuple[float, float]] = [
        tuple(axes.transData.transform(scene.place(mark)) - corner) for mark in scene.marks
    ]
    texts = _share_labels([scene.label(mark) for mark in scene.marks], spots)
    labelled = [i for i, text in enumerate(texts) if text]
    widths = [TextPath((0, 0), texts[i], size=LABEL_SIZE).get_extents().x1 + 2 for i in labelled]
    others = [spot for spot, text in zip(spots, texts, strict=True) if not text]
    offsets = place_labels([spots[i] for i in labelled], widths, area=area, others=others)
    for i, offset in zip(labelled, offsets, strict=True):
        if offset is None:
            continue
        is_far = abs(offset[1]) > FAR
        axes.annotate(
            texts[i],
            scene.place(scene.marks[i]),
            (offset[0], offset[1] + 3),
            textcoords="offset pixels",
            fontsize=LABEL_SIZE,
            fontweight="bold" if scene.marks[i].rank == 0 else "normal",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkB": 4} if is_far else None,
            annotation_clip=False,
            zorder=6,
        )


def _share_labels(labels: Sequence[str], spots: Sequence[tuple[float, float]]) -> list[str]:
    """Give the labels of marks that lie on each other to the first of them: `default = exit 2`."""
    shared: list[list[str]] = []
    for i, label in enumerate(labels):
        first = next((k for k in range(i) if shared[k] and label and _is_near(spots[k], spots[i])), i)
        shared.append([])
        if label:
            shared[first].append(label)
    return [" = ".join(parts) for parts in shared]


def _is_near(spot: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(spot[0] - other[0]) < LEAST_APART and abs(spot[1] - other[1]) < LEAST_APART
