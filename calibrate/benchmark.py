"""What a comparison of early exit with static networks holds, its table, and its verdict in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ..bundle import Target
from ..bundle.calibration import StaticPoint
from ..bundle.findings import WorstPart, show_worst
from ..units import show_share, show_time, show_us, show_value
from .network_table import OtherNetwork, Row, TimedRival, write_table
from .stage_costs import StageCost

__all__ = ["Benchmark", "MeasuredLimit", "OtherNetwork", "Row", "judge_early_exit", "name_static"]


MOST_FACTOR = 100.0
"""How many samples would tell is said if they are fewer than so many times those that were measured."""


EXITS_IN_LINE = 8
"""The exits of a network with more go on in further lines."""


def name_static(static: StaticPoint, usual_device: str) -> str:
    """Name a static network, with its device if that is not the usual one."""
    device = "" if static.device == usual_device else f" on {static.device}"
    return f"static {static.variant} to exit {static.exit}{device}"


class MeasuredLimit(Struct, frozen=True):
    """What a target limits, as it was measured, and its 95 % interval."""

    value: float
    low: float
    high: float

    def is_surely_missed(self, name: str, limit: float) -> bool:
        """Return True if the whole interval misses a limit: these samples contradict it."""
        return self.high < limit if name == "min_accuracy" else self.low > limit

    def tell(self, name: str, limit: float, samples: int, unit: str = "samples") -> str:
        """Say what the samples, or groups, can and cannot tell where a limit lies inside the interval, else nothing.

        An interval is half as long with four times the samples. So many would tell in most draws as make it half as long as
        the limit is far from the value.
        """
        if not self.low <= limit <= self.high or self.low == self.high:
            return ""
        side = "at least" if name == "min_accuracy" else "at most"
        length = self.high - self.value if limit > self.value else self.value - self.low
        factor = (2 * length / (limit - self.value)) ** 2 if limit != self.value else math.inf
        enough = (
            f"about {math.ceil(samples * factor / 100) * 100} would"
            if factor < MOST_FACTOR
            else "the two are too close to tell"
        )
        return (
            f" Measured for {name}: {self.show(name)}. These {samples} {unit} neither show that it is {side} "
            f"{show_value(name, limit)} nor contradict it; {enough}."
        )

    def show(self, name: str) -> str:
        """Write the value and its interval in the limit's unit."""
        low, high = (show_value(name, value) for value in (self.low, self.high))
        return f"{show_value(name, self.value)} (95 % interval {low} to {high})"


