"""Operating points: their figures on the reporting samples, their promises, and what is recommended."""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Certificate, OperatingPoint, Target
from ...bundle.calibration import EARLY_SUFFIX, WHOLE_NETWORK_PROMISE
from ...bundle.target import LOSS_LIMITS, describe_limit
from ...progress import Progress, no_progress
from ...units import show_confidence, show_share, show_time, show_us
from ..measure.configurations import Measurements
from ..measure.resume import Part
from ..measure.session import Session
from ..measure.tables import ExitTable, exits_taken
from ..search.contenders import Contender
from ..search.gains import Gain, measure_gain
from ..search.independence import Independence
from ..search.objective import meets_limits
from ..search.picks import Pick
from ..search.predictions import predict_point
from ..verdict import Unproven, judge
from .choice_bias import correct
from .paths import lay_candidates
from .promises import MACHINE_ERRORS, certify_path
from .questions import part_of_chance
from .unproven import find_unproven

__all__ = ["describe_promise", "make_points", "make_shared_points", "record_tested"]

CHOSEN_TOO_LATE = (
    "Nothing is promised: this network became the best only after the reporting samples had been looked at. Calibrate with new "
    "samples to get a promise for it."
)
"""Promise text of a static network that was chosen by the reporting samples."""

REFERENCE_LIMITS = {"max_drop", "max_disagreement"}
"""Limits of what is lost against the reference."""


def make_points(
    picks: Mapping[str, Pick],
    targets: Mapping[str, Target],
    statics: Sequence[Contender],
    *,
    confidence: float,
    every_s: float | None = None,
    question: int = 1,
    progress: Progress = no_progress,
) -> dict[str, OperatingPoint]:
    """Certify what was picked, and recommend the chain or the static network for each target.

    All promises together hold with the given confidence: each is tested at an equal part of the chance of error (Bonferroni).
    Networks chosen by the selecting samples are tested. A network that is the best only on the reporting samples is not promised.

    Args:
        picks, targets: by the points' names.
        statics: the calibration's static networks, which points name by their index.
        confidence: of all promises together.
        every_s: the pace at which latencies were measured; None if calls were made back to back.
        question: how many questions the samples were asked up to this one; see `questions`.
        progress: is told after each target.
    """
    promises = sum(_count_promises(pick, targets[name]) for name, pick in picks.items())
    indices = {static.key: i for i, static in enumerate(statics)}
    points: dict[str, OperatingPoint] = {}
    beside: dict[str, OperatingPoint] = {}
    for i, (name, pick) in enumerate(picks.items()):
        progress("certifying", i, len(picks))
        test = _PointTest(targets[name], max(1, promises), confidence, every_s, question)
        early = None if pick.thresholds is None else test.test_chain(pick.chain, pick.thresholds)
        contender, static = _test_static(test, pick)
        index = None if contender is None else indices[contender.key]
        verdict = _judge(pick, early, static, contender, test)
        points |= _recommend(name, early, static, beside, verdict, index)
    progress("certifying", len(picks), len(picks))
    return points | beside


def make_shared_points(
    contenders: Sequence[Contender],
    thresholds: Sequence[float],
    target: Target,
    *,
    promises: int,
    confidence: float,
    every_s: float | None = None,
    question: int = 1,
) -> list[OperatingPoint]:
    """Certify the same thresholds on several boards, and return the point of each, with its own figures.

    The promise is one: that the limits hold on every board. It is made where each of them proves it (an intersection-union test).

    Args:
        contenders: the same network as it was recorded and measured on each board; the path is laid by the first.
        thresholds: the best ones; none for a static network, which was chosen by the selecting samples.
        target: the target.
        promises: how many promises share the chance of error.
        confidence, every_s, question: as for `make_points`.
    """
    test = _PointTest(target, promises, confidence, every_s, question)
    return test.test_shared(contenders, tuple(thresholds))


def record_tested(
    session: Session, picks: Mapping[str, Pick], measured: Measurements, independence: Independence
) -> dict[str, Pick]:
    """Return the picks with what their static networks answer themselves to the reporting samples, where these test a promise.

    Their answers may have been taken from the chain; see `record_answers`.

    Args:
        session: the session.
        picks: by the targets' names.
        measured, independence: what the contenders were tabulated with.
    """
    request, recorded = session.request, dict(picks)
    for name, pick in picks.items():
        if (static := pick.best_static) is not None and _is_static_tested(pick, request.targets[name]):
            variant, placement, exit_ = static.configuration.variant, static.configuration.placement, static.static or 0
            net = session.open_static(variant, static.placement[0], exit_)
            part = Part(variant=variant, placement=placement, work="given", static=exit_)
            own = static.with_answers(session.record(net, request.samples.x, part), measured, request, independence)
            recorded[name] = replace(pick, best_static=own)
    return recorded


def _is_static_tested(pick: Pick, target: Target) -> bool:
    return pick.best_static is not None and pick.prefers_static(target) and not _is_free(pick.best_static, target)


