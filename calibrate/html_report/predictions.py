"""What calibration predicted beside what the samples of a report gave."""

from msgspec import Struct

from ...units import show_share
from .columns import Column, show_times_column
from .contents import Report

__all__ = ["ExitPredictions", "Prediction", "compare_exits", "compare_points", "show_rightness"]


class Prediction(Struct, frozen=True):
    """One figure of a point: its name, what calibration predicted, and what was measured."""

    name: str
    predicted: str
    measured: str


class ExitPredictions(Struct, frozen=True):
    """The exits of the measured point: shares that leave there, and mean latencies of leaving there.

    Attributes:
        shares: of each exit what was predicted, and what was measured.
        equal: latencies while all exits were taken equally often, as in the table of exits; None if the chain is another one.
        predicted, measured: latencies in the mix in which samples leave at this point: by the calibration, and for the report.
        unit: of the latencies.
    """

    shares: tuple[tuple[str, str], ...]
    equal: tuple[str, ...] | None
    predicted: tuple[str, ...]
    measured: tuple[str, ...]
    unit: str


def show_rightness(accuracy: float | None, *, of_losses: bool) -> str:
    """Write an accuracy, or the mean loss that it is 1 less than."""
    return "-" if accuracy is None else show_share(1 - accuracy if of_losses else accuracy)


def compare_points(report: Report, *, of_losses: bool) -> list[Prediction]:
    """Return what was predicted for the measured point, and what was measured; empty if none was."""
    measured = report.measured
    if measured is None or measured.benchmark is None or measured.point is None:
        return []
    point, benchmark = report.calibration.points[measured.point], measured.benchmark
    rows = []
    if point.drop_interval is not None and point.drop is not None:
        what = ("loss", "loss added") if of_losses else ("accuracy", "accuracy drop")
        right = (show_rightness(each, of_losses=of_losses) for each in (point.accuracy, benchmark.early.accuracy))
        rows.append(Prediction(what[0], *right))
        drops = _show_drop(point.drop, point.drop_interval), _show_drop(benchmark.drop, benchmark.drop_interval)
        rows.append(Prediction(f"{what[1]}, 95 % interval", *drops))
    by_shares_s = sum(
        share * latency_s for share, latency_s in zip(benchmark.exit_shares, point.exit_latency_s, strict=True)
    )
    times = show_times_column([point.latency_s, by_shares_s, benchmark.early.mean_s])
    predicted, by_shares, found = (f"{text} {times.unit}" for text in times.texts)
    rows.append(Prediction("mean latency", predicted, found))
    rows.append(Prediction("mean latency by the measured shares", by_shares, found))
    return rows


def compare_exits(report: Report) -> ExitPredictions | None:
    """Return the same of the point's exits; None if no point was measured."""
    measured = report.measured
    if measured is None or measured.benchmark is None or measured.point is None:
        return None
    point, benchmark, chain = report.calibration.points[measured.point], measured.benchmark, report.chain
    is_same = (chain.variant, chain.placement) == (point.variant, point.placement)
    equal = [exit_.mean_s for exit_ in chain.exits] if is_same else []
    column = show_times_column([*equal, *point.exit_latency_s, *benchmark.exit_latency_s])
    parts = _cut(column, len(equal), len(point.exit_latency_s))
    shares = zip(point.exit_shares, benchmark.exit_shares, strict=True)
    return ExitPredictions(
        shares=tuple((show_share(predicted), show_share(found)) for predicted, found in shares),
        equal=parts[0] if is_same else None,
        predicted=parts[1],
        measured=parts[2],
        unit=column.unit,
    )


def _cut(column: Column, first: int, second: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    return column.texts[:first], column.texts[first : first + second], column.texts[first + second :]


def _show_drop(drop: float, interval: tuple[float, float]) -> str:
    return f"{show_share(drop)} ({show_share(interval[0])} to {show_share(interval[1])})"