class Benchmark(Struct, frozen=True):
    """The figures that `bench` measured.

    Attributes:
        early, whole: the chain with its thresholds, and the whole static network of the bundle's first variant.
        single: the best static network for the target, as calibration chose it; None if it chose none, or chose `whole`.
        single_name: name of that static network, with its device if `whole` runs on another.
        speedup: mean latency of `whole` divided by the mean latency of `early`.
        best_speedup: the same of the best static network for the target: of `single`, or of `whole` if there is none.
        drop, drop_interval: accuracy of `whole` minus accuracy of `early` on the same samples, and its paired 95 % interval.
        exit_shares, predicted_shares: share of samples that leave at each exit, measured here, and predicted by the calibration
            (None without a calibration).
        exit_latency_s: mean latency of leaving at each exit, forced, measured in the same run.
        predicted_s: the sum over exits of `exit_shares` times `exit_latency_s`.
        prediction_error: `predicted_s` relative to the measured mean, minus 1.
        calibrated_s: mean latency of the point, as it was calibrated; None without a calibration.
        slowdown: how many times as long the whole static network takes here as when the point was calibrated. None if the
            calibration does not know it, or measured it on another device, at another pace or with other threads.
        share_error_s: what the error of the predicted shares adds to the mean latency; None without a calibration.
        samples: how many samples were measured.
        fingerprint: the device and its software; see `devices.fingerprint`.
        stages: where each stage ran, and what it took.
        verdict: a sentence that says whether early exit wins here.
        every_s: the pace of the calls; None if they were made back to back.
        counts: what accuracies are made of: `labels`, or `losses`: they are then 1 less the mean loss.
        noise: relative standard error of the mean latency of `early`, as turns of calls differ by it.
        ratio_noise: the same of its ratio to that of `whole`; what slows down both in the same turns is not in it.
        notes: what else a reader should know, such as what pauses between calls would change.
        metric: the name of the user's metric, which the rows hold; None without one. Nothing is promised of it.
        groups: of how many groups the samples are: accuracies, drop and interval are over groups. None without groups.
        worst: the classes or groups that lose most, if the point's target has `by`.
        others: the networks that were given as `beside`, in their order.
        max_drop: what the point's target allows to lose; None without a calibration, or if it limits no drop.

    Example:
        >>> from offramp.calibrate import bench, load_samples
        >>> result = bench("digits.offramp", load_samples("test.npz", "digits.offramp"))
        >>> len(result.exit_shares), result.samples
        (3, 200)
        >>> print(result)  # doctest: +SKIP
    """

    early: Row
    whole: Row
    single: Row | None
    single_name: str | None
    speedup: float
    drop: float
    drop_interval: tuple[float, float]
    exit_shares: tuple[float, ...]
    predicted_shares: tuple[float, ...] | None
    exit_latency_s: tuple[float, ...]
    predicted_s: float
    prediction_error: float
    share_error_s: float | None
    samples: int
    fingerprint: dict[str, str]
    stages: tuple[StageCost, ...]
    verdict: str
    best_speedup: float
    every_s: float | None = None
    calibrated_s: float | None = None
    slowdown: float | None = None
    counts: Literal["labels", "losses"] = "labels"
    noise: float = 0.0
    ratio_noise: float = 0.0
    notes: tuple[str, ...] = ()
    metric: str | None = None
    groups: int | None = None
    worst: tuple[WorstPart, ...] = ()
    others: tuple[OtherNetwork, ...] = ()
    max_drop: float | None = None

    @property
    def calibration_error(self) -> float | None:
        """The error of the calibrated mean latency once the machine's drift is taken out; None if `slowdown` is unknown."""
        if self.calibrated_s is None or self.slowdown is None:
            return None
        return self.calibrated_s * self.slowdown / self.early.mean_s - 1

    def __str__(self) -> str:
        low, high = map(show_share, self.drop_interval)
        parts = [self.table(), ""] if self.others else []
        parts += [*self._networks(), "", *self._exits(), "", *self._predictions()]
        if len({stage.device for stage in self.stages}) > 1:
            parts += ["", *self._stages(), ""]
        what = "accuracy drop" if self.counts == "labels" else "loss added"
        drop = f"{what} {show_share(self.drop)}, paired 95 % interval {low} to {high}, on {self.samples} samples"
        drop += "" if self.groups is None else f" of {self.groups} groups, which count alike"
        drop += ", called back to back" if self.every_s is None else f", called every {show_time(self.every_s)}"
        worst = [show_worst(self.worst)] if self.worst else []
        return "\n".join([*parts, drop, *worst, self.verdict, *(f"note: {note}" for note in self.notes)])

    def table(self) -> str:
        """Return early exit, the whole static network and `others` as a table, the slowest first, and which is the fastest.

        `lost` is against the whole network, `speed` how many times as fast as that a network is in the mean. The last column says
        whether at most `max_drop` is lost: `yes` or `no` where the whole 95 % interval tells it, else `unsure`. The last sentence
        names the fastest of those that surely lose no more, or says which may be as fast as early exit.
        """
        early = OtherNetwork(
            row=replace(self.early, name="early exit"),
            drop=self.drop,
            drop_interval=self.drop_interval,
            ratio_noise=0.0,
        )
        noise = self.ratio_noise / self.speedup
        row = replace(self.whole, name="whole static network")
        whole = OtherNetwork(row=row, drop=0.0, drop_interval=(0.0, 0.0), ratio_noise=noise)
        return write_table(early, [whole, *self.others], self.max_drop, counts=self.counts)

    def _networks(self) -> list[str]:
        rows = [("early exit", self.early), ("whole static network", self.whole)]
        if self.single is not None:
            rows.append((self.single_name or "", self.single))
        width = max(24, *(len(name) for name, _ in rows))
        has_losses = self.counts == "losses"
        wide = max(8, len(self.metric or ""))
        head = "" if self.metric is None else f" {self.metric:>{wide}}"
        lines = [
            f"{'':{width}} {'    loss' if has_losses else 'accuracy'}{head}     mean      p50      p90      p99  us"
        ]
        for name, row in rows:
            times = _microseconds((row.mean_s, row.p50_s, row.p90_s, row.p99_s))
            metric = "" if row.metric is None else f" {row.metric:{wide}.4g}"
            lines.append(f"{name:{width}} {abs(has_losses - row.accuracy):8.2%}{metric} {times}")
        return lines

    def _exits(self) -> list[str]:
        rows = {
            "exit": [f"{k:>8}" for k in range(len(self.exit_shares))],
            "share measured": [f"{share:8.1%}" for share in self.exit_shares],
            "share predicted": [f"{share:8.1%}" for share in self.predicted_shares or ()],
            "latency if forced, us": [f"{value * 1e6:8.1f}" for value in self.exit_latency_s],
        }
        lines = []
        for first in range(0, len(self.exit_shares), EXITS_IN_LINE):
            part = slice(first, first + EXITS_IN_LINE)
            lines += [f"{name:24} {' '.join(values[part])}" for name, values in rows.items() if values]
        return lines

    def _predictions(self) -> list[str]:
        lines = [
            f"Mean latency by these shares and latencies: {show_us(self.predicted_s, 1)}, measured: "
            f"{show_us(self.early.mean_s, 1)} ({self.prediction_error:+.1%})",
            f"The machine's own noise: one standard error is {self.noise:.1%} of early exit's mean, {self.ratio_noise:.1%} of "
            "its ratio to the whole network's",
        ]
        if self.share_error_s is not None:
            lines.append(
                f"Effect of predicted instead of measured exit shares on the mean latency: {self.share_error_s * 1e6:+.1f} us"
            )
        if self.calibrated_s is not None and self.slowdown is not None:
            lines.append(
                f"The machine takes {self.slowdown:.2f} times as long as when it was calibrated: {show_us(self.calibrated_s, 1)} "
                f"of then are {show_us(self.calibrated_s * self.slowdown, 1)} here, "
                f"{self.calibration_error:+.1%} against what was measured"
            )
        return lines

    def _stages(self) -> list[str]:
        lines = [f"{'stage':6}{'device':18}{'us':>9}{'bytes crossing':>16}{'their cost us':>15}"]
        for k, stage in enumerate(self.stages):
            cost = "-" if stage.crossing_s is None else f"{stage.crossing_s * 1e6:.1f}"
            lines.append(f"{k:<6}{stage.device:18}{stage.latency_s * 1e6:9.1f}{stage.crossing_bytes:16}{cost:>15}")
        return lines


