"""Calibrate: record, measure, search, certify, recommend.

samples --+-- a fifth, or better, data from outside --> select the configuration and its thresholds, and lay a path through them
          +-- the others ----------------------------> report: every figure, and the promises
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from .. import __version__
from ..bundle import Bundle, Calibration, OperatingPoint, Target
from ..bundle.calibration import CALIBRATION_SCHEMA, Chain, Conditions, Latency, StaticPoint
from ..bundle.variant_names import describe_numbers
from ..devices.meter import Meter
from ..errors import require
from ..progress import Progress, no_progress
from ..runtime.sample_scale import warn_of_scale
from .advice import advise, name_missing, name_uncertain, name_unpromised, name_weak_end
from .certify.points import make_points, record_tested
from .certify.questions import ask, check_remembered, describe_question
from .certify.unproven import name_careful
from .disputes import count_labels, describe_labels, find_disputed
from .earlier import compare_accuracy, find_known_accuracy
from .labels import chance_of_agreement, compare_with_commonest, settle_labels
from .losses import Loss
from .measure.configurations import Measurements, measure_all
from .measure.session import Session
from .requests import Devices, Keep, Request, read_request
from .search.across import try_across
from .search.choice import Choice, choose, measure_again
from .search.contenders import Contender, tabulate
from .search.fewer_exits import try_fewer_exits
from .search.frontier import lay_frontier
from .search.gains import LEAST_GAIN
from .search.independence import Independence, check_groups, find_independence
from .search.picks import Pick
from .storing import store

__all__ = ["calibrate", "choose_measured", "describe_chosen"]


def calibrate(
    bundle: str | os.PathLike[str] | Bundle,
    data: Any,
    target: Target | Mapping[str, Target] | None = None,
    *,
    device: Devices = "cpu",
    also: Sequence[Devices] = (),
    threads: int = 1,
    fallback: str | None = None,
    variant: str | Sequence[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    replace: bool = False,
    confidence: float = 0.9,
    least_gain: float = LEAST_GAIN,
    outside: Any = None,
    meter: Meter | None = None,
    keep: Keep | None = None,
    seed: int = 0,
    measure_s: float = 6.0,
    every_s: float | None = None,
    save_s: float = 10.0,
    loss: "str | Loss | None" = None,
    disagreement: "str | Loss | None" = None,
    groups: Any = None,
    progress: Progress = no_progress,
) -> Calibration:
    """Find the operating point that meets a target at the least cost on this device, promise it, and store it.

    Every variant is recorded and measured on every device that is named (`device`, `also`), as a chain and as static
    networks. A compressed variant that is slower than its parent there, or much worse, is listed but takes no part in the
    search. Two variants that take part may make a chain, which `search/across.py` looks for: one up to an exit, then the other
    from the input. The selecting samples choose among all of these and among the thresholds: a fifth of the samples, at least
    200 and at most half, or, better, data from outside. Every figure and every promise comes from the reporting samples, the
    rest. They test candidates along a path through the best thresholds, from the safe end; the last candidate before the first
    failure is taken. All points together are promised with the given confidence. Use samples that the network was not trained
    on.

    A calibration that was killed continues when it is called again with the same arguments: answers and joules are kept in the
    cache until it is done.

    Args:
        bundle: the bundle or its folder.
        data: samples as `Net.batch` takes them, and labels int (N,). With labels None only disagreement with the whole network
            and costs can be limited. A label of -1 is unknown: drops need labels only where networks differ; see `ask_labels`.
            Of a network that does not classify what is true of each sample takes the labels' place:
            an array (N, ...), a `Ragged`, or a dict of them by name.
        target: the goal and its limits, or several targets by the names of their points; the first is the one that `load` takes.
            By default `balanced`, `accurate` and `eco`: the least latency (with a meter the least energy) at a drop of at most 1,
            0.5 and 2 %.
        device, threads, fallback: as for `runtime.load`.
        also: other devices to try, each one for all stages or one for each stage.
        variant: name of the variant to calibrate, or several names; all variants by default.
        output: the file to write. By default `default.json` in the bundle's `calibrations/`, or `<variant>.json` if a single
            variant other than the first is named. The calibration before is kept beside it, as `default.json.before`.
        replace: store the calibration even if it misses a target or promises less than the one before.
        confidence: the probability that all promises hold that these samples are ever asked for; a first question has 80 % of the
            chance of error, and further ones (another seed, target, variant, device, pace, meter or least gain) share the rest.
            The same one again is free.
        least_gain: the share of the mean cost that early exit must surely save against the best static network to be recommended,
            and a less simple chain against a simpler one; 0 takes any gain that is sure.
        outside: other samples and labels (or None), such as training data, that select; all of `data` then report.
        meter: measures energy, which takes some minutes for each configuration; see `devices.choose_meter`.
        keep: `offramp.export.keep`, which needs the extra `onnx`. Where fewer exits are predicted to be faster, it makes such a
            variant, which is measured with the others; it stays in the bundle if it is recommended. None only proposes it in a
            note. So it is, too, if single variants are named.
        seed: for everything random: the split of the samples and the order of measurement. Another one is another question.
        measure_s: seconds spent on the latencies of each configuration.
        every_s: the pace of the product, from the start of one call to the start of the next: calls are measured at it, since
            behind a pause they take up to some times as long. None makes calls back to back.
        save_s: seconds between two saves of recorded answers.
        loss: for a network that does not classify, how wrong an answer is, from 0 to 1: a name (see `calibrate.losses`), or a
            function: loss(answer, truth) -> float (N,) of the answers' parts by name, arrays (N, ...), and of the truth as it
            is given. `max_drop` then limits the mean loss added against the whole network, `max_loss` the mean loss itself.
        disagreement: how far an answer is from the whole network's, likewise, which a function gets by the names of its parts as
            it gets the answer; `max_disagreement` needs it. Without it figures of disagreement say how far losses differ.
        groups: which samples depend on each other, such as frames of a clip or windows of a person: for each sample the number or
            name of its group, (N,), or a function that returns them for the samples; `load_grouped` reads them from files. A
            group is never on both sides of the split, every figure is a mean over groups, each counting alike, and promises are
            of other groups like these. Where each sample is a group of its own, nothing changes.
        progress: called with the name of the step, how much of it is done, and how much there is.

    Returns:
        The calibration. Its last note says where it was stored, or why not; its points say what they promise and whether early
        exit pays.

    Raises:
        DataError: the samples do not fit the network, there are too few of them, or the labels are not this network's: the whole
            network is right no more often than by chance, or far less often than an earlier calibration in the bundle knew.
        TargetError: nothing meets the limits, or all variants are slower or worse than their parents; nothing is stored.
        UsageError: an argument does not make sense, or a target needs labels or a meter that are not given.
        BundleError, MissingError: as for `runtime.load`; MissingError too if the output cannot be written.
        MeasurementError: the meter failed.

    Example:
        >>> from offramp.calibrate import Target, calibrate, load_samples
        >>> samples = load_samples("test.npz")
        >>> calibration = calibrate("digits.offramp", samples, Target(max_drop=0.1), output="tried.json", measure_s=1)
        >>> calibration.point.target.max_drop
        0.1
    """
    require("scipy.special", extra="calibrate")  # which promises take, after all has been measured
    request = read_request(
        bundle,
        data,
        target,
        device=device,
        also=also,
        threads=threads,
        fallback=fallback,
        variant=variant,
        output=output,
        replace=replace,
        confidence=confidence,
        least_gain=least_gain,
        outside=outside,
        meter=meter,
        keep=keep,
        seed=seed,
        measure_s=measure_s,
        every_s=every_s,
        save_s=save_s,
        loss=loss,
        disagreement=disagreement,
        groups=groups,
        progress=progress,
    )
    warn_of_scale(request.bundle, request.samples.x)
    check_remembered(request.bundle)
    with Session(request) as session:
        chosen = choose_measured(session, measure_all(session))
    question, forgotten = ask(session.request)
    points = make_points(
        chosen.picks,
        request.targets,
        chosen.choice.statics,
        confidence=confidence,
        every_s=every_s,
        question=question,
        progress=progress,
    )
    session.tell_whole(len(session.placed) + 1)
    notes = [*describe_question(question, confidence), *forgotten]
    calibration = describe_chosen(session, chosen, points, notes=notes)
    calibration, is_stored = store(calibration, session.request)
    if is_stored:  # else what was recorded stays in the cache, for a user who asks for it again
        session.resume.clear()
    return calibration


class Chosen(Struct, frozen=True, kw_only=True):
    """What was chosen by what was measured, before the reporting samples test it.

    Attributes:
        choice: the choice.
        picks: its picks, their static networks with answers of their own.
        conditions: the board's state while it was measured.
        labels: how many were known, and how many could matter, if some were unknown.
        notes: things worth knowing, in words.
    """

    choice: Choice
    picks: dict[str, Pick]
    conditions: Conditions
    labels: tuple[int, int] | None
    notes: tuple[str, ...]


def choose_measured(session: Session, measured: Measurements, *, is_more_tried: bool = True) -> Chosen:
    """Choose by what was measured, and measure side by side what was chosen.

    Args:
        session: the session.
        measured: all configurations.
        is_more_tried: also measure chains across two variants and variants with fewer exits, where these may be better.

    Raises:
        DataError, TargetError: as for `calibrate`.
    """
    request = session.request
    notes = _compare_accuracy(measured, request)
    disputed = find_disputed([each.answers for each in measured.configurations], measured.reference.answers)
    independence = _find_independence(measured, request, disputed)
    contenders: Sequence[Contender] = tabulate(measured, request, independence)
    choice = choose(contenders, measured, request)
    if is_more_tried:
        choice, contenders, measured = try_across(session, measured, contenders, choice, independence)
        choice, contenders = try_fewer_exits(session, measured, contenders, choice, independence)
    choice = measure_again(session, choice, contenders)
    picks = record_tested(session, choice.picks, measured, independence)
    notes += [*describe_labels(request.samples.y, disputed), *session.try_pauses(), *independence.notes]
    return Chosen(
        choice=choice,
        picks=picks,
        conditions=session.conditions(),
        labels=count_labels(request.samples.y, disputed),
        notes=tuple(notes),
    )


def _compare_accuracy(measured: Measurements, request: Request) -> list[str]:
    """Compare the reference's accuracy with that of the commonest class, and with what earlier calibrations knew."""
    y, answers = request.samples.y, measured.reference.labels
    if not isinstance(y, np.ndarray) or request.samples.has_unknown:
        return []
    chance = chance_of_agreement(y, answers, request.bundle.manifest.classes)
    known = None if request.promises_over_groups else find_known_accuracy(request.bundle)
    return [*compare_with_commonest(y, answers), *compare_accuracy(answers == y, known, chance=chance)]


