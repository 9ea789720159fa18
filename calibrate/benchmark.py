"""Early exit beside the static networks it must beat, on samples that calibration never saw."""

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from msgspec import Struct

from ..bundle import Bundle, Calibration, Target, Variant, opened
from ..bundle.calibration import StaticPoint
from ..devices import fingerprint
from ..errors import UsageError, unknown_name
from ..progress import Progress, no_progress
from ..runtime import Net, Provenance, Result, load, load_static
from ..runtime.chain.samples import Samples
from ..runtime.loading import load_uncalibrated
from ..runtime.selection import find_calibration, packages_of
from ..units import show_value
from .intervals import paired_drop
from .labels import LEAST_SAMPLES, check_labelled, check_labels
from .measure.latency import force_exits, latencies, measure, run_alone

LOOK = 256
"""On so many samples the labels are held against the network before anything is measured."""


class Row(Struct, frozen=True):
    """One contender: accuracy as a fraction, latencies per sample in seconds."""

    name: str
    accuracy: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float


class StageCost(Struct, frozen=True):
    """One stage where it was placed.

    Attributes:
        device, runs_on: its device, and what really runs it as the engine reports it.
        latency_s: what leaving at its exit takes more than leaving one exit earlier; of the first, all of it.
        crossing_bytes: of a sample's tensors that come from another device's stages; those of no fixed size are not counted.
        crossing_s: what it takes longer here than in a chain that is wholly on its device; None where nothing crosses.
    """

    device: str
    runs_on: str
    latency_s: float
    crossing_bytes: int
    crossing_s: float | None


