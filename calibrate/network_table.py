"""Networks that were measured side by side, one line each: what each loses, how fast it is, and which is the fastest."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from msgspec import Struct

from ..units import show_share
from .intervals import Z95

__all__ = ["OtherNetwork", "Row", "TimedRival", "make_row", "write_table"]

MOST_OFF = 0.99
"""A ratio of mean latencies is taken to be at most this share too high or too low, so that intervals end."""


class Row(Struct, frozen=True):
    """One network of a benchmark: accuracy as a fraction, latencies per sample in seconds; the user's metric, if one was given.

    Example:
        >>> from offramp.calibrate import bench, load_samples
        >>> row = bench("digits.offramp", load_samples("test.npz", "digits.offramp")).early
        >>> row.name, 0 < row.p50_s <= row.p99_s
        ('early', True)
    """

    name: str
    accuracy: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    metric: float | None = None


class OtherNetwork(Struct, frozen=True, kw_only=True):
    """A network that was measured beside early exit because the user named it.

    Attributes:
        row: its name, accuracy and latencies.
        drop, drop_interval: the accuracy of the whole network minus its own on the same samples, and the paired 95 % interval.
        ratio_noise: standard error of the mean latency of early exit divided by its own, as turns of calls differ by it.

    Example:
        >>> from offramp.calibrate import bench, load_samples
        >>> from offramp.runtime import load_static
        >>> with load_static("digits.offramp", exit=0) as first:
        ...     result = bench("digits.offramp", load_samples("test.npz", "digits.offramp"), beside={"exit 0 alone": first})
        >>> [other.row.name for other in result.others]
        ['exit 0 alone']
    """

    row: Row
    drop: float
    drop_interval: tuple[float, float]
    ratio_noise: float


class TimedRival(Struct, frozen=True):
    """A network that early exit is compared with, and the standard error of the ratio of their mean latencies."""

    name: str
    row: Row
    error: float

    def gain_interval(self, early: Row) -> tuple[float, float]:
        """Return the 95 % interval of the share of its mean latency that early exit saves.

        A ratio of means grows without end where the lower one may be near 0, so that the interval is longer below.
        """
        ratio = early.mean_s / self.row.mean_s
        off = min(Z95 * self.error / ratio, MOST_OFF)
        return 1 - ratio / (1 - off), 1 - ratio * (1 - off)


def make_row(name: str, seconds: np.ndarray, right: np.ndarray, metric: float | None) -> Row:
    """Return the row of a network.

    Args:
        name: of the network.
        seconds: the latency of each sample, float64 (N,).
        right: of each sample or group, whether it is right, or 1 less its loss, (N,).
        metric: the user's, if one was given.
    """
    p50, p90, p99 = (float(value) for value in np.percentile(seconds, [50, 90, 99]))
    return Row(name, float(right.mean()), float(seconds.mean()), p50, p90, p99, metric)


def write_table(
    early: OtherNetwork,
    statics: Sequence[OtherNetwork],
    max_drop: float | None,
    *,
    counts: Literal["labels", "losses"] = "labels",
) -> str:
    """Return networks as a table, the slowest first, and a sentence that names the fastest; see `Benchmark.table`.

    Args:
        early: early exit.
        statics: the whole static network, and what else it is compared with.
        max_drop: what may be lost; None if that is not limited.
        counts: what accuracies are made of.
    """
    width = max(len(each.row.name) for each in (early, *statics))
    right = "accuracy" if counts == "labels" else "1 - loss"
    limit = "" if max_drop is None else f"  <= {show_share(max_drop)}"
    lines = [f"{'':{width}}  {right} {'lost':>6}  {'95 % interval':>15} {'mean us':>8} {'speed':>6}{limit}"]
    for each in sorted((*statics, early), key=lambda each: -each.row.mean_s):
        lost = "" if each is statics[0] else f"{each.drop:.2%}"
        interval = "" if each is statics[0] else " to ".join(map(show_share, each.drop_interval))
        figures = f"{each.row.accuracy:8.2%} {lost:>6}  {interval:>15} {each.row.mean_s * 1e6:8.1f}"
        speed = statics[0].row.mean_s / each.row.mean_s
        lines.append(f"{each.row.name:{width}}  {figures} {speed:6.2f}  {_keeps(each, max_drop)}".rstrip())
    return "\n".join(lines if max_drop is None else [*lines, _name_fastest(early, statics, max_drop)])


def _keeps(network: OtherNetwork, max_drop: float | None) -> str:
    """Say whether a network loses no more than is allowed; nothing where that is not limited."""
    if max_drop is None:
        return ""
    low, high = network.drop_interval
    return "yes" if high <= max_drop else "no" if low > max_drop else "unsure"


def _name_fastest(early: OtherNetwork, statics: Sequence[OtherNetwork], max_drop: float) -> str:
    """Say which network is the fastest of those that surely lose no more than is allowed, and which may be as fast."""
    limit = f"Of those that surely lose at most {show_share(max_drop)}"
    rivals = [each for each in statics if _keeps(each, max_drop) == "yes"]
    kept = _keeps(early, max_drop)
    if kept != "yes":
        best = min((each.row for each in rivals), key=lambda row: row.mean_s)
        told = "early exit loses more" if kept == "no" else "that early exit is one of them is not sure"
        return f"{limit}, {best.name} is the fastest; {told}."
    gains = {
        each.row.name: TimedRival(each.row.name, each.row, each.ratio_noise).gain_interval(early.row) for each in rivals
    }
    faster = [each.row for each in rivals if gains[each.row.name][1] <= 0]
    if faster:
        best = min(faster, key=lambda row: row.mean_s)
        return f"{limit}, {best.name} is the fastest: {early.row.mean_s / best.mean_s:.2f} times as fast as early exit."
    close = [name for name, (low, _) in gains.items() if low <= 0]
    if close:
        return f"{limit}, early exit is not surely faster than: {', '.join(close)}."
    whole, times = statics[0].row, statics[0].row.mean_s / early.row.mean_s
    least, most = (1 / (1 - gain) for gain in gains[whole.name])
    figures = f"{times:.2f} times as fast as the {whole.name}, 95 % interval {least:.2f} to {most:.2f}"
    return f"{limit}, early exit is the fastest: {figures}."