def _find_independence(measured: Measurements, request: Request, disputed: np.ndarray) -> Independence:
    """Find which samples depend on each other: as the user said, or by the scores of the first configuration.

    The class of a sample is its label, but the reference's where all networks agree: there labels change nothing.
    """
    y, labels, hashes = request.samples.y, measured.reference.labels, request.samples.hashes
    if request.promises_over_groups and request.groups is not None:
        return check_groups(hashes, request.groups.number)
    if isinstance(y, np.ndarray):
        labels = np.where(disputed, settle_labels(y, labels), labels)
    if request.groups is not None:  # neighbours are compared within each group, of which all samples are alike
        labels = labels + (int(labels.max()) + 1) * request.groups.number
    score, has_groups = measured.configurations[0].answers.chain.score, request.groups is not None
    return find_independence(hashes, score, labels, has_groups=has_groups)


def describe_chosen(
    session: Session, chosen: Chosen, points: dict[str, OperatingPoint], *, notes: Sequence[str]
) -> Calibration:
    """Return the calibration as it is stored."""
    request, choice = session.request, chosen.choice
    reporting = choice.chain.reporting
    variants = (request.reference_variant, *(contender.configuration.variant for contender in choice.contenders))
    return Calibration(
        schema=CALIBRATION_SCHEMA,
        offramp=__version__,
        variants={variant.name: variant.digest for variant in variants},
        fingerprint=session.fingerprint([device for point in points.values() for device in point.placement]),
        conditions=replace(
            chosen.conditions, reference_s=choice.reference_s, reference_device=session.reference_device
        ),
        confidence=request.confidence,
        least_gain=request.least_gain,
        seed=request.seed,
        select_samples=len(choice.chain.selecting),
        report_samples=len(reporting),
        outside=request.outside is not None,
        groups=None if reporting.groups is None else reporting.draws,
        meter=request.meter_name,
        every_s=request.pace.every_s,
        chains=tuple(_describe_chain(contender) for contender in choice.contenders if contender.static is None),
        statics=tuple(_describe_static(static) for static in choice.statics),
        frontier=lay_frontier(choice.allowed, points, progress=request.progress),
        points=points,
        gates=tuple(choice.exclusions.values()),
        labels=chosen.labels,
        notes=(
            *session.notes,
            *session.describe_drift(),
            *name_uncertain(choice.contenders),
            *name_missing(reporting.parts, request.bundle.manifest.classes),
            *request.notes,
            *chosen.notes,
            *notes,
            *describe_numbers(request.bundle.manifest, [point.variant for point in points.values()]),
            *name_careful(choice.picks, request.targets, points),
            *name_unpromised(choice.picks, request.targets, points, _allowed_statics(choice)),
            *name_weak_end(_allowed_statics(choice)),
            *advise(choice.picks, points, chosen.conditions),
        ),
    )


