"""What stands in the plot of everything that can be had: operating points, static networks, other thresholds, measurements."""

from collections.abc import Sequence

from msgspec import Struct

from ...bundle import Calibration, OperatingPoint
from ...bundle.calibration import EARLY_SUFFIX, StaticPoint
from ...units import show_mj, show_share, show_thresholds, show_time
from .contents import Measured, Report
from .figures import show_placement, show_static

__all__ = ["Mark", "collect_marks"]

KINDS = (
    "operating point, promised",
    "operating point, nothing promised",
    "static network",
    "static network, never recommended",
    "measured for this report",
    "other thresholds",
)
"""The kinds of marks."""

PROMISED, UNPROMISED, STATIC, BARRED, MEASURED, OTHER = KINDS


class Mark(Struct, frozen=True, kw_only=True):
    """One mark in the plot.

    Attributes:
        kind: one of `KINDS`.
        name: what the mark stands for.
        label: the text beside it; empty for none.
        rank: 0 for what the report is about, which is always inside the plot and has its label first.
        accuracy: share of right labels, or 1 less the mean loss; 1 less the drop if accuracy is unknown; without labels agreement
            with the whole network.
        latency_s, energy_j: means; `energy_j` is None if no energy was measured.
        lines: further lines of its tip.
    """

    kind: str
    name: str
    label: str = ""
    rank: int = 3
    accuracy: float
    latency_s: float
    energy_j: float | None = None
    lines: tuple[str, ...] = ()

    def cost(self, *, energy: bool) -> float | None:
        """Return the joules, or the seconds."""
        return self.energy_j if energy else self.latency_s

    def describe(self, measure: str) -> str:
        """Return the text under the mouse."""
        right = 1 - self.accuracy if measure == "loss" else self.accuracy
        energy = () if self.energy_j is None else (f"mean energy {show_mj(self.energy_j)}",)
        figures = f"{measure} {show_share(right)}", f"mean latency {show_time(self.latency_s)}"
        return "\n".join((self.name, *figures, *energy, *self.lines))


def collect_marks(report: Report, *, lower: float, is_relative: bool, energy: bool) -> list[Mark]:
    """Return the marks that have the cost that is shown, the most important first.

    Args:
        report: what is shown.
        lower: what is added to accuracies of the frontier, so that the whole network's is 1, if some labels are unknown.
        is_relative: accuracies are those against the whole network's.
        energy: the cost is energy.
    """
    marks = _calibrated_marks(report, lower=lower)
    if report.measured is not None:
        marks += _measured_marks(report.measured, is_relative=is_relative)
    return sorted((mark for mark in marks if mark.cost(energy=energy)), key=lambda mark: mark.rank)


def _calibrated_marks(report: Report, *, lower: float) -> list[Mark]:
    calibration = report.calibration
    ours = report.point, report.point + EARLY_SUFFIX
    marks = [_mark_point(name, point, rank=int(name not in ours)) for name, point in calibration.points.items()]
    rival = calibration.points[report.point].rival
    for i, static in enumerate(calibration.statics):
        marks.append(_mark_static(calibration, static, is_best=i == rival))
    for tradeoff in calibration.frontier:
        if tradeoff.static is None:
            mark = Mark(
                kind=OTHER,
                name="early exit, other thresholds",
                accuracy=tradeoff.accuracy + lower,
                latency_s=tradeoff.latency_s,
                energy_j=tradeoff.energy_j,
                lines=(f"{tradeoff.variant} on {show_placement(tradeoff.placement)}", *_show_all(tradeoff.thresholds)),
            )
            marks.append(mark)
    return marks


def _measured_marks(measured: Measured, *, is_relative: bool) -> list[Mark]:
    """Return what the samples of the report gave: early exit, the whole static network, the best static network."""
    benchmark = measured.benchmark
    if benchmark is None:
        return []
    rows = [
        ("early exit, measured", f"early exit, point {measured.point}", benchmark.early),
        ("whole network, measured", "whole static network", benchmark.whole),
    ]
    if benchmark.single is not None:
        rows.append(("best static, measured", str(benchmark.single_name), benchmark.single))
    lower = 1 - benchmark.whole.accuracy if is_relative else 0.0
    lines = (f"measured on {measured.samples} samples",)
    return [
        Mark(
            kind=MEASURED,
            name=name,
            label=label,
            rank=2,
            accuracy=row.accuracy + lower,
            latency_s=row.mean_s,
            lines=lines,
        )
        for label, name, row in rows
    ]


def _mark_static(calibration: Calibration, static: StaticPoint, *, is_best: bool) -> Mark:
    takes_part = calibration.took_part(static)
    label = f"{static.variant} exit {static.exit}" if len(calibration.variants) > 1 else f"exit {static.exit}"
    return Mark(
        kind=STATIC if takes_part else BARRED,
        name=show_static(static.exit),
        label=f"best static: {label}" if is_best else label,
        rank=0 if is_best else 4 if takes_part else 5,
        accuracy=_find_accuracy(static),
        latency_s=static.latency_s,
        energy_j=static.energy_j,
        lines=(f"{static.variant} on {static.device}",),
    )


def _mark_point(name: str, point: OperatingPoint, *, rank: int) -> Mark:
    promise = (point.promise,) if point.promise else ()
    return Mark(
        kind=PROMISED if point.is_promised else UNPROMISED,
        name=f"operating point {name}",
        label=name,
        rank=rank,
        accuracy=_find_accuracy(point),
        latency_s=point.latency_s,
        energy_j=point.energy_j,
        lines=(f"{point.variant} on {show_placement(point.placement)}", *_show_all(point.thresholds), *promise),
    )


def _show_all(thresholds: Sequence[float]) -> tuple[str, ...]:
    return (f"thresholds {show_thresholds(thresholds)}",) if thresholds else ()


def _find_accuracy(figures: OperatingPoint | StaticPoint) -> float:
    """Return the accuracy, if it is unknown that against the whole network's, or without labels the agreement with it."""
    if figures.accuracy is None:
        return float(1 - (figures.disagreement if figures.drop is None else figures.drop))
    return float(figures.accuracy)
