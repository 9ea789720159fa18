"""A report on a calibrated bundle: the recommendation and its reasons, as one HTML page that works offline."""

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from ... import __version__
from ...bundle import Bundle, Calibration, OperatingPoint, Variant, opened, read_calibration
from ...bundle.calibration import EARLY_SUFFIX, Chain
from ...devices import describe_differences
from ...errors import BundleError, OutdatedError, UsageError
from ...files import check_writable, hash_file, write_atomically
from ...progress import Progress, no_progress
from ...runtime import EveryExit
from ...runtime.loading import load_uncalibrated
from ...runtime.selection import choose_point, differs_here
from ..comparison import Comparison, ComparisonRequest, compare
from ..labels import check_labelled, hash_samples
from ..measure.answers import record_answers
from ..measure.latency import latencies
from ..measure.tables import exits_taken
from .contents import PERCENTILE_COUNT, Distribution, Measured, Report
from .examples import Group, find_examples, has_images
from .reliability import find_reliability

__all__ = ["report"]


class _Subject(Struct, frozen=True, kw_only=True):
    """What of a bundle's calibration a report is about.

    Attributes:
        calibration, file: the calibration, and the file that holds it.
        point: name of the operating point.
        early: name of the point that exits early and belongs to `point`; None if no point exits early.
        chain: the measured chain of that point.
    """

    calibration: Calibration
    file: Path
    point: str
    early: str | None
    chain: Chain


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
    """Write what a calibration found, and what fresh samples show, as one HTML file that works offline.

    Args:
        bundle: the bundle or its folder.
        data: samples as `Net.batch` takes them, and labels (N,), that calibration never saw. Without them the page leaves out
            measured figures beside the predictions, the reliability of scores, and examples.
        output: the file to write; an existing file is replaced.
        device, threads, fallback, variant, calibration: as for `runtime.load`.
        point: name of the operating point that the report is about; the first by default. If it does not exit early, the point
            `<name>-early` is measured, or else the first point that does.
        seed: seed for the order of measurement and for the choice of some examples.
        progress: called with what is being done, how much is done, and how much there is.

    Raises:
        UsageError: there is no calibration, no such point, or several calibrations to choose from.
        DataError: the samples do not fit the network.
        BundleError, MissingError: as for `runtime.load`; MissingError also if a package is not installed or the file cannot be
            written.

    Example:
        >>> from offramp.calibrate import load_samples, report
        >>> samples = load_samples("test.npz", "digits.offramp")
        >>> page = report("digits.offramp", samples, output="report.html")
        >>> page.bundle, page.measured.samples
        ('digits.offramp', 200)
    """
    from .page import check_packages, render_page

    check_packages()
    output = Path(output)
    check_writable(output)
    bundle = opened(bundle)
    samples = None if data is None else check_labelled(data, bundle.manifest)
    subject = _find_subject(bundle, calibration, variant=variant, point=point, threads=threads)
    measured = None
    if samples is not None:
        request = ComparisonRequest(
            bundle=bundle,
            x=samples[0],
            y=samples[1],
            calibration=subject.calibration,
            point=subject.early,
            device=device,
            threads=threads,
            fallback=fallback,
            variant=variant,
            seed=seed,
            progress=progress,
        )
        measured = _measure(request, subject.chain)
    page = _describe(bundle, subject, threads, measured)
    write_atomically(output, render_page(page).encode())
    return page


def _find_subject(
    bundle: Bundle,
    calibration: str | os.PathLike[str] | None,
    *,
    variant: str | None,
    point: str | None,
    threads: int,
) -> _Subject:
    _, chosen, best = choose_point(bundle, calibration, variant=variant, point=point, threads=threads)
    if chosen is None or best is None:
        raise UsageError(
            f"{bundle.path} has no calibration to report{f' of variant {variant}' if variant else ''}. Run: offramp calibrate "
            f"{bundle.path} DATA",
            path=bundle.path,
        )
    name = next(name for name, candidate in chosen.points.items() if candidate is best)
    early = _early_beside(chosen, name, variant)
    return _Subject(
        calibration=chosen,
        file=Path(calibration) if calibration is not None else _file_of(bundle, chosen),
        point=name,
        early=early,
        chain=_find_chain(chosen, best if early is None else chosen.points[early], variant),
    )


