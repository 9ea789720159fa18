"""What a network answers to a bundle's golden samples, compared with what every exit said when the bundle was exported."""

import contextlib
import platform
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from .. import __version__, cache
from ..bundle import Exit, Variant
from ..bundle.golden import Golden, read_golden
from ..bundle.manifest import Precision, reads_earlier_exits
from ..errors import BundleError, DataError, MissingError, UnsupportedError
from .chain.net import Net
from .chain.parts import Parts
from .chain.results import EveryExit, Provenance
from .engines import find_device, runs_uncut
from .placement import describe_devices
from .request import NetworkParts, uncut_parts

__all__ = [
    "AnswerCheck",
    "ExitCheck",
    "allow_own",
    "check_answers",
    "check_exits",
    "check_logits",
    "compare_logits",
    "compare_parts",
    "find_worst_part",
    "refuse_wrong_builds",
    "refuse_wrong_conversions",
    "tolerances_of",
]

LOGIT_TOLERANCES: dict[Precision, float] = {"fp64": 1e-4, "fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1}
"""By precision, the largest max|a - b| / max|b| of an exit's logits at which another engine still runs the same network.

Engines add in another order and transform convolutions, so the tolerance is ten times what two builds of one engine differ by.
Half precision rounds at 1e-3 in every layer. A quantised value between two steps may fall to either. NPUs compute float32 in
half precision.
"""

OWN_ERRORS, MOST_ALLOWED = 4, 1e-2
"""Logits may differ by the first times what rounding alone moves the original's own, up to the second: an engine may add in an
order that rounds more."""

DECIDING_RANGE = 50.0
"""Logits further than this below the largest have probabilities under exp(-50) and decide nothing."""

MOST_DIFFERING = 0.01
"""So large a share of an answer's whole numbers may differ: where two candidates for the largest are equal, rounding decides."""


class ExitCheck(Struct, frozen=True):
    """How one exit did on the golden samples.

    Attributes:
        exit: the exit's name.
        absolute: the largest error of a logit, or of a value of another answer; infinite if one is no number, has another
            shape, or if more than 1 % of a part's whole numbers differ.
        relative: that error divided by the largest logit, or by the largest value of its part of the answer.
        score: the largest error of a score.
        labels_equal: the number of samples whose label is the same; all of them if the network does not classify.
        samples: the number of golden samples.
        passed: True if `relative` is within the tolerance, `score` is within the tolerance (times the largest logit over the
            temperature, if that is above 1), and every label is the same or its logit is within the tolerance of the best one.

    Example:
        >>> from offramp.runtime import verify
        >>> verify("digits.offramp", variant="fp32")[0].exits[0].labels_equal > 0
        True
    """

    exit: str
    absolute: float
    relative: float
    score: float
    labels_equal: int
    samples: int
    passed: bool


class AnswerCheck(Struct, frozen=True):
    """How the labels and scores of a network did on the golden samples; it was loaded without logits, as a product loads it.

    Attributes:
        network: `the chain`, or `the static network to exit 1`.
        built: where its stages come from, each once: `now`, `cache` or `bundle`. Empty if the device cannot run it.
        score: the largest error of a score.
        relative: the largest error of a static network's logits, divided by the largest logit, or of another answer likewise; it
            was loaded once more to see them. None for the chain, whose answers `Verification.exits` compares.
        labels_equal, labels: how many labels are the same, and how many there are: one per golden sample and exit; none if the
            network does not classify.
        passed: True if scores, and labels and logits or other answers, are within the tolerance, or if the device cannot run
            the network.
        problem: why the device cannot run it.

    Example:
        >>> from offramp.runtime import verify
        >>> [check.network for check in verify("digits.offramp", variant="fp32")[0].networks][:2]
        ['the chain', 'the static network to exit 0']
    """

    network: str
    built: tuple[str, ...] = ()
    score: float = 0.0
    labels_equal: int = 0
    labels: int = 0
    passed: bool = True
    problem: str | None = None
    relative: float | None = None


def compare_logits(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Compare logits (N, classes), of each sample only those that can decide: within `DECIDING_RANGE` of the largest.

    Without this a class that is masked by minus infinity or a huge negative number would hide every error of the others.

    Returns:
        The largest error, and the largest of the logits compared. The error is infinite if a logit that cannot decide in one
        array can in the other.
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    top = theirs.max(-1, keepdims=True)
    decides = theirs >= top - DECIDING_RANGE
    low = np.broadcast_to(top - DECIDING_RANGE / 2, theirs.shape)
    if np.isnan(ours).any() or not np.isfinite(top).all() or (ours > low)[~decides].any():
        return float("inf"), 1.0
    return float(np.abs(ours[decides] - theirs[decides]).max()), max(float(np.abs(theirs[decides]).max()), 1e-30)


def compare_parts(ours: Parts, theirs: Parts) -> tuple[float, float]:
    """Compare answers (N, ...), of their parts the one that differs most.

    Returns:
        The largest error of a value of that part, and its largest value. The error is infinite if a value is no number, or if
        more than 1 % of a part's whole numbers differ.
    """
    return find_worst_part(ours, theirs)[1:]


def find_worst_part(ours: Parts, theirs: Parts) -> tuple[str, float, float]:
    """Return the name of the part that differs most, and what `compare_parts` returns."""
    compared = [
        (name, *(compare_logits if name == "logits" else _compare_values)(ours[name], values))
        for name, values in theirs.items()
    ]
    return max(compared, key=lambda part: part[1] / part[2])


def _compare_values(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    if ours.shape != theirs.shape:
        return float("inf"), 1.0
    if theirs.dtype.kind != "f":
        return (0.0 if (ours != theirs).sum() <= MOST_DIFFERING * theirs.size else float("inf")), 1.0
    with np.errstate(invalid="ignore"):
        errors = np.abs(ours.astype(np.float64) - theirs)
        if theirs.dtype == np.float16:  # a value between two numbers in half precision may be rounded to either
            errors = np.maximum(errors - np.spacing(np.abs(theirs)), 0)
        error = float(errors.max(initial=0))
    return (error, max(_largest(theirs), 1e-30)) if np.isfinite(error) else (float("inf"), 1.0)


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0))


def allow_own(own_error: float | None) -> float:
    """Return what logits may differ by, relative to the largest, because of the original's own error."""
    return min(OWN_ERRORS * (own_error or 0.0), MOST_ALLOWED)


def tolerances_of(variant: Variant, provenance: Provenance) -> list[float]:
    """Return the tolerance after each stage: the variant's precision's, or half precision's once a stage computes in that.

    It is more for a network that rounding alone moves further.
    """
    exact, half = max(LOGIT_TOLERANCES[variant.precision], allow_own(variant.own_error)), LOGIT_TOLERANCES["fp16"]
    stages = provenance.stages
    return [max(exact, half) if any(stage.half for stage in stages[: k + 1]) else exact for k in range(len(stages))]


def check_exits(variant: Variant, net: Net, golden: Golden) -> tuple[ExitCheck, ...]:
    """Compare the chain of a variant, which was loaded with logits, with the golden samples."""
    answers = _replay(net, golden)
    checks = []
    for k, (exit_, tolerance) in enumerate(zip(variant.exits, tolerances_of(variant, net.provenance), strict=True)):
        absolute, largest = compare_parts(answers.parts(k), golden.answers[k])
        score, equal, agrees = _compare_answers(answers, golden, exit_, (k, k), tolerance)
        passed = absolute <= tolerance * largest and agrees
        checks.append(
            ExitCheck(exit_.name, absolute, absolute / largest, score, int(equal.sum()), len(equal), bool(passed))
        )
    return tuple(checks)


def check_answers(parts: NetworkParts, net: Net, golden: Golden, network: str) -> AnswerCheck:
    """Compare labels and scores of a network, and logits if it shows them, with the golden samples of its variant."""
    answers = _replay(net, golden)
    if len(parts.exits) < len(parts.variant.exits) and reads_earlier_exits(parts.variant.rule):
        golden = replace(golden, score=np.ones_like(golden.score))
    columns = [parts.variant.exits.index(exit_) for exit_ in parts.exits]
    tolerances = _tolerances_of_parts(parts, net)
    compared = [
        _compare_answers(answers, golden, exit_, (k, columns[k]), tolerances[k]) for k, exit_ in enumerate(parts.exits)
    ]
    has_labels = all("logits" in answer for answer in golden.answers)
    relative: list[float] = []
    if has_labels and answers.logits is not None:
        errors = (compare_parts(answers.parts(k), golden.answers[column]) for k, column in enumerate(columns))
        relative = [absolute / largest for absolute, largest in errors]
    return AnswerCheck(
        network,
        built=tuple(dict.fromkeys(stage.built for stage in net.provenance.stages)),
        score=max(score for score, _, _ in compared),
        labels_equal=int(sum(equal.sum() for _, equal, _ in compared)) if has_labels else 0,
        labels=sum(len(equal) for _, equal, _ in compared) if has_labels else 0,
        passed=all(agrees for _, _, agrees in compared)
        and all(error <= tolerance for error, tolerance in zip(relative, tolerances, strict=False)),
        relative=max(relative, default=None),
    )


def check_logits(parts: NetworkParts, net: Net, golden: Golden, check: AnswerCheck) -> AnswerCheck:
    """Add to a static network's check how far its logits are off; it was loaded with them.

    Scores tell less: where a logit is large, any score lies within the tolerance.
    """
    answers, (exit_,) = _replay(net, golden), parts.exits
    absolute, largest = compare_parts(answers.parts(0), golden.answers[parts.variant.exits.index(exit_)])
    (tolerance,) = _tolerances_of_parts(parts, net)
    return replace(check, relative=absolute / largest, passed=check.passed and absolute <= tolerance * largest)


def _tolerances_of_parts(parts: NetworkParts, net: Net) -> list[float]:
    """Return the tolerance after each stage. A static network may differ from the original by the variant's `error`, as may the
    chain, whose answers the golden ones are.
    """
    exact = tolerances_of(parts.variant, net.provenance)
    is_chain = len(parts.exits) == len(parts.variant.exits)
    return exact if is_chain else [max(exact[0], 2 * (parts.variant.error or 0.0))]


def _read_logits(parts: NetworkParts, net: Net) -> Net:
    """Return a network of the same stages that shows logits, if its engine makes them anyway; else the network itself.

    Where a network is sure of itself, labels and scores hide what is wrong with logits.
    """
    manifest, devices = parts.bundle.manifest, net.provenance.devices
    if net._logits or not manifest.classes:
        return net
    if not all(name == "cpu" or runs_uncut(find_device(name).engine) for name in devices):
        return net
    if net._stages[0].file == parts.variant.whole:
        parts = uncut_parts(parts)
    return Net(
        [link.compiled for link in net._links],
        parts.stages,
        parts.exits,
        inputs=manifest.inputs,
        table_rows=manifest.table_rows,
        classes=manifest.classes,
        logits=True,
        provenance=net.provenance,
        first_exit=parts.first_exit,
        sources=[parts.source(k) for k in range(len(parts.stages))],
    )


def refuse_wrong_builds(parts: NetworkParts, net: Net) -> None:
    """See that a network made of builds that came with the bundle gives the golden answers: no hash in the manifest covers them.

    Raises:
        BundleError: it does not.
    """
    golden, folder = read_golden(parts.bundle, parts.variant), parts.bundle.path / "engines"
    check = check_answers(parts, _read_logits(parts, net), golden, "")
    if check.passed:
        return
    raise BundleError(
        f"The builds in {folder} do not answer as {parts.variant.name} did when it was exported: {_say_errors(check)}. They are "
        "of another network, or the device computes this one differently. Remove that folder, build from the graphs (offramp "
        "build), and run offramp verify.",
        path=folder,
    )


def refuse_wrong_conversions(
    parts: NetworkParts, net: Net, devices: Sequence[str], *, logits: bool, threads: int
) -> None:
    """See that a network with stages that a converter made for these devices gives the golden answers.

    The cache keeps that it did.

    Raises:
        UnsupportedError: it does not.
    """
    key = {
        "device": describe_devices(net.provenance.devices),
        "golden answers": f"{parts} {parts.variant.digest}",
        "stages": ", ".join(f"{stage.device} {stage.runs_on}" for stage in net.provenance.stages),
        "outputs": "with logits" if logits else "without logits",
        "threads": str(threads),
        "offramp": __version__,
        "architecture": platform.machine(),
    }
    label = f"the golden answers of {parts.bundle.path}"
    if cache.fetch(key, label)[0] is not None:
        return
    try:
        check = check_answers(parts, _read_logits(parts, net), read_golden(parts.bundle, parts.variant), "")
    except DataError as error:
        problem = f"they do not run the golden samples: {error}"
    else:
        if check.passed:
            with contextlib.suppress(MissingError):  # a cache that cannot be written
                cache.store(key, label, b"passed")
            return
        problem = _say_errors(check)
    names = ", ".join(devices)
    raise UnsupportedError(
        f"The stages that were converted for {names} do not answer as {parts.variant.name} did when it was exported: {problem}. "
        f"Run the network on cpu, or place only the stages on {names} with which offramp verify passes.",
        device=devices[0],
        path=parts.bundle.path,
    )


def _say_errors(check: AnswerCheck) -> str:
    labels = f"{check.labels_equal} of {check.labels} golden labels are the same, and " * bool(check.labels)
    logits = "" if check.relative is None else f", a logit by {check.relative:.2g} of the largest"
    return f"{labels}a score is off by {check.score:.2g}{logits}"


def _replay(net: Net, golden: Golden) -> EveryExit:
    """Return what a network answers to golden samples: labels beyond the classes and NaN, too, which are wrong as others are."""
    return net.run_every_exit(golden.inputs, size=1, refuses_nan=False)


def _compare_answers(
    answers: EveryExit, golden: Golden, exit_: Exit, columns: tuple[int, int], tolerance: float
) -> tuple[float, np.ndarray, bool]:
    """Compare labels and scores of one exit, which has these columns among the answers and among the golden ones.

    Returns:
        The largest error of a score, for each sample whether its label is the same, and whether both, and an answer that is no
        label, are within the tolerance.
    """
    ours, column = columns
    errors = np.abs(answers.score[:, ours] - golden.score[:, column])
    score = float(np.where(np.isnan(errors), np.inf, errors).max())
    label = answers.label[:, ours]
    equal = label == golden.label[:, column]
    if "logits" not in golden.answers[column]:
        parts = golden.answers[column]
        absolute, largest = compare_parts(answers.parts(ours), parts)
        agrees = score <= tolerance * max([1.0, *(_largest(part) for part in parts.values() if part.dtype.kind == "f")])
        return score, equal, agrees and absolute <= tolerance * largest
    theirs = golden.answers[column]["logits"]
    is_class = (label >= 0) & (label < theirs.shape[-1])
    largest = compare_logits(theirs, theirs)[1]
    # A label that differs may still be right: its logit and the best one may be as close as two errors.
    behind_best = theirs.max(-1) - theirs[np.arange(len(label)), np.where(is_class, label, 0)]
    labels_agree = (equal | (is_class & (behind_best > 0) & (behind_best <= 2 * tolerance * largest))).all()
    score_agrees = score <= tolerance * max(1.0, largest / exit_.temperature)
    return score, equal, bool(labels_agree and score_agrees)
