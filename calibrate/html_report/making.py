"""A report on a calibrated bundle: what is recommended and why, as one page of HTML that needs nothing else."""

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...bundle import Bundle, Calibration, OperatingPoint, Variant, opened, read_calibration
from ...bundle.calibration import EARLY_SUFFIX, Chain
from ...devices import describe_differences
from ...errors import BundleError, OutdatedError, UsageError
from ...files import check_writable, hash_file, write_atomically
from ...progress import Progress, no_progress
from ...runtime import EveryExit
from ...runtime.chain.samples import Samples
from ...runtime.loading import load_uncalibrated
from ...runtime.selection import choose_point, differs_here
from ..benchmark import Comparison, compare
from ..labels import check_labelled, hash_samples
from ..measure.answers import SAMPLES_AT_ONCE
from ..measure.latency import latencies
from ..measure.tables import exits_taken
from .contents import PERCENTILES, Distribution, Measured, Report
from .examples import Group, find_examples, has_images
from .reliability import find_reliability


def report(
    bundle: str | os.PathLike[str] | Bundle,
    data: tuple[Any, np.ndarray] | None = None,
    *,
    output: str | os.PathLike[str],
    device: str | Sequence[str] | None = None,
    threads: int = 1,
    fallback: str | None = None,
    variant: str | None = None,
    point: str | None = None,
    calibration: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Report:
    """Write what a calibration found, and what samples show of it, as one HTML file that works offline.

    Args:
        bundle: the bundle or its folder.
        data: samples as `Net.batch` takes them, and labels (N,), that calibration never saw. Without them the page leaves out
            what only samples can show: figures beside their predictions, the reliability of scores, examples.
        output: the file to write; one that is there is replaced.
        device, threads, fallback, variant, calibration: as for `runtime.load`.
        point: name of the operating point that the report is about; the first by default. Where it does not exit early, what
            is measured is the one that was found beside it, or the first that does.
        seed: draws the order of measurement, and some of the examples.
        progress: called with what is being done, how much is done, and how much there is.

    Raises:
        UsageError: there is no calibration, no such point, or several calibrations to choose from.
        DataError: the samples do not fit the network.
        BundleError, MissingError: as for `runtime.load`; MissingError too where a package is not installed, or the file cannot be
            written.
    """
    from .page import render_page

    output = Path(output)
    check_writable(output)
    bundle = opened(bundle)
    samples = None if data is None else check_labelled(data, bundle.manifest)
    _, found, best = choose_point(bundle, calibration, variant=variant, point=point, threads=threads)
    if found is None or best is None:
        raise UsageError(
            f"{bundle.path} has no calibration to report{f' of variant {variant}' if variant else ''}. Run: offramp calibrate "
            f"{bundle.path} DATA"
        )
    file = Path(calibration) if calibration is not None else _file_of(bundle, found)
    name = next(name for name, one in found.points.items() if one is best)
    early = _early_beside(found, name, variant)
    chain = _find_chain(found, best if early is None else found.points[early], variant)
    measured = None
    if samples is not None:
        how: dict[str, Any] = {"threads": threads, "fallback": fallback, "progress": progress}
        measured = _measure(bundle, *samples, found, early, chain, device=device, variant=variant, seed=seed, how=how)
    digests = {f"variant {key}": digest for key, digest in found.variants.items()}
    made = Report(
        bundle=bundle.path.resolve().name,
        network=bundle.manifest.network,
        class_names=bundle.manifest.class_names,
        made=_show_time(datetime.now(timezone.utc)),
        calibrated=_show_time(datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)),
        offramp=__version__,
        sha256={one.name: hash_file(one) for one in (bundle.path / "manifest.json", file)} | digests,
        point=name,
        elsewhere=describe_differences(differs_here(found, threads)),
        calibration=found,
        chain=chain,
        measured=measured,
    )
    write_atomically(output, render_page(made).encode())
    return made


def _file_of(bundle: Bundle, found: Calibration) -> Path:
    file = next((path for path in bundle.calibrations() if _holds(path, found)), None)
    if file is None:
        raise BundleError(f"The calibration in {bundle.path} changed while it was read. Try again.")
    return file