class Benchmark(Struct, frozen=True):
    """What `bench` measured.

    Attributes:
        early, whole: the chain with its thresholds, and the whole static network of the bundle's first variant.
        single: the best static network that keeps the target, as calibration chose it; None where it chose none, or `whole`.
        single_name: which one that is, with its device where `whole` runs on another.
        speedup: mean latency of `whole` over that of `early`.
        drop: accuracy of `whole` less that of `early`, paired, with its 95 % interval.
        exit_shares, predicted_shares: measured here, and predicted by the calibration (None without one).
        exit_latency_s: mean latency of leaving at each exit, forced, measured in the same run.
        predicted_s: `exit_shares` times `exit_latency_s`; `prediction_error`: relative to the measured mean.
        share_error_s: what the error of the predicted shares adds to the mean latency; None without a calibration.
        stages: where each stage ran, and what it took.
        verdict: in words, whether early exit wins here.
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

    def __str__(self) -> str:
        low, high = self.drop_interval
        rows = [("early exit", self.early), ("whole static network", self.whole)]
        if self.single is not None:
            rows.append((self.single_name or "", self.single))
        wide = max(24, *(len(name) for name, _ in rows))
        lines = [f"{'':{wide}} accuracy     mean      p50      p90      p99  us"]
        for name, row in rows:
            times = " ".join(f"{value * 1e6:8.1f}" for value in (row.mean_s, row.p50_s, row.p90_s, row.p99_s))
            lines.append(f"{name:{wide}} {row.accuracy:8.2%} {times}")
        lines += [
            "",
            f"{'exit':24} {' '.join(f'{k:>8}' for k in range(len(self.exit_shares)))}",
            f"{'share measured':24} {' '.join(f'{share:8.1%}' for share in self.exit_shares)}",
        ]
        if self.predicted_shares is not None:
            lines.append(f"{'share predicted':24} {' '.join(f'{share:8.1%}' for share in self.predicted_shares)}")
        lines += [
            f"{'latency if forced, us':24} {' '.join(f'{value * 1e6:8.1f}' for value in self.exit_latency_s)}",
            "",
            f"mean by these shares and latencies {self.predicted_s * 1e6:.1f} us, measured {self.early.mean_s * 1e6:.1f} us "
            f"({self.prediction_error:+.1%})",
        ]
        if self.share_error_s is not None:
            lines.append(f"error of the predicted shares: {self.share_error_s * 1e6:+.1f} us in the mean")
        if len({stage.device for stage in self.stages}) > 1:
            lines += ["", f"{'stage':6}{'device':18}{'us':>9}{'bytes crossing':>16}{'their cost us':>15}"]
            for k, stage in enumerate(self.stages):
                cost = "-" if stage.crossing_s is None else f"{stage.crossing_s * 1e6:.1f}"
                lines.append(f"{k:<6}{stage.device:18}{stage.latency_s * 1e6:9.1f}{stage.crossing_bytes:16}{cost:>15}")
            lines.append("")
        lines += [
            f"accuracy drop {self.drop:.2%}, paired 95 % interval {low:.2%} to {high:.2%}, on {self.samples} samples",
            self.verdict,
        ]
        return "\n".join(lines)


class Comparison(Struct, frozen=True):
    """What `bench` measured, with the results it was made of.

    Attributes:
        benchmark: what it says of them.
        early, whole: of the chain with its thresholds and of the whole static network, in the order of the samples.
        forced: for each exit, of leaving there whatever the score, in the mix in which the point leaves.
    """

    benchmark: Benchmark
    early: list[Result]
    whole: list[Result]
    forced: list[list[Result]]


def bench(
    bundle: str | os.PathLike[str] | Bundle,
    data: tuple[Any, np.ndarray],
    *,
    device: str | Sequence[str] | None = None,
    threads: int = 1,
    fallback: str | None = None,
    variant: str | None = None,
    point: str | None = None,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Benchmark:
    """Measure the chain, the whole static network and the best single exit, interleaved on the same engine.

    Args:
        bundle: the bundle or its folder.
        data: samples as `Net.batch` takes them, and labels (N,), that calibration never saw.
        device, threads, fallback, variant, point, calibration: as for `runtime.load`.
        seed: draws the order within each block.
        progress: called with what is being done, how much is done, and how much there is.

    Raises:
        DataError: the samples do not fit the network.
        UsageError, BundleError, MissingError: as for `runtime.load`.
    """
    bundle = opened(bundle)
    x, y = check_labelled(data, bundle.manifest)
    calibration = find_calibration(bundle, calibration, variant=variant, threads=threads)
    point = point if calibration is None else choose_early(calibration, point)
    return compare(
        bundle,
        x,
        y,
        calibration,
        device=device,
        threads=threads,
        fallback=fallback,
        variant=variant,
        point=point,
        seed=seed,
        progress=progress,
    ).benchmark


def choose_early(calibration: Calibration, point: str | None) -> str:
    """Return the name of the point that is compared: the one that is named, or the first that exits early.

    Raises:
        UsageError: it is not known, does not exit early, or none does.
    """
    chains = [name for name, one in calibration.points.items() if one.static is None]
    if point is None and not chains:
        raise UsageError("No operating point exits early: no thresholds keep the target. There is nothing to compare.")
    point = point or chains[0]
    if point not in calibration.points:
        raise unknown_name("operating point", point, calibration.points)
    if calibration.points[point].static is not None:
        raise UsageError(
            f"The operating point {point} is {calibration.points[point].engines}, which does not exit early. "
            f"{'Name one that does: ' + ', '.join(chains) if chains else 'No other does either'}."
        )
    return point


def compare(
    bundle: Bundle,
    x: Samples,
    y: np.ndarray,
    calibration: Calibration | None,
    *,
    device: str | Sequence[str] | None,
    threads: int,
    fallback: str | None,
    variant: str | None,
    point: str | None,
    seed: int,
    progress: Progress,
) -> Comparison:
    """Do what `bench` says with samples that are checked, and keep the result of every sample.

    Args:
        bundle: the bundle.
        x, y: as `check_labelled` returns them.
        calibration, point: what `find_calibration` and `choose_early` return.
        device, threads, fallback, variant, seed, progress: as for `bench`.
    """
    if calibration is not None and point is not None:
        variant = variant or calibration.points[point].variant
    rng = np.random.default_rng(seed)
    with ExitStack() as stack:
        net = stack.enter_context(
            load(
                bundle,
                device,
                variant=variant,
                point=point,
                threads=threads,
                calibration=calibration,
                fallback=fallback,
                progress=progress,
            )
        )
        placement = list(net.provenance.devices)
        last = len(net.exits) - 1
        rival = (
            calibration.statics[net.point.rival] if calibration and net.point and net.point.rival is not None else None
        )
        predicted_shares = net.point.exit_shares if net.point else None
        target = net.point.target if net.point else None
        mix = predicted_shares or (0.0,) * last + (1.0,)
        turns = {"early": run_alone(net), "forced": force_exits(net, mix, rng=rng)}

        def add_static(name: str, where: str, of: str | None, exit_: int) -> Net:
            static = stack.enter_context(load_static(bundle, where, variant=of, exit=exit_, threads=threads))
            turns[name] = run_alone(static)
            return static

        first = bundle.manifest.variants[0]
        whole_static = placement[-1], first.name, len(first.exits) - 1
        some = np.linspace(0, len(x) - 1, min(len(x), LOOK)).astype(int)
        said = add_static("whole", *whole_static).batch(x[some]).label
        if len(some) >= LEAST_SAMPLES:
            check_labels(y[some], said, bundle.manifest.classes)
        if rival is not None and (rival.device, rival.variant, rival.exit) == whole_static:
            rival = None  # it is measured already
        if rival is not None:
            add_static("single", rival.device, rival.variant, rival.exit)
        whole_chains = sorted(set(placement)) if len(set(placement)) > 1 else []
        for name in whole_chains:  # what a stage takes where nothing crosses
            alone = stack.enter_context(load_uncalibrated(bundle, name, variant=variant, threads=threads))
            turns[f"on {name}"] = force_exits(alone, mix, rng=rng)
        results = measure(turns, x, rng=rng, progress=progress)
    early, whole = results["early"][0], results["whole"][0]
    shares = np.bincount([result.exit for result in early], minlength=last + 1) / len(early)
    costs = np.array([latencies(forced).mean() for forced in results["forced"]])
    rows = {name: _row(name, results[name][0], y) for name in ("early", "whole", "single") if name in turns}
    alone_s = {name: np.array([latencies(forced).mean() for forced in results[f"on {name}"]]) for name in whole_chains}
    same = (
        f" All samples left at exit {early[0].exit}: the static network that ends there gives the same."
        if max(shares) == 1
        else ""
    )
    drop, interval = paired_drop(_right(early, y), _right(whole, y))
    mean_s, predicted_s = rows["early"].mean_s, float(shares @ costs)
    benchmark = Benchmark(
        early=rows["early"],
        whole=rows["whole"],
        single=rows.get("single"),
        single_name=None if rival is None else _name_static(rival, placement[-1]),
        speedup=rows["whole"].mean_s / mean_s,
        drop=drop,
        drop_interval=interval,
        exit_shares=tuple(shares.tolist()),
        predicted_shares=predicted_shares,
        exit_latency_s=tuple(costs.tolist()),
        predicted_s=predicted_s,
        prediction_error=predicted_s / mean_s - 1,
        share_error_s=None if predicted_shares is None else float((np.array(predicted_shares) - shares) @ costs),
        samples=len(x),
        fingerprint=fingerprint(packages=packages_of(placement), threads=threads),
        stages=_stage_costs(bundle.variant(variant), net.provenance, costs, alone_s),
        verdict=_verdict(
            rows["early"],
            rows["whole"],
            rows.get("single"),
            _measured(early, whole, y, target) if target else {},
            target,
        )
        + same,
    )
    return Comparison(benchmark, early, whole, results["forced"])


def _name_static(one: StaticPoint, usual: str) -> str:
    return f"static {one.variant} to exit {one.exit}" + ("" if one.device == usual else f" on {one.device}")


def _stage_costs(
    variant: Variant, provenance: Provenance, costs: np.ndarray, alone_s: dict[str, np.ndarray]
) -> tuple[StageCost, ...]:
    made: dict[str, str] = {}
    found = []
    for k, (stage, ran) in enumerate(zip(variant.stages, provenance.stages, strict=True)):
        crossing = [t for t in stage.inputs if made.get(t.name, ran.device) != ran.device]
        made |= {tensor.name: ran.device for tensor in stage.outputs}
        latency_s = np.diff(costs, prepend=0.0)[k]
        extra_s = float(latency_s - np.diff(alone_s[ran.device], prepend=0.0)[k]) if crossing else None
        size = sum(math.prod(t.at(1)) * np.dtype(t.dtype).itemsize for t in crossing if t.is_sized)
        found.append(StageCost(ran.device, ran.runs_on, float(latency_s), size, extra_s))
    return tuple(found)


def _right(results: Sequence[Result], y: np.ndarray) -> np.ndarray:
    right: np.ndarray = np.array([result.label for result in results]) == y
    return right


def _row(name: str, results: Sequence[Result], y: np.ndarray) -> Row:
    seconds = latencies(results)
    p50, p90, p99 = (float(value) for value in np.percentile(seconds, [50, 90, 99]))
    return Row(name, float(_right(results, y).mean()), float(seconds.mean()), p50, p90, p99)


def _measured(early: Sequence[Result], whole: Sequence[Result], y: np.ndarray, target: Target) -> dict[str, float]:
    """Return what a target limits, as it was measured, by the limits' names; energy is not measured here."""
    label = np.array([result.label for result in early])
    seconds = latencies(early)
    right, right_whole = label == y, _right(whole, y)
    found = {
        "min_accuracy": float(right.mean()),
        "max_drop": float(right_whole.mean() - right.mean()),
        "max_disagreement": float((label != np.array([result.label for result in whole])).mean()),
        "max_latency_s": float(seconds.mean()),
        "max_late": float((seconds > (target.deadline_s or math.inf)).mean()),
    }
    return {name: found[name] for name in target.limits if name in found}