def _count_promises(pick: Pick, target: Target) -> int:
    """Return how many promises a pick is tested for: of its chain, and of its static network if that is preferred."""
    return (pick.thresholds is not None) + _is_static_tested(pick, target)


def _test_static(test: "_PointTest", pick: Pick) -> tuple[Contender | None, OperatingPoint | None]:
    """Return the best static network and its point; if it misses the target on the reporting samples, the next that meets it.

    If none meets it, the point of the first is returned without its network, so that no point names it as the best.
    """
    if pick.best_static is None:
        return None, None
    point = test.test_static(pick.best_static, is_chosen=pick.prefers_static(test.target))
    if point.met:
        return pick.best_static, point
    other = _next_that_meets(pick.other_statics, test.target)
    return other, point if other is None else test.test_static(other, is_chosen=False)


def _next_that_meets(statics: Sequence[Contender], target: Target) -> Contender | None:
    """Return the first static network that meets a target on the reporting samples too."""
    for static in statics:
        if meets_limits(static.reporting, target, exits_taken(static.reporting.score, ())):
            return static
    return None


def _is_free(static: Contender, target: Target) -> bool:
    """Return True if a static network is sure to meet its target: the reference, if only losses against it are limited."""
    return static.reporting.is_reference and set(target.limits) <= REFERENCE_LIMITS


class _Verdict(Struct, frozen=True):
    """Whether early exit pays, in words, and how much better it is than the best static network."""

    pays: bool
    words: str
    gain: Gain | None


def _judge(
    pick: Pick,
    early: OperatingPoint | None,
    static: OperatingPoint | None,
    contender: Contender | None,
    test: "_PointTest",
) -> _Verdict:
    gain: Gain | None = None
    unproven: Unproven | None = None
    if early is not None and contender is not None:
        ours, theirs = (pick.chain.reporting, early.thresholds), (contender.reporting, ())
        gain = measure_gain(ours, theirs, test.target, least=pick.least_gain, bias=early.choice_bias)
        promised = None if early.certificate is None else early.thresholds
        unproven = find_unproven(pick, test.target, contender, promised=promised, delta=test.delta)
    return _Verdict(*judge(early, static, gain, unproven), gain)


def _recommend(
    name: str,
    early: OperatingPoint | None,
    static: OperatingPoint | None,
    beside: dict[str, OperatingPoint],
    verdict: _Verdict,
    index: int | None,
) -> dict[str, OperatingPoint]:
    """Return the point that wins, by its name; if that is a static network, the chain's point is put into `beside`."""
    if early is not None:
        gain = verdict.gain
        early = replace(
            early,
            pays=verdict.pays,
            verdict=verdict.words,
            rival=index,
            gain=None if gain is None else gain.share,
            gain_interval=None if gain is None else gain.interval,
        )
    if static is not None and not verdict.pays:
        if early is not None:
            beside[name + EARLY_SUFFIX] = early
        return {name: replace(static, verdict=verdict.words, rival=index)}
    assert early is not None  # a target that neither meets was refused
    return {name: early}


