"""A report on a calibrated bundle: the recommendation and its reasons, as one HTML page that works offline."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from ... import __version__
from ...bundle import Bundle, Calibration, OperatingPoint, opened
from ...bundle.calibration import EARLY_SUFFIX, Chain
from ...bundle.decoding import MOST_BYTES
from ...devices import describe_differences
from ...errors import BundleError, OutdatedError, UsageError
from ...files import check_writable, hash_file, sha256, write_atomically
from ...progress import Progress, no_progress
from ...runtime import EveryExit, Net
from ...runtime.loading import load_static, load_uncalibrated
from ...runtime.placement import refuse_servers
from ...runtime.selection import choose_point, differs_here
from ..comparison import Comparison, ComparisonRequest, compare
from ..dataset_metric import Metric, name_metric, read_metric
from ..fitting_samples import check_unhashed
from ..judging import DISAGREEMENT, LOSS, Judge, ReferenceAnswers, read_judging
from ..labels import check_test_data, hash_samples
from ..losses import Loss, find_decode
from ..measure.answers import record_answers
from ..measure.latency import latencies
from ..measure.tables import exits_taken
from ..parts import read_own_groups
from ..truth import Truth
from .answer_examples import AnswerExamples, Outcomes, find_answer_examples
from .contents import PERCENTILE_COUNT, Distribution, Measured, Report
from .examples import Group, find_examples
from .exit_losses import describe_losses
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
    data: tuple[Any, Any] | None = None,
    *,
    output: str | os.PathLike[str],
    device: str | Sequence[str] | None = None,
    threads: int = 1,
    fallback: str | None = None,
    variant: str | None = None,
    point: str | None = None,
    calibration: str | os.PathLike[str] | None = None,
    seed: int = 0,
    loss: "str | Loss | None" = None,
    disagreement: "str | Loss | None" = None,
    metric: "str | Metric | None" = None,
    groups: Any = None,
    beside: Mapping[str, Net] | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Write what a calibration found, and what fresh samples show, as one HTML file that works offline.

    Args:
        bundle: the bundle or its folder.
        data: samples as `Net.batch` takes them, and labels (N,), or the truth as `calibrate` takes it, that calibration never
            saw. Without them the page leaves out measured figures beside the predictions, the reliability of scores, and
            examples.
        output: the file to write; an existing file is replaced.
        device, threads, fallback, variant, calibration: as for `runtime.load`.
        point: name of the operating point that the report is about; the first by default. If it does not exit early, the point
            `<name>-early` is measured, or else the first point that does.
        seed: seed for the order of measurement and for the choice of some examples.
        loss, disagreement: for a network that does not classify, as for `calibrate`. The page then shows the losses of each exit
            and examples: boxes that the loss decodes (in pixels of the input, or shares of its sides), maps of classes, numbers.
        metric: the user's own metric of all samples, as for `bench`.
        groups: which samples depend on each other, as for `bench`.
        beside: other loaded networks by what they are called, as for `bench`.
        progress: called with what is being done, how much is done, and how much there is.

    Raises:
        UsageError: there is no calibration, no such point, or several calibrations to choose from; or an argument cannot be used.
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
    if data is None and (loss or disagreement or metric or groups is not None):
        raise UsageError("loss, disagreement, metric and groups are of samples: give data too.")
    samples = None if data is None else check_test_data(data, bundle.manifest)
    judging = None if data is None else read_judging(bundle.manifest, loss, disagreement, has_truth=True)
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
            judging=judging,
            metric=read_metric(metric),
            metric_name=name_metric(metric),
            groups=read_own_groups(groups, None if data is None else data[0], len(samples[0])),
            beside=beside or {},
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
    hashes = {"manifest.json": sha256(bundle.read_file(bundle.path / "manifest.json", most=MOST_BYTES))}
    is_packed = bundle.packed is not None and subject.file.is_relative_to(bundle.path)
    hashes[subject.file.name] = (
        sha256(bundle.read_file(subject.file, most=MOST_BYTES)) if is_packed else hash_file(subject.file)
    )
    moment_s = (bundle.path if is_packed else subject.file).stat().st_mtime
    digests = {f"variant {name}": digest for name, digest in subject.calibration.variants.items()}
    return Report(
        bundle=bundle.path.resolve().name,
        network=bundle.manifest.network,
        class_names=bundle.manifest.class_names,
        made=_show_moment(datetime.now(timezone.utc)),
        calibrated=_show_moment(datetime.fromtimestamp(moment_s, timezone.utc)),
        offramp=__version__,
        sha256=hashes | digests,
        point=subject.point,
        elsewhere=describe_differences(differs_here(subject.calibration, threads)),
        calibration=subject.calibration,
        chain=subject.chain,
        measured=measured,
    )


def _file_of(bundle: Bundle, calibration: Calibration) -> Path:
    file = next((path for path in bundle.calibrations() if _holds(bundle, path, calibration)), None)
    if file is None:
        raise BundleError(f"The calibration in {bundle.path} changed while it was read. Try again.", path=bundle.path)
    return file


def _holds(bundle: Bundle, path: Path, calibration: Calibration) -> bool:
    try:
        return bundle.read_calibration(path) == calibration
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
    variant = request.bundle.chain(request.variant_name or chain.variant)
    placement, comparison = request.device or refuse_servers(chain.placement), None
    if point is None:
        check_unhashed(request.x, request.bundle, variant)
    else:
        comparison = compare(request)
        placement = tuple(stage.device for stage in comparison.benchmark.stages)
    taken, shown = None, None
    with load_uncalibrated(
        request.bundle,
        placement,
        variant=variant.name,
        threads=request.threads,
        fallback=request.fallback,
        progress=request.progress,
    ) as net:
        answers = _ask_exits(request, net)
        if point is not None:
            taken = exits_taken(answers.score, point.thresholds)
        if request.judging is not None and taken is not None:
            shown = _show_answers(request, net, answers, taken)
    right = _find_right(request, answers)
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
        reliability=tuple(find_reliability(k, answers.score[:, k], each) for k, each in enumerate(right.T)),
        examples=_examples(request, answers, taken),
        loss=None if request.judging is None else request.judging.names[0],
        losses=() if request.judging is None else describe_losses(1 - right, taken),
        answers=shown,
    )


def _find_right(request: ComparisonRequest, answers: EveryExit) -> np.ndarray:
    """Return for each sample and exit whether the label is right, bool (N, exits), or 1 less the loss, float64."""
    if request.judging is None:
        assert isinstance(request.y, np.ndarray)
        return np.asarray(answers.label == request.y[:, None])
    return 1 - _stack(answers, LOSS)


def _stack(answers: EveryExit, name: str) -> np.ndarray:
    return np.stack([parts[name] for parts in answers.answers or ()], 1).astype(np.float64)


def _ask_exits(request: ComparisonRequest, net: Net) -> EveryExit:
    """Return what every exit answers to every sample; of a network that does not classify how wrong that is."""
    options: dict[str, Any] = {"progress": request.progress, "threads": request.threads}
    if request.judging is None:
        return record_answers(net, request.x, **options)
    assert isinstance(request.y, Truth)
    with ExitStack() as stack:
        reference = None
        if request.judging.disagreement is not None:
            first, device = request.bundle.manifest.variants[0], net.provenance.devices[-1]
            last = len(first.exits) - 1
            whole = load_static(request.bundle, device, variant=first.name, exit=last, threads=request.threads)
            reference = ReferenceAnswers(stack.enter_context(whole))
        return record_answers(net, request.x, **options, judge=Judge(request.judging, request.y, reference))


def _show_answers(request: ComparisonRequest, net: Net, answers: EveryExit, taken: np.ndarray) -> AnswerExamples:
    """Return samples and their answers, drawn as far as they can be."""
    assert request.judging is not None and isinstance(request.y, Truth)
    rows, losses = np.arange(len(taken)), _stack(answers, LOSS)
    has_measure = request.judging.disagreement is not None
    far = _stack(answers, DISAGREEMENT) if has_measure else np.abs(losses - losses[:, -1:])
    outcomes = Outcomes(taken, answers.score[rows, taken], losses[rows, taken], losses[:, -1], differs=far[rows, taken])
    return find_answer_examples(
        net,
        request.x,
        request.y,
        outcomes,
        request.bundle.manifest,
        decode=find_decode(request.judging.loss),
        rng=np.random.default_rng(request.seed),
    )


def _distributions(comparison: Comparison) -> tuple[Distribution, ...]:
    runs = {f"leaving at exit {k}": results for k, results in enumerate(comparison.forced)}
    runs |= {"early exit": comparison.early, "whole static network": comparison.whole}
    distributions = []
    for name, results in runs.items():
        seconds = latencies(results)
        steps = np.percentile(seconds, np.linspace(0, 100, PERCENTILE_COUNT))
        distributions.append(Distribution(name, len(seconds), float(seconds.mean()), tuple(steps.tolist())))
    return tuple(distributions)


def _examples(request: ComparisonRequest, answers: EveryExit, taken: np.ndarray | None) -> tuple[Group, ...]:
    manifest = request.bundle.manifest
    if taken is None or not isinstance(request.y, np.ndarray):
        return ()
    rng = np.random.default_rng(request.seed)
    return find_examples(request.x.arrays, request.y, answers, taken, manifest, rng=rng)
