"""Calibrate: record, measure, search, report."""

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from .. import __version__
from ..bundle import Bundle, open_bundle, write_calibration
from ..devices import fingerprint
from ..errors import DataError, TargetError, UsageError
from ..files import check_writable
from ..runtime import EveryExit, Net, load_static
from ..runtime.loading import load_uncalibrated, packages_of
from ..runtime.samples import Samples
from ..schema import SCHEMA, Calibration, Certificate, OperatingPoint, StaticPoint, Target
from .certify import certify_path, lay_path
from .measure import force_exits, latencies, measure, run_alone
from .samples import Progress, check_labelled, no_progress
from .search import MARGIN, Limit, Problem, exits_taken, search
from .statistics import paired_drop, paired_error

MEASURE_S = 6.0
"""Time spent on measuring latencies."""


def calibrate(
    bundle: str | os.PathLike[str] | Bundle,
    data: tuple[Any, np.ndarray],
    target: Target,
    *,
    device: str | Sequence[str] = "cpu",
    threads: int = 1,
    fallback: str | None = None,
    variant: str | None = None,
    output: str | os.PathLike[str] | None = None,
    confidence: float = 0.9,
    outside: tuple[Any, np.ndarray] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Calibration:
    """Find the thresholds that meet a target on this device, and store them.

    One half of the samples chooses the thresholds, or, better, data from outside does; every figure and the promise come from the
    others. Under a limit of the accuracy drop, candidates laid through the best thresholds are tested on those from the cautious
    end, and the last one before the first that fails is taken; see `certify`. Scores and labels are those of the deployed
    engines, and latencies are measured here, end to end. Use samples that the network was not trained on.

    Args:
        bundle: the bundle or its folder.
        data: samples as `Net.batch` takes them, and labels int (N,).
        target: what to optimise under which limit.
        device, threads, fallback: as for `runtime.load`.
        variant: name of the variant to calibrate; the first by default.
        output: where to store the calibration; in the bundle's `calibrations/` by default, as `default.json`, or as
            `<variant>.json` for another variant than the first.
        confidence: with what probability a promised accuracy drop is to be kept.
        outside: other samples and labels, such as training data, that choose the thresholds; all of `data` then certify.
        seed: draws the split and the order of measurement.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        The calibration, whose point `default` has been stored; `met` and `pays` say whether it is worth using.

    Raises:
        DataError: the samples do not fit the network, or there are too few of them.
        TargetError: no thresholds keep the limit; nothing is stored.
        UsageError, BundleError, MissingError: as for `runtime.load`; MissingError too where the output cannot be written.
    """
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    x, y = check_labelled(data, bundle.manifest)
    if len(x) < (least := max(20, bundle.manifest.classes)):
        raise DataError(
            f"There are {len(x)} samples; calibrating takes at least {least}, and some thousands to be precise."
        )
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence is a probability from 0.5 to below 1, such as 0.9, not {confidence}.")
    others = None if outside is None else check_labelled(outside, bundle.manifest)
    chosen = bundle.variant(variant)
    name = "default" if chosen is bundle.manifest.variants[0] else chosen.name
    output = Path(output) if output else bundle.path / "calibrations" / f"{name}.json"
    check_writable(output)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    half = len(x) // 2 if others is None else 0
    select, report = order[:half], order[half:]
    how: dict[str, Any] = {"variant": variant, "threads": threads}
    with ExitStack() as stack, load_uncalibrated(bundle, device, fallback=fallback, progress=progress, **how) as net:
        placement = tuple(stage.device for stage in net.provenance.stages)
        answers = _record(net, x, progress)
        right = answers.label == y[:, None]
        if others is None:
            known, known_right = answers.score[select], right[select]
        else:
            outer = _record(net, others[0], progress)
            known, known_right = outer.score, outer.label == others[1][:, None]
        statics = [stack.enter_context(load_static(bundle, placement[k], exit=k, **how)) for k in range(len(net.exits))]
        shares = np.full(len(statics), 1 / len(statics))
        # What an exit costs depends on how often the others are taken, and that on the thresholds: measure, search, and again.
        for _ in range(2):
            turns = {"forced": force_exits(net, tuple(shares), rng=rng)}
            turns |= {f"static{k}": run_alone(static) for k, static in enumerate(statics)}
            results = measure(turns, x[order], rng=rng, progress=progress, seconds=MEASURE_S / 2)
            costs = [float(latencies(forced).mean()) for forced in results["forced"]]
            found = search(_problem(known, known_right, costs, target, tested=len(report)))
            thresholds = found or (0.0,) * (len(costs) - 1)
            shares = _shares(exits_taken(known, thresholds), len(statics))
    if found is None:
        raise TargetError(
            f"No thresholds give {target}: leaving always at the first exit takes {costs[0] * 1e6:.0f} us on this device. "
            "Allow more time, or export a network with an earlier exit."
        )
    static_s = [float(latencies(results[f"static{k}"][0]).mean()) for k in range(len(statics))]
    certificate, promise = None, "Nothing is promised: no accuracy drop is limited."
    if target.max_drop is not None:
        path = lay_path(known, thresholds)
        step, promise = certify_path(path, answers.score[report], right[report], target.max_drop, confidence)
        if step is not None:
            thresholds = tuple(path[step].tolist())
            certificate = Certificate(
                max_drop=target.max_drop, confidence=confidence, samples=len(report), step=step, steps=len(path)
            )
            promise = str(certificate)
    point = _predict(answers.score[report], right[report], costs, thresholds, target, chosen.name, placement)
    point = replace(point, certificate=certificate, promise=promise)
    best = _best_single(known_right, static_s, target)
    static_points = tuple(
        StaticPoint(exit=k, accuracy=float(right[report, k].mean()), latency_s=static_s[k]) for k in range(len(statics))
    )
    pays, verdict = _judge(point, None if best is None else static_points[best], len(statics))
    calibration = Calibration(
        schema=SCHEMA,
        offramp=__version__,
        variant=chosen.name,
        variant_digest=chosen.digest,
        fingerprint=fingerprint(packages=packages_of(placement), threads=threads),
        seed=seed,
        select_samples=len(known),
        report_samples=len(report),
        exit_latency_s=tuple(costs),
        statics=static_points,
        best_single=best,
        pays=pays,
        verdict=verdict,
        points={"default": point},
    )
    write_calibration(output, calibration)
    return calibration


def _record(net: Net, x: Samples, progress: Progress) -> EveryExit:
    """Run every sample through every exit, one at a time as in the product."""
    parts = []
    for first in range(0, len(x), 100):
        parts.append(net.every_exit(x[first : first + 100]))
        progress("recording", min(first + 100, len(x)), len(x))
    return EveryExit(np.concatenate([part.label for part in parts]), np.concatenate([part.score for part in parts]))


def _predict(
    score: np.ndarray,
    right: np.ndarray,
    costs: list[float],
    thresholds: tuple[float, ...],
    target: Target,
    variant: str,
    placement: tuple[str, ...],
) -> OperatingPoint:
    taken = exits_taken(score, thresholds)
    shares = _shares(taken, len(costs))
    right_early = right[np.arange(len(taken)), taken]
    drop, interval = paired_drop(right_early, right[:, -1])
    latency_s = float(shares @ np.array(costs))
    met = drop <= target.max_drop if target.max_drop is not None else latency_s <= (target.max_latency_s or 0)
    return OperatingPoint(
        variant=variant,
        placement=placement,
        target=target,
        thresholds=thresholds,
        accuracy=float(right_early.mean()),
        full_accuracy=float(right[:, -1].mean()),
        drop=drop,
        drop_interval=interval,
        latency_s=latency_s,
        exit_shares=tuple(float(share) for share in shares),
        met=bool(met),
    )


def _problem(score: np.ndarray, right: np.ndarray, costs: Sequence[float], target: Target, *, tested: int) -> Problem:
    """Say what the search is to find for a target that is then tested on so many samples."""
    lost, cost = right[:, -1:].astype(np.int8) - right.astype(np.int8), np.asarray(costs)
    if target.max_drop is not None:
        return Problem(score, cost, lost, (Limit(lost, target.max_drop, MARGIN * math.sqrt(len(score) / tested)),))
    assert target.max_latency_s is not None
    return Problem(score, lost, cost, (Limit(cost, target.max_latency_s, MARGIN),))


def _shares(taken: np.ndarray, exits: int) -> np.ndarray:
    return np.asarray(np.bincount(taken, minlength=exits) / len(taken))


def _best_single(right: np.ndarray, static_s: list[float], target: Target) -> int | None:
    """Return the exit whose static network alone is best for the target; a drop keeps its margin as thresholds do."""
    exits = range(right.shape[1])
    if target.max_drop is not None:
        last, n = right[:, -1:], len(right)
        lost, won = (last & ~right).sum(axis=0), (right & ~last).sum(axis=0)
        bound = (lost - won) / n + MARGIN * paired_error(lost, won, n)
        bound[-1] = 0  # the last exit loses nothing against itself
        return min((k for k in exits if bound[k] <= target.max_drop), key=lambda k: static_s[k])
    fast = [k for k in exits if static_s[k] <= (target.max_latency_s or 0)]
    return max(fast, key=lambda k: float(right[:, k].mean()), default=None)


def _judge(point: OperatingPoint, static: StaticPoint | None, exits: int) -> tuple[bool, str]:
    """Say whether the operating point keeps its target and beats the best static network that does, with the numbers."""
    early = f"early exit {point.latency_s * 1e6:.0f} us at {point.accuracy:.2%}"
    if not point.met:
        return (
            False,
            f"The target is missed on the samples that did not choose: {early}, an accuracy drop of {point.drop:.2%}.",
        )
    if static is None:
        return True, f"Use early exit: no static network keeps the target, {early}."
    name = (
        "the whole static network"
        if static.exit == exits - 1
        else f"the static network that ends at exit {static.exit}"
    )
    against = f"{name} {static.latency_s * 1e6:.0f} us at {static.accuracy:.2%}"
    if point.target.max_drop is not None:
        pays = point.latency_s < static.latency_s
        gain = f"{static.latency_s / point.latency_s:.2f} times the speed"
    else:
        pays = point.accuracy > static.accuracy
        gain = f"{point.accuracy - static.accuracy:+.2%} accuracy"
    if pays:
        return True, f"Use early exit: {early}, {against} ({gain})."
    return False, f"Do not use early exit here: {early}, {against} ({gain})."