class _PointTest(Struct, frozen=True):
    """Tests the candidates for one target.

    Attributes:
        target: the target.
        promises: how many promises share the chance of error.
        confidence: of all of them.
        every_s: the pace of the measurement.
        question: how many questions the samples were asked up to this one.
    """

    target: Target
    promises: int
    confidence: float
    every_s: float | None
    question: int

    @property
    def delta(self) -> float:
        """The chance of error of each promise."""
        return (1 - self.confidence) * part_of_chance(self.question) / self.promises

    def test_chain(self, chain: Contender, thresholds: tuple[float, ...]) -> OperatingPoint:
        """Return the last certified candidate along a path through the thresholds; the thresholds themselves if none is."""
        path = lay_candidates(chain.selecting, thresholds, self.target, tested=len(chain.reporting))
        step, why = certify_path(chain.reporting, self.target, path, delta=self.delta)
        if step is not None:
            thresholds = tuple(path[step].tolist())
        point = predict_point(chain, thresholds, self.target)
        if step is not None:
            point = correct(point, chain.reporting, path, delta=self.delta)
        return self._promise(point, step, len(path), why, chain.reporting)

    def test_shared(self, contenders: Sequence[Contender], thresholds: tuple[float, ...]) -> list[OperatingPoint]:
        """Return each board's point at the last candidate that is certified on all of them."""
        first = contenders[0]
        if first.static is not None and _is_free(first, self.target):
            return [replace(predict_point(each, (), self.target), promise=WHOLE_NETWORK_PROMISE) for each in contenders]
        path = np.zeros((1, 0), np.float32)
        if thresholds:
            path = lay_candidates(first.selecting, thresholds, self.target, tested=len(first.reporting))
        found = [certify_path(each.reporting, self.target, path, delta=self.delta) for each in contenders]
        why = next((reason for step, reason in found if step is None), "")
        step = None if why else min(step for step, _ in found if step is not None)
        if step is not None:
            thresholds = tuple(path[step].tolist())
        points = []
        for each in contenders:
            point = predict_point(each, thresholds, self.target)
            if step is not None and thresholds:
                point = correct(point, each.reporting, path, delta=self.delta)
            points.append(self._promise(point, step, len(path), why, each.reporting))
        return points

    def test_static(self, static: Contender, *, is_chosen: bool) -> OperatingPoint:
        """Return a static network's point, certified if it was chosen before the reporting samples were looked at."""
        point = predict_point(static, (), self.target)
        if _is_free(static, self.target):
            return replace(point, promise=WHOLE_NETWORK_PROMISE)
        if not is_chosen:
            return replace(point, promise=CHOSEN_TOO_LATE)
        step, why = certify_path(static.reporting, self.target, np.zeros((1, 0), np.float32), delta=self.delta)
        return self._promise(point, step, 1, why, static.reporting)

    def _promise(
        self, point: OperatingPoint, step: int | None, steps: int, why: str, table: ExitTable
    ) -> OperatingPoint:
        if step is None:
            return replace(point, promise=why)
        is_of_costs = bool(set(self.target.limits).difference(LOSS_LIMITS))
        needs_labels = "max_drop" in self.target.limits
        certificate = Certificate(
            limits=self.target.limits,
            confidence=self.confidence,
            promises=self.promises,
            samples=len(table),
            question=self.question,
            independent=None if table.independent == 1 else max(1, int(table.draws * table.independent)),
            labels=None if table.known is None or not needs_labels else int(table.known.sum()),
            groups=None if table.groups is None else table.draws,
            parts=len(table.each_part(self.target.by)) if self.target.by else None,
            step=step,
            steps=steps,
            machine_noise=(table.proof or table.costs).machine_noise if is_of_costs else 0.0,
            every_s=self.every_s if is_of_costs else None,
        )
        return replace(point, certificate=certificate, promise=describe_promise(certificate, self.target))


def describe_promise(certificate: Certificate, target: Target) -> str:
    """Say in words what a certificate promises, and of what."""
    many = [f"all {certificate.promises} promises of this calibration together"] if certificate.promises > 1 else []
    if certificate.question > 1:
        many.append(f"together with what these samples were asked before: this is question {certificate.question}")
    together = f" ({'; '.join(many)})" if many else ""
    like, each, parts = _name_inputs(certificate), "", []
    if certificate.parts is not None:
        several = f"each of the {certificate.parts} {'classes' if target.by == 'class' else 'groups'}"
        each = f" in {several if certificate.parts > 1 else f'the only {target.by}'}"
    for name, most in certificate.limits.items():
        if name == "max_drop" and target.counts == "losses":
            parts.append(f"the mean loss added on {like} is at most {show_share(most)}{each}")
        elif name == "max_drop":
            parts.append(f"the accuracy drop on {like} is at most {show_share(most)}{each}")
        elif name == "max_disagreement" and target.counts == "losses":
            parts.append(f"the mean disagreement with the whole network on {like} is at most {show_share(most)}{each}")
        elif name == "max_disagreement":
            parts.append(
                f"at most {show_share(most)} of {like} get another label than the whole network gives them{each}"
            )
        elif name == "max_late":
            late = f"take longer than {show_us(target.deadline_s or 0)}"
            parts.append(f"at most {show_share(most)} of {like} {late}")
        else:
            limited, _, bound = describe_limit(name, most, target).partition(" of ")
            where = each if name in LOSS_LIMITS else ""
            parts.append(f"the {limited.partition(' ')[2]} on {like} is {bound}{where}")
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    slower = f", on a machine up to {MACHINE_ERRORS * certificate.machine_noise:.1%} slower than it was measured"
    machine = slower if certificate.machine_noise else ""
    pace = "" if certificate.every_s is None else f", called every {show_time(certificate.every_s)}"
    confidence = show_confidence(1 - certificate.confidence)
    return f"With {confidence} confidence{together} {listed}, {_name_proof(certificate)}{pace}{machine}."


def _name_inputs(certificate: Certificate) -> str:
    """Name the inputs that a promise is of."""
    return (
        "inputs like these" if certificate.groups is None else "inputs of other groups like these, which count alike,"
    )


def _name_proof(certificate: Certificate) -> str:
    """Say what proves a promise, and what is taken for granted of it: `by 1600 samples taken as independent`."""
    of = f"{certificate.samples} samples"
    if certificate.groups is not None:
        of = f"{certificate.groups} groups ({of})"
    counted = f"that count for {certificate.independent} independent ones" if certificate.independent else ""
    if certificate.labels is not None:
        of += f" ({certificate.labels} of them labelled: the others count as if the whole network were right, the worst case)"
    return f"by {of} {counted or 'taken as independent'}"