def _holds(path: Path, found: Calibration) -> bool:
    try:
        return read_calibration(path) == found
    except OutdatedError:
        return False


def _show_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _early_beside(calibration: Calibration, name: str, variant: str | None) -> str | None:
    """Return the point that exits early and belongs to a point: itself, the one found beside it, or the first."""
    chains = [
        key
        for key, one in calibration.points.items()
        if one.static is None and (variant is None or one.variant == variant)
    ]
    wanted = [key for key in (name, name + EARLY_SUFFIX) if key in chains]
    return next(iter([*wanted, *chains]), None)


def _find_chain(calibration: Calibration, point: OperatingPoint, variant: str | None) -> Chain:
    """Return what was measured of a point's chain; of a static network that of its variant, or the first."""
    same = [one for one in calibration.chains if one.variant == (variant or point.variant)]
    exact = [one for one in same if one.placement == point.placement]
    return (exact or same or list(calibration.chains))[0]


def _measure(
    bundle: Bundle,
    x: Samples,
    y: np.ndarray,
    calibration: Calibration,
    early: str | None,
    chain: Chain,
    *,
    device: str | Sequence[str] | None,
    variant: str | None,
    seed: int,
    how: dict[str, Any],
) -> Measured:
    """Measure the point `early`, or, where there is none, ask the exits of the chain only."""
    point = None if early is None else calibration.points[early]
    ran = bundle.variant(variant or (chain.variant if point is None else point.variant))
    comparison = None
    placement = device or chain.placement
    if point is not None:
        comparison = compare(bundle, x, y, calibration, device=device, variant=variant, point=early, seed=seed, **how)
        placement = tuple(stage.device for stage in comparison.benchmark.stages)
    every = _ask_exits(bundle, ran, placement, x, how)
    return Measured(
        samples=len(x),
        data_sha256=hash_samples(x),
        seed=seed,
        point=early,
        variant=ran.name,
        rule=ran.rule,
        thresholds=() if point is None else point.thresholds,
        benchmark=None if comparison is None else comparison.benchmark,
        distributions=() if comparison is None else _distributions(comparison),
        reliability=tuple(
            find_reliability(k, every.score[:, k], every.label[:, k] == y) for k in range(every.score.shape[1])
        ),
        examples=_examples(bundle, x, y, every, point, seed),
    )


def _ask_exits(
    bundle: Bundle, variant: Variant, placement: str | Sequence[str], x: Samples, how: dict[str, Any]
) -> EveryExit:
    parts = []
    with load_uncalibrated(bundle, placement, variant=variant.name, **how) as net:
        for first in range(0, len(x), SAMPLES_AT_ONCE):
            parts.append(net.every_exit(x[first : first + SAMPLES_AT_ONCE]))
            how["progress"]("asking every exit", min(first + SAMPLES_AT_ONCE, len(x)), len(x))
    return EveryExit(np.concatenate([one.label for one in parts]), np.concatenate([one.score for one in parts]))


def _distributions(comparison: Comparison) -> tuple[Distribution, ...]:
    named = {f"leaving at exit {k}": one for k, one in enumerate(comparison.forced)}
    named |= {"early exit": comparison.early, "whole static network": comparison.whole}
    found = []
    for name, results in named.items():
        seconds = latencies(results)
        steps = np.percentile(seconds, np.linspace(0, 100, PERCENTILES))
        found.append(Distribution(name, len(seconds), float(seconds.mean()), tuple(steps.tolist())))
    return tuple(found)


def _examples(
    bundle: Bundle, x: Samples, y: np.ndarray, every: EveryExit, point: OperatingPoint | None, seed: int
) -> tuple[Group, ...]:
    if point is None or not has_images(bundle.manifest):
        return ()
    taken = exits_taken(every.score, point.thresholds)
    rng = np.random.default_rng(seed)
    return find_examples(x.arrays[0], y, every, taken, bundle.manifest, rng=rng)
