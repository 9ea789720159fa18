"""Early exit and the static networks that it must beat, measured side by side on samples that calibration never saw."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ..bundle import Bundle, Calibration, OperatingPoint, opened
from ..bundle.calibration import StaticPoint
from ..bundle.variant_names import describe_numbers
from ..devices import fingerprint
from ..errors import UsageError
from ..pictures import check_picture
from ..progress import Progress, no_progress
from ..runtime import Net, Provenance, Result, load, load_static
from ..runtime.chain.samples import Samples
from ..runtime.loading import load_uncalibrated
from ..runtime.placement import refuse_servers
from ..runtime.sample_scale import warn_of_scale
from ..runtime.selection import find_calibration, packages_of
from .benchmark import Benchmark, judge_early_exit, name_static
from .benchmark_picture import MeasuredNetwork, draw_benchmark, list_networks
from .correctness import Correctness, judge_labels, judge_losses
from .dataset_metric import Metric, check_size, name_metric, read_metric
from .early_point import choose_early
from .fitting_samples import check_unhashed
from .intervals import mean_error, ratio_error
from .judging import Judging, read_judging
from .labels import LEAST_SAMPLES, check_labels, check_test_data
from .losses import Loss
from .measure.latency import Turn, force_exits, latencies, measure, run_alone
from .measure.pauses import describe_pauses
from .measured_limits import measure_limits, measure_others, measure_worst
from .network_table import make_row
from .pace import BACK_TO_BACK, Pace
from .parts import Parts, read_own_groups
from .stage_costs import find_stage_costs
from .truth import Truth

__all__ = ["Comparison", "ComparisonRequest", "bench", "compare"]

CHECKED_LABELS = 256
"""Labels of at most this many samples are held against the whole network before anything is measured."""

FORCED_SAMPLES = 1024
"""Exits are forced in the blocks of about so many samples: that tells their mean latencies, and no interval is made of them."""

JOINED = "The stages beside an exit that is never taken run as one; the calibration's latencies are of single stages."


class ComparisonRequest(Struct, frozen=True, kw_only=True):
    """What shall be compared, checked.

    Attributes:
        bundle: the bundle.
        x, y: samples and labels, or what is true of them, as `check_test_data` returns them.
        judging: how wrong answers are; None if the network classifies.
        metric, metric_name: the user's, and what it is called; None without one.
        calibration: as `find_calibration` returns it.
        point: name of the operating point, as `choose_early` returns it; None without a calibration.
        device, threads, fallback, variant, seed, progress: as for `bench`.
        pace: of the calls.
        groups: which group each sample belongs to; None if each is one of its own.
        beside: other networks that are measured in turn with these, by what they are called.
    """

    bundle: Bundle
    x: Samples
    y: np.ndarray | Truth
    calibration: Calibration | None
    point: str | None
    device: str | Sequence[str] | None
    threads: int
    fallback: str | None
    variant: str | None
    seed: int
    progress: Progress
    pace: Pace = BACK_TO_BACK
    judging: Judging | None = None
    metric: Metric | None = None
    metric_name: str | None = None
    groups: Parts | None = None
    beside: Mapping[str, Net] = {}

    @property
    def variant_name(self) -> str | None:
        """Name of the variant that runs; None for the first one."""
        if self.variant is None and self.calibration is not None and self.point is not None:
            return self.calibration.points[self.point].variant
        return self.variant


class Comparison(Struct, frozen=True):
    """A benchmark with the results it was made of.

    Attributes:
        benchmark: the figures and the verdict.
        early, whole: results of the chain with its thresholds and of the whole static network, in the order of the samples.
        forced: results of leaving at each exit whatever the score, in the mix in which the point leaves.
        networks: what is drawn of `early`, `whole` and the best static network, by these names.
    """

    benchmark: Benchmark
    early: list[Result]
    whole: list[Result]
    forced: list[list[Result]]
    networks: dict[str, MeasuredNetwork]


class _Networks(Struct, frozen=True, kw_only=True):
    """The networks that are measured side by side.

    Attributes:
        turns: what runs each of them: `early`, `forced`, `whole`, `single` if there is one. If the stages run on several devices,
            `on DEVICE` runs the chain wholly on one of them: no tensor crosses there.
        provenance: where the stages of the chain run.
        point: the chain's operating point; None without a calibration.
        single: the static network that runs as `single`.
        nets: `early`, `whole` and `single`, by these names, and others by theirs.
    """

    turns: dict[str, Turn]
    provenance: Provenance
    point: OperatingPoint | None
    single: StaticPoint | None
    nets: dict[str, Net]


def bench(
    bundle: str | os.PathLike[str] | Bundle,
    data: tuple[Any, Any],
    *,
    device: str | Sequence[str] | None = None,
    threads: int = 1,
    fallback: str | None = None,
    variant: str | None = None,
    point: str | None = None,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    every_s: float | None = None,
    seed: int = 0,
    loss: "str | Loss | None" = None,
    disagreement: "str | Loss | None" = None,
    metric: "str | Metric | None" = None,
    groups: Any = None,
    plot: str | os.PathLike[str] | None = None,
    beside: Mapping[str, Net] | None = None,
    progress: Progress = no_progress,
) -> Benchmark:
    """Measure the chain, the whole static network and the best static network, interleaved on the same engine.

    Args:
        bundle: the bundle or its folder.
        data: samples as `Net.batch` takes them, and labels (N,), or the truth as `calibrate` takes it, that calibration never
            saw.
        device, threads, fallback, variant, point, calibration: as for `runtime.load`.
        every_s: the pace, from the start of one call to the start of the next; by default calls are made back to back. Each
            network is called on every sample: with 1,000 samples, four networks and 100 ms that takes seven minutes.
        seed: seed for the order of measurement within each block.
        loss, disagreement: for a network that does not classify, as for `calibrate`; accuracies are then 1 less the mean loss.
        metric: what tells how good the answers to all samples are together, such as mAP: a function, or "file.py:function",
            metric(answers, truth) -> float. It gets the parts of the answers by name, arrays (N, ...), or lists of N arrays where
            shapes differ, of a classifier `label` and `score`; and the truth as `loss` does. It is shown of each network, and
            never promised. The answers of one network are kept for it, at most 100 MB.
        groups: which samples depend on each other, as for `calibrate`: accuracies, the drop and its interval are over groups.
        plot: a file to write a picture to, .svg, .png or .pdf: latencies, accuracies and exit shares. Needs the `report` extra.
        beside: other loaded networks that answer the same samples, by what they are called: static networks to other exits,
            the chain of another bundle. They are measured in turn with the others, and `Benchmark.others` holds what was found.
        progress: called with what is being done, how much is done, and how much there is.

    Raises:
        DataError: the samples do not fit the network, or the metric raises or gives no finite number.
        UsageError, BundleError, MissingError: as for `runtime.load`; UsageError also if scores were fitted to the samples; both
            also if the picture cannot be written.

    Example:
        >>> from offramp.calibrate import bench, load_samples
        >>> result = bench("digits.offramp", load_samples("test.npz", "digits.offramp"))
        >>> print(result.speedup, result.verdict)  # doctest: +SKIP
        8.15 Early exit wins here: 8.15 times as fast in the mean as the whole static network.
    """
    picture = None if plot is None else check_picture(plot)
    bundle = opened(bundle)
    judging = read_judging(bundle.manifest, loss, disagreement, has_truth=True)
    x, y = check_test_data(data, bundle.manifest)
    warn_of_scale(bundle, x)
    calibration = find_calibration(bundle, calibration, variant=variant, threads=threads)
    request = ComparisonRequest(
        bundle=bundle,
        x=x,
        y=y,
        calibration=calibration,
        point=point if calibration is None else choose_early(calibration, point),
        device=device,
        threads=threads,
        fallback=fallback,
        variant=variant,
        seed=seed,
        progress=progress,
        pace=Pace(every_s),
        judging=judging,
        metric=read_metric(metric),
        metric_name=name_metric(metric),
        groups=read_own_groups(groups, data[0], len(x)),
        beside=beside or {},
    )
    comparison = compare(request)
    if picture is not None:
        draw_benchmark(comparison.benchmark, comparison.networks, picture, title=bundle.path.resolve().name)
    return comparison.benchmark


def compare(request: ComparisonRequest) -> Comparison:
    """Measure what `bench` measures, and keep the result of every sample."""
    rng = np.random.default_rng(request.seed)
    chain = request.bundle.chain(request.variant_name)
    fitted = check_unhashed(request.x, request.bundle, chain)
    with ExitStack() as stack:
        networks = _load_networks(request, stack, rng)
        start_s = perf_counter()
        results = measure(networks.turns, request.x, rng=rng, progress=request.progress, block=request.pace.block)
        notes = [*fitted, *describe_numbers(request.bundle.manifest, [chain.name])]
        if request.pace.every_s is None:
            notes += describe_pauses(networks.nets["whole"], request.x, seconds=(perf_counter() - start_s) / 10)
        if networks.point is not None and networks.nets["early"].joins_stages > networks.point.joined:
            notes.append(JOINED)
        correctness = _judge(request, networks, {name: results[name][0] for name in networks.nets})
    if request.groups is not None and (networks.point is None or networks.point.target.by != "group"):
        correctness = replace(correctness, groups=request.groups.number)
    others = measure_others(request.beside, results, correctness, request.pace.block)
    benchmark = replace(_summarise(request, networks, results, correctness), notes=tuple(notes), others=others)
    drawn = list_networks(results, correctness, request.pace.block)
    return Comparison(benchmark, results["early"][0], results["whole"][0], results["forced"], drawn)


def _judge(request: ComparisonRequest, networks: _Networks, results: Mapping[str, Sequence[Result]]) -> Correctness:
    if request.judging is None or not isinstance(request.y, Truth):
        assert isinstance(request.y, np.ndarray)
        return judge_labels(results, request.y, request.metric)
    return judge_losses(
        networks.nets,
        results,
        request.x,
        request.y,
        request.judging,
        metric=request.metric,
        progress=request.progress,
    )


def _load_networks(request: ComparisonRequest, stack: ExitStack, rng: np.random.Generator) -> _Networks:
    """Load every network of the comparison into the stack, and hold the labels against the whole one."""
    bundle, variant, threads, pace = request.bundle, request.variant_name, request.threads, request.pace
    net = stack.enter_context(
        load(
            bundle,
            request.device,
            variant=variant,
            point=request.point,
            threads=threads,
            calibration=request.calibration,
            fallback=request.fallback,
            progress=request.progress,
        )
    )
    placement, point = net.provenance.devices, net.point
    mix = point.exit_shares if point else (0.0,) * (len(net.exits) - 1) + (1.0,)
    every = max(1, len(request.x) // FORCED_SAMPLES)
    turns = {"early": run_alone(net, pace=pace), "forced": force_exits(net, mix, rng=rng, pace=pace, every=every)}
    first = bundle.manifest.variants[0]
    last = len(first.exits) - 1
    whole = stack.enter_context(load_static(bundle, placement[-1], variant=first.name, exit=last, threads=threads))
    turns["whole"], nets = run_alone(whole, pace=pace), {"early": net, "whole": whole}
    _check_some_labels(request, whole)
    single = _find_single(request.calibration, point)
    if single is not None and (single.device, single.variant, single.exit) == (placement[-1], first.name, last):
        single = None  # it is measured as `whole`
    if single is not None:
        refuse_servers([single.device], named=placement)
        static = load_static(bundle, single.device, variant=single.variant, exit=single.exit, threads=threads)
        nets["single"] = stack.enter_context(static)
        turns["single"] = run_alone(nets["single"], pace=pace)
    if len(set(placement)) > 1:
        for device in sorted(set(placement)):
            alone = stack.enter_context(load_uncalibrated(bundle, device, variant=variant, threads=threads))
            turns[f"on {device}"] = force_exits(alone, mix, rng=rng, pace=pace, every=every)
    if taken := {*turns, "single"} & {*request.beside}:
        raise UsageError(
            f"{min(taken)!r} is a network of every comparison: call the one that is measured beside it otherwise."
        )
    nets |= request.beside
    turns |= {name: run_alone(other, pace=pace) for name, other in request.beside.items()}
    if request.metric is not None and request.judging is not None:
        check_size(nets, request.x)
    return _Networks(turns=turns, provenance=net.provenance, point=point, single=single, nets=nets)


def _check_some_labels(request: ComparisonRequest, whole: Net) -> None:
    rows = np.linspace(0, len(request.x) - 1, min(len(request.x), CHECKED_LABELS)).astype(int)
    if len(rows) >= LEAST_SAMPLES and isinstance(request.y, np.ndarray):
        answers = whole.batch(request.x[rows]).label
        check_labels(request.y[rows], answers, request.bundle.manifest.classes)


def _find_single(calibration: Calibration | None, point: OperatingPoint | None) -> StaticPoint | None:
    if calibration is None or point is None or point.rival is None:
        return None
    return calibration.statics[point.rival]


def _summarise(
    request: ComparisonRequest,
    networks: _Networks,
    results: Mapping[str, Sequence[list[Result]]],
    correctness: Correctness,
) -> Benchmark:
    """Compute the figures of a benchmark from the results of its networks, by the names of their turns."""
    early, whole, point = results["early"][0], results["whole"][0], networks.point
    rows = {
        name: make_row(name, latencies(results[name][0]), correctness.per_draw(right), correctness.metrics.get(name))
        for name, right in correctness.right.items()
    }
    mean_s = {name: np.array([latencies(exit_).mean() for exit_ in exits]) for name, exits in results.items()}
    costs = mean_s["forced"]
    shares = np.bincount([result.exit for result in early], minlength=len(costs)) / len(early)
    drop, predicted_shares = correctness.drop(), point.exit_shares if point else None
    placement, predicted_s = networks.provenance.devices, float(shares @ costs)
    target = point.target if point else None
    limited = measure_limits(early, correctness, target, request.pace.block) if target else {}
    worst = measure_worst(correctness, target, request.y, request.groups, request.bundle.manifest.class_names)
    errors = [
        ratio_error(latencies(early), latencies(results[name][0]), request.pace.block) if name in results else 0.0
        for name in ("whole", "single")
    ]
    verdict = judge_early_exit(
        rows["early"],
        rows["whole"],
        rows.get("single"),
        limited,
        target,
        samples=len(early),
        errors=errors,
        groups=correctness.group_count,
        worst=worst,
    )
    if max(shares) == 1:
        verdict += f" All samples left at exit {early[0].exit}: the static network that ends there gives the same."
    return Benchmark(
        early=rows["early"],
        whole=rows["whole"],
        single=rows.get("single"),
        single_name=None if networks.single is None else name_static(networks.single, placement[-1]),
        speedup=rows["whole"].mean_s / rows["early"].mean_s,
        drop=drop.value,
        drop_interval=(drop.low, drop.high),
        exit_shares=tuple(shares.tolist()),
        predicted_shares=predicted_shares,
        exit_latency_s=tuple(costs.tolist()),
        predicted_s=predicted_s,
        prediction_error=predicted_s / rows["early"].mean_s - 1,
        share_error_s=None if predicted_shares is None else float((np.array(predicted_shares) - shares) @ costs),
        samples=len(request.x),
        fingerprint=fingerprint(packages=packages_of(list(placement)), threads=request.threads),
        stages=find_stage_costs(request.bundle.chain(request.variant_name), networks.provenance, mean_s),
        verdict=verdict,
        every_s=request.pace.every_s,
        best_speedup=rows.get("single", rows["whole"]).mean_s / rows["early"].mean_s,
        calibrated_s=point.latency_s if point else None,
        slowdown=_find_slowdown(request, placement[-1], latencies(whole)),
        counts="labels" if request.judging is None else "losses",
        noise=mean_error(latencies(early), request.pace.block) / rows["early"].mean_s,
        ratio_noise=errors[0] * rows["whole"].mean_s / rows["early"].mean_s,
        metric=request.metric_name,
        groups=correctness.group_count,
        worst=worst,
        max_drop=target.max_drop if target else None,
    )


def _find_slowdown(request: ComparisonRequest, device: str, whole_s: np.ndarray) -> float | None:
    """Return how many times as long the whole static network takes as when it was calibrated; None if that is unknown."""
    if request.calibration is None:
        return None
    calibration, then = request.calibration, request.calibration.conditions
    as_now = (device, request.pace.every_s, str(request.threads))
    if then.reference_s is None or as_now != (
        then.reference_device,
        calibration.every_s,
        calibration.fingerprint.get("threads"),
    ):
        return None
    return float(whole_s.mean()) / then.reference_s