def _describe(bundle: Bundle, subject: _Subject, threads: int, measured: Measured | None) -> Report:
    files = bundle.path / "manifest.json", subject.file
    digests = {f"variant {name}": digest for name, digest in subject.calibration.variants.items()}
    return Report(
        bundle=bundle.path.resolve().name,
        network=bundle.manifest.network,
        class_names=bundle.manifest.class_names,
        made=_show_moment(datetime.now(timezone.utc)),
        calibrated=_show_moment(datetime.fromtimestamp(subject.file.stat().st_mtime, timezone.utc)),
        offramp=__version__,
        sha256={file.name: hash_file(file) for file in files} | digests,
        point=subject.point,
        elsewhere=describe_differences(differs_here(subject.calibration, threads)),
        calibration=subject.calibration,
        chain=subject.chain,
        measured=measured,
    )


def _file_of(bundle: Bundle, calibration: Calibration) -> Path:
    file = next((path for path in bundle.calibrations() if _holds(path, calibration)), None)
    if file is None:
        raise BundleError(f"The calibration in {bundle.path} changed while it was read. Try again.", path=bundle.path)
    return file


def _holds(path: Path, calibration: Calibration) -> bool:
    try:
        return read_calibration(path) == calibration
    except OutdatedError:
        return False


def _show_moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _early_beside(calibration: Calibration, name: str, variant: str | None) -> str | None:
    """Return the name of the early-exit point that belongs to a point: itself, `<name>-early`, or the first early-exit point."""
    chains = [
        key
        for key, point in calibration.points.items()
        if point.exits_early and (variant is None or point.variant == variant)
    ]
    preferred = [key for key in (name, name + EARLY_SUFFIX) if key in chains]
    return next(iter([*preferred, *chains]), None)


def _find_chain(calibration: Calibration, point: OperatingPoint, variant: str | None) -> Chain:
    """Return the measured chain of a point; for a static network the chain of its variant, or the first."""
    same = [chain for chain in calibration.chains if chain.variant == (variant or point.variant)]
    exact = [chain for chain in same if chain.placement == point.placement]
    return (exact or same or list(calibration.chains))[0]


def _measure(request: ComparisonRequest, chain: Chain) -> Measured:
    """Measure the request's point; without a point, ask only what every exit of the chain answers."""
    calibration = request.calibration
    point = None if request.point is None or calibration is None else calibration.points[request.point]
    variant = request.bundle.variant(request.variant_name or chain.variant)
    placement, comparison = request.device or chain.placement, None
    if point is not None:
        comparison = compare(request)
        placement = tuple(stage.device for stage in comparison.benchmark.stages)
    answers = _ask_exits(request, variant, placement)
    return Measured(
        samples=len(request.x),
        data_sha256=hash_samples(request.x),
        seed=request.seed,
        point=request.point,
        variant=variant.name,
        rule=variant.rule,
        thresholds=() if point is None else point.thresholds,
        benchmark=None if comparison is None else comparison.benchmark,
        distributions=() if comparison is None else _distributions(comparison),
        reliability=tuple(
            find_reliability(k, answers.score[:, k], answers.label[:, k] == request.y)
            for k in range(answers.score.shape[1])
        ),
        examples=_examples(request, answers, point),
    )


def _ask_exits(request: ComparisonRequest, variant: Variant, placement: str | Sequence[str]) -> EveryExit:
    """Return what every exit of a variant answers to every sample."""
    with load_uncalibrated(
        request.bundle,
        placement,
        variant=variant.name,
        threads=request.threads,
        fallback=request.fallback,
        progress=request.progress,
    ) as net:
        return record_answers(net, request.x, progress=request.progress, threads=request.threads)


def _distributions(comparison: Comparison) -> tuple[Distribution, ...]:
    runs = {f"leaving at exit {k}": results for k, results in enumerate(comparison.forced)}
    runs |= {"early exit": comparison.early, "whole static network": comparison.whole}
    distributions = []
    for name, results in runs.items():
        seconds = latencies(results)
        steps = np.percentile(seconds, np.linspace(0, 100, PERCENTILE_COUNT))
        distributions.append(Distribution(name, len(seconds), float(seconds.mean()), tuple(steps.tolist())))
    return tuple(distributions)


def _examples(request: ComparisonRequest, answers: EveryExit, point: OperatingPoint | None) -> tuple[Group, ...]:
    manifest = request.bundle.manifest
    if point is None or not has_images(manifest):
        return ()
    assert isinstance(request.y, np.ndarray)  # `check_labelled` refuses networks that do not classify
    taken = exits_taken(answers.score, point.thresholds)
    rng = np.random.default_rng(request.seed)
    return find_examples(request.x.arrays[0], request.y, answers, taken, manifest, rng=rng)