def _microseconds(values_s: Sequence[float]) -> str:
    return " ".join(f"{value * 1e6:8.1f}" for value in values_s)


def judge_early_exit(
    early: Row,
    whole: Row,
    single: Row | None,
    measured: Mapping[str, MeasuredLimit],
    target: Target | None,
    *,
    samples: int,
    errors: Sequence[float] = (0.0, 0.0),
    groups: int | None = None,
    worst: Sequence[WorstPart] = (),
) -> str:
    """Return a sentence that says who wins: by the target that the thresholds were chosen for; without one, by mean latency.

    Args:
        early, whole, single: as in `Benchmark`.
        measured: what the target limits, as it was measured, by the limits' names; empty without a target.
        target: of the operating point.
        samples: how many were measured.
        groups: of how many groups they are, over which the limits were measured; None without groups.
        worst: the classes or groups that lose most, where each is limited.
        errors: standard errors of the mean latency of `early` divided by that of `whole`, and by that of `single`.
    """
    statics = [TimedRival("the whole static network", whole, errors[0])]
    if single is not None:
        statics.append(TimedRival("the best static network that meets the target", single, errors[1]))
    ratio = _compare_speed(early, statics)
    figures, doubts = _show(early, target), ""
    for name, value in measured.items():
        assert target is not None
        limit = target.limits[name]
        if value.is_surely_missed(name, limit):
            return (
                f"Early exit misses its target here: {name} is {show_value(name, limit)}, but {value.show(name)} was measured. "
                f"It takes {figures}, {ratio}."
            )
        doubts += value.tell(name, limit, groups or samples, "samples" if groups is None else "groups")
    if worst and target is not None:
        most = target.limits[worst[0].limit]
        most = 1 - most if worst[0].limit == "min_accuracy" else most
        if worst[0].interval[0] > most:
            return f"Early exit misses its target here: {show_worst(worst)}. It takes {figures}, {ratio}."
    if target is not None and target.goal == "accuracy":
        slowest_s = target.max_latency_s or math.inf
        fast = [each for each in statics if each.row.mean_s <= slowest_s]
        better = [each for each in fast if each.row.accuracy >= early.accuracy]
        draws: list[TimedRival] = []
        right = "has as small a loss" if target.counts == "losses" else "is as accurate"
        praise = f"no static network that is fast enough {right}. It takes {figures}."
    else:
        better = [each for each in statics if each.gain_interval(early)[1] <= 0]
        draws = [each for each in statics if each.gain_interval(early)[0] <= 0]
        praise = f"{ratio}."
    if not better and not draws:
        return f"Early exit wins here: {praise}{doubts}"
    winner = (better or draws)[-1]
    static = f"{winner.name} takes {_show(winner.row, target)}, early exit {figures}"
    if better:
        return f"Early exit loses here: {static}.{doubts}"
    low, high = winner.gain_interval(early)
    return f"Early exit saves nothing for sure here: {static}: 95 % interval of the saving {low:.1%} to {high:.1%}.{doubts}"


def _show(row: Row, target: Target | None) -> str:
    """Say what a network takes, and how right it is: `125 us at 91.48%`, `36 us at a loss of 5.13%`."""
    if target is not None and target.counts == "losses":
        return f"{show_us(row.mean_s)} at a loss of {show_share(1 - row.accuracy)}"
    return f"{show_us(row.mean_s)} at {show_share(row.accuracy)}"


def _compare_speed(early: Row, statics: Sequence[TimedRival]) -> str:
    """Say how fast early exit is, the static network first that it has to beat."""
    *others, best = statics
    words = f"{best.row.mean_s / early.mean_s:.2f} times as fast in the mean as {best.name}"
    return words + "".join(f" ({each.row.mean_s / early.mean_s:.2f} times as fast as {each.name})" for each in others)
