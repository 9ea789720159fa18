"""The device's self-test: a bundle's golden samples replayed through every stage on the engine that will run it."""

import os
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from ..bundle import Bundle, Exit, Variant, opened
from ..bundle.golden import Golden, read_golden
from ..bundle.manifest import Precision
from ..devices import fingerprint
from ..progress import Progress
from .chain.results import EveryExit, Provenance
from .loading import open_network
from .placement import describe_devices
from .request import LoadOptions, chain_parts
from .selection import packages_of

__all__ = ["ExitCheck", "Verification", "compare_logits", "verify"]

LOGIT_TOLERANCES: dict[Precision, float] = {"fp64": 1e-4, "fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1}
"""By precision, the largest max|a - b| / max|b| of an exit's logits at which another engine still runs the same network.

Engines add in another order and transform convolutions, so the tolerance is ten times what two builds of one engine differ by.
Half precision rounds at 1e-3 in every layer. A quantised value between two steps may fall to either. NPUs compute float32 in
half precision.
"""

DECIDING_RANGE = 50.0
"""Logits further than this below the largest have probabilities under exp(-50) and decide nothing."""


class ExitCheck(Struct, frozen=True):
    """How one exit did on the golden samples.

    Attributes:
        exit: the exit's name.
        absolute: the largest error of a logit.
        relative: that error divided by the largest logit.
        score: the largest error of a score.
        labels_equal: the number of samples whose label is the same.
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


class Verification(Struct, frozen=True):
    """Whether a variant passes its golden samples on a device. `print` shows it as a table.

    Attributes:
        variant: the variant's name.
        device: the device, or those of the stages.
        tolerance: the largest relative error that is allowed at any exit.
        passed: True if every exit passed.
        exits: the check of each exit.
        fingerprint: the device and its software, as `devices.fingerprint` describes them.

    Example:
        >>> from offramp.runtime import verify
        >>> fp32, int8 = verify("digits.offramp")
        >>> fp32.variant, fp32.device, fp32.passed
        ('fp32', 'cpu', True)
    """

    variant: str
    device: str
    tolerance: float
    passed: bool
    exits: tuple[ExitCheck, ...]
    fingerprint: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{'exit':12}{'largest error':>15}{'relative':>12}{'of a score':>12}{'labels equal':>15}"]
        for check in self.exits:
            labels = f"{check.labels_equal} of {check.samples}"
            lines.append(f"{check.exit:12}{check.absolute:15.3g}{check.relative:12.3g}{check.score:12.3g}{labels:>15}")
        verdict = "passed" if self.passed else "failed"
        lines.append(
            f"variant {self.variant} on {self.device}: {verdict}, {self.tolerance:.0e} relative error is allowed"
        )
        return "\n".join(lines)


def verify(
    path: str | os.PathLike[str] | Bundle,
    device: str | Sequence[str] = "cpu",
    *,
    variant: str | None = None,
    threads: int = 1,
    fallback: str | None = None,
    progress: Progress | None = None,
) -> tuple[Verification, ...]:
    """Replay the golden samples of a bundle on a device and compare every exit's answers with those in the bundle.

    Args:
        path: the bundle's folder, or a bundle already opened.
        device, threads, fallback, progress: as for `load`.
        variant: name of a variant; all by default.

    Returns:
        A verification for each variant.

    Raises:
        UsageError, BundleError, MissingError: as for `load`.
        DataError: the engine cannot run the samples.

    Example:
        >>> from offramp.runtime import verify
        >>> all(verification.passed for verification in verify("digits.offramp"))
        True
    """
    bundle = opened(path)
    variants = bundle.manifest.variants if variant is None else (bundle.variant(variant),)
    options = LoadOptions(threads=threads, logits=True, fallback=fallback, progress=progress)
    return tuple(_verify_variant(bundle, chosen, device, options) for chosen in variants)


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


def _verify_variant(
    bundle: Bundle,
    variant: Variant,
    device: str | Sequence[str],
    options: LoadOptions,
) -> Verification:
    golden = read_golden(bundle, variant)
    with open_network(chain_parts(bundle, variant), device, options) as net:
        answers, provenance = net.every_exit(golden.inputs), net.provenance
    devices = provenance.devices
    tolerances = _tolerances(variant, provenance)
    exits = tuple(
        _check_exit(k, exit_, answers, golden, tolerance)
        for k, (exit_, tolerance) in enumerate(zip(variant.exits, tolerances, strict=True))
    )
    return Verification(
        variant=variant.name,
        device=describe_devices(devices),
        tolerance=max(tolerances),
        passed=all(check.passed for check in exits),
        exits=exits,
        fingerprint=fingerprint(packages=packages_of(devices), threads=options.threads),
    )


def _tolerances(variant: Variant, provenance: Provenance) -> list[float]:
    """Return the tolerance of each exit: that of the variant's precision, or of half precision once a stage computes in it."""
    exact, half = LOGIT_TOLERANCES[variant.precision], LOGIT_TOLERANCES["fp16"]
    stages = provenance.stages
    return [max(exact, half) if any(stage.half for stage in stages[: k + 1]) else exact for k in range(len(stages))]


def _check_exit(k: int, exit_: Exit, answers: EveryExit, golden: Golden, tolerance: float) -> ExitCheck:
    assert answers.logits is not None
    ours, theirs = answers.logits[:, k], golden.logits[:, k]
    absolute, largest = compare_logits(ours, theirs)
    score = float(np.abs(answers.score[:, k] - golden.score[:, k]).max())
    label = answers.label[:, k]
    equal = label == golden.label[:, k]
    # A label that differs may still be right: its logit and the best one may be as close as two errors.
    behind_best = theirs.max(-1) - theirs[np.arange(len(label)), label]
    labels_agree = bool((equal | ((behind_best > 0) & (behind_best <= 2 * tolerance * largest))).all())
    score_agrees = score <= tolerance * max(1.0, largest / exit_.temperature)
    passed = absolute <= tolerance * largest and score_agrees and labels_agree
    return ExitCheck(exit_.name, absolute, absolute / largest, score, int(equal.sum()), len(label), passed)