def _allowed_statics(choice: Choice) -> list[Contender]:
    """Return the static networks that take part."""
    return [static for static in choice.statics if static.configuration not in choice.exclusions]


def _describe_chain(chain: Contender) -> Chain:
    costs, table = chain.reporting.costs, chain.reporting
    right = None if table.known is not None else table.right
    ends = [np.full(len(table), k) for k in range(table.exits)]
    return Chain(
        variant=chain.configuration.variant.name,
        placement=chain.placement,
        exits=tuple(_describe_times(times) for times in costs.times_s),
        passing_s=chain.configuration.passing_s,
        exit_energy_j=() if costs.energy_j is None else tuple(costs.energy_j.tolist()),
        accuracy=() if right is None else tuple(table.mean_at(right, end) for end in ends),
        noise=costs.noise,
    )


def _describe_times(times_s: np.ndarray) -> Latency:
    p50, p90, p99 = (float(value) for value in np.percentile(times_s, [50, 90, 99]))
    return Latency(float(times_s.mean()), p50, p90, p99)


def _describe_static(static: Contender) -> StaticPoint:
    table, energy_j = static.reporting, static.reporting.costs.energy_j
    only = np.zeros(len(table), np.int64)
    return StaticPoint(
        variant=static.configuration.variant.name,
        device=static.placement[0],
        exit=static.static or 0,
        accuracy=None if table.right is None or table.known is not None else table.mean_at(table.right, only),
        drop=None if table.right is None else table.mean_at(table.lost, only),
        disagreement=table.mean_at(table.differs, only),
        latency_s=float(table.costs.latency_s[0]),
        energy_j=None if energy_j is None else float(energy_j[0]),
        noise=table.costs.noise,
    )