def _verdict(early: Row, whole: Row, single: Row | None, measured: dict[str, float], target: Target | None) -> str:
    """Say who wins by the target that the thresholds were chosen for; without one, by mean latency."""
    names = [("the whole static network", whole)]
    if single is not None:
        names.append(("the best static network that can be promised to keep the target", single))
    ratio = whole.mean_s / early.mean_s
    ours = f"early exit {early.mean_s * 1e6:.0f} us at {early.accuracy:.2%}"
    for name, value in measured.items():
        assert target is not None
        most = target.limits[name]
        if value < most if name == "min_accuracy" else value > most:
            return (
                f"Early exit misses its target here: {ours}, {ratio:.2f} times as fast in the mean as the whole static network. "
                f"{name} is {show_value(name, most)}, and {show_value(name, value)} was measured."
            )
    if target is not None and target.goal == "accuracy":
        slowest_s = target.max_latency_s or math.inf
        beaten = [(name, row) for name, row in names if row.mean_s <= slowest_s and row.accuracy >= early.accuracy]
        won = f"Early exit wins here: no static network that is fast enough is as accurate, {ours}."
    else:
        beaten = [(name, row) for name, row in names if row.mean_s <= early.mean_s]
        won = f"Early exit wins here: {ratio:.2f} times as fast in the mean as the whole static network."
    if not beaten:
        return won
    name, row = beaten[-1]
    return f"Early exit loses here: {name} takes {row.mean_s * 1e6:.0f} us at {row.accuracy:.2%}, {ours}."
