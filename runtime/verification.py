"""The device's self-test: a bundle's golden samples replayed through every stage on the engine that will run it."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from ..bundle import Bundle, Exit, Variant, open_bundle
from ..bundle.golden import Golden, read_golden
from ..bundle.manifest import Precision
from ..devices import fingerprint
from ..progress import Progress
from .chain.results import EveryExit
from .loading import load_uncalibrated
from .placement import describe_devices
from .selection import packages_of

LOGIT_TOLERANCES: dict[Precision, float] = {"fp64": 1e-4, "fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1}
"""The largest max|a - b| / max|b| of an exit's logits that counts as the same network on another engine.

Engines add in another order and transform convolutions: ten times what two builds of one engine differ by. Half precision
rounds at 1e-3 in every layer, and a quantised value between two steps may fall to either. NPUs compute float32 in half precision.
"""


DECIDING_RANGE = 50.0
"""Logits this far below the largest have probabilities under exp(-50) and decide nothing."""


class ExitCheck(Struct, frozen=True):
    """One exit on the golden samples.

    Attributes:
        absolute, relative: the largest error of a logit, and that over the largest logit.
        score: the largest error of a score.
        labels_equal: on how many samples the label is the same.
        passed: whether `relative` keeps the tolerance, `score` too (times the largest logit over the temperature where that is
            above 1), and every label is the same or within the tolerance of the best one.
    """

    exit: str
    absolute: float
    relative: float
    score: float
    labels_equal: int
    samples: int
    passed: bool


class Verification(Struct, frozen=True):
    """What the golden samples say of a variant on a device, whose fingerprint `devices.fingerprint` made."""

    variant: str
    device: str
    tolerance: float
    passed: bool
    exits: tuple[ExitCheck, ...]
    fingerprint: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{'exit':12}{'largest error':>15}{'relative':>12}{'of a score':>12}{'labels equal':>15}"]
        for e in self.exits:
            labels = f"{e.labels_equal} of {e.samples}"
            lines.append(f"{e.exit:12}{e.absolute:15.3g}{e.relative:12.3g}{e.score:12.3g}{labels:>15}")
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
    """Replay the golden samples of a bundle on a device.

    Args:
        path: the bundle's folder, or a bundle already opened.
        device, threads, fallback, progress: as for `load`.
        variant: name of a variant; all by default.

    Returns:
        One verification per variant.

    Raises:
        UsageError, BundleError, MissingError: as for `load`.
        DataError: the engine cannot run the samples.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    chosen = bundle.manifest.variants if variant is None else (bundle.variant(variant),)
    return tuple(_verify_variant(bundle, one, device, threads, fallback, progress) for one in chosen)


def compare_logits(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Compare logits (N, classes) where they can decide: within `DECIDING_RANGE` of their sample's largest.

    A class that is masked by a huge negative number, or minus infinity, would otherwise hide every error of the others.

    Returns:
        The largest error, infinite where a class gets into or out of those that decide, and the largest logit among them.
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
    threads: int,
    fallback: str | None,
    progress: Progress | None,
) -> Verification:
    golden = read_golden(bundle, variant)
    how: dict[str, Any] = {"threads": threads, "logits": True, "fallback": fallback, "progress": progress}
    with load_uncalibrated(bundle, device, variant=variant.name, **how) as net:
        answers, stages = net.every_exit(golden.inputs), net.provenance.stages
    devices = [stage.device for stage in stages]
    tolerances = [
        max(
            LOGIT_TOLERANCES[variant.precision],
            LOGIT_TOLERANCES["fp16"] if any(stage.half for stage in stages[: k + 1]) else 0.0,
        )
        for k in range(len(stages))
    ]
    checked = zip(variant.exits, tolerances, strict=True)
    exits = tuple(_check_exit(k, exit_, answers, golden, tolerance) for k, (exit_, tolerance) in enumerate(checked))
    return Verification(
        variant=variant.name,
        device=describe_devices(devices),
        tolerance=max(tolerances),
        passed=all(e.passed for e in exits),
        exits=exits,
        fingerprint=fingerprint(packages=packages_of(devices), threads=threads),
    )


def _check_exit(k: int, exit_: Exit, answers: EveryExit, golden: Golden, tolerance: float) -> ExitCheck:
    assert answers.logits is not None
    ours, theirs = answers.logits[:, k], golden.logits[:, k]
    absolute, largest = compare_logits(ours, theirs)
    score = float(np.abs(answers.score[:, k] - golden.score[:, k]).max())
    label = answers.label[:, k]
    equal = label == golden.label[:, k]
    short_of_best = theirs.max(-1) - theirs[np.arange(len(label)), label]
    right = bool((equal | ((short_of_best > 0) & (short_of_best <= 2 * tolerance * largest))).all())
    passed = absolute <= tolerance * largest and score <= tolerance * max(1.0, largest / exit_.temperature) and right
    return ExitCheck(exit_.name, absolute, absolute / largest, score, int(equal.sum()), len(label), passed)
