"""From a bundle on disk to a network that runs."""

import os
import warnings
from collections.abc import Sequence

from ..bundle import Bundle, open_bundle, read_calibration
from ..devices import differences, fingerprint
from ..errors import BundleError, UsageError, unknown
from ..schema import Calibration, Exit, OperatingPoint, Stage, Variant
from .chain import Net
from .engines import PACKAGES, compile_stage


class UncalibratedWarning(UserWarning):
    """The network runs without thresholds, or with figures from another device."""


def load(
    path: str | os.PathLike[str] | Bundle,
    device: str = "cpu",
    *,
    variant: str | None = None,
    point: str | None = None,
    threads: int = 1,
    logits: bool = False,
    calibration: str | os.PathLike[str] | Calibration | None = None,
) -> Net:
    """Load a bundle to run on a device.

    Args:
        path: the bundle's folder, or a bundle already opened.
        device: `cpu` (ONNX Runtime).
        variant: name of a variant; the one that the calibration was made for, or the first, by default.
        point: name of an operating point in the calibration; its only or first one by default.
        threads: threads that the engine may use within a stage.
        logits: whether results carry the logits of the exit taken.
        calibration: a calibration outside the bundle, or one already read; the bundle's only one by default.

    Returns:
        The network. Without a calibration every input runs to the last exit, and an `UncalibratedWarning` says so.

    Raises:
        UsageError: nothing lies at a path, there is no such point, or several calibrations to choose from.
        BundleError: the bundle or calibration is damaged, newer, or they do not belong together.
        MissingError: the device or its engine's package is not here.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    chosen, found, best = choose_point(bundle, calibration, variant=variant, point=point)
    if found is None:
        net = load_uncalibrated(bundle, device, variant=variant, threads=threads, logits=logits)
        warnings.warn(
            f"{bundle.path} has no calibration{f' of variant {variant}' if variant else ''}: every input runs to the last exit. "
            "Run: offramp calibrate",
            UncalibratedWarning,
            stacklevel=2,
        )
        return net
    if device in PACKAGES and (
        differing := differences(fingerprint(engine=PACKAGES[device], threads=threads), found.fingerprint)
    ):
        warnings.warn(
            f"The calibration was made elsewhere ({'; '.join(differing)}): its latencies do not hold here. "
            "Calibrate on this device.",
            UncalibratedWarning,
            stacklevel=2,
        )
    return _open(bundle, chosen, chosen.stages, chosen.exits, device, threads=threads, logits=logits, point=best)


def load_uncalibrated(
    bundle: Bundle, device: str = "cpu", *, variant: str | None = None, threads: int = 1, logits: bool = False
) -> Net:
    """Load a bundle without looking for a calibration; every threshold is 2.0, never."""
    chosen = bundle.variant(variant)
    return _open(bundle, chosen, chosen.stages, chosen.exits, device, threads=threads, logits=logits)


def load_static(
    path: str | os.PathLike[str] | Bundle,
    device: str = "cpu",
    *,
    variant: str | None = None,
    exit: int = -1,
    threads: int = 1,
    logits: bool = False,
) -> Net:
    """Load the static network that ends at one exit, without the earlier heads: what a product without early exit runs.

    Args:
        path: the bundle's folder, or a bundle already opened.
        device, threads, logits: as for `load`.
        variant: name of a variant; the first by default.
        exit: which exit it ends at; the last by default.

    Raises:
        UsageError: there is no such exit, or `threads` is below 1.
        BundleError, MissingError: as for `load`.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    chosen = bundle.variant(variant)
    count = len(chosen.exits)
    if not -count <= exit < count:
        raise UsageError(f"There is no exit {exit}: {bundle.path} has exits 0 to {count - 1}.")
    end = chosen.exits[exit]
    stage = Stage(file=end.static, inputs=bundle.manifest.inputs, outputs=(), macs=end.macs)
    return _open(bundle, chosen, [stage], [end], device, threads=threads, logits=logits)


def _open(
    bundle: Bundle,
    variant: Variant,
    stages: Sequence[Stage],
    exits: Sequence[Exit],
    device: str,
    *,
    threads: int,
    logits: bool,
    point: OperatingPoint | None = None,
) -> Net:
    """Check the files of some stages of a variant, compile them, and chain them."""
    if threads < 1:
        raise UsageError(f"threads is at least 1, not {threads}.")
    bundle.file(variant, variant.weights)
    files = {stage.file: bundle.file(variant, stage.file) for stage in stages}
    made = {name: compile_stage(path, device=device, threads=threads) for name, path in files.items()}
    return Net(
        [made[stage.file] for stage in stages],
        stages,
        exits,
        inputs=bundle.manifest.inputs,
        classes=bundle.manifest.classes,
        logits=logits,
        point=point,
    )


def find_calibration(
    bundle: Bundle,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    *,
    variant: str | None = None,
) -> Calibration | None:
    """Return the calibration that is given, or the only one inside the bundle that was made for what it holds now.

    A variant's name leaves those out that were made for others.

    Raises:
        UsageError: nothing lies at the path, or there are several to choose from.
        BundleError: a calibration is damaged or newer.
    """
    if isinstance(calibration, Calibration):
        return calibration
    if calibration is not None:
        return read_calibration(calibration)
    inside = {path.name: read_calibration(path) for path in bundle.calibrations()}
    made_for = {name: _variant_of(bundle, found) for name, found in inside.items()}
    valid = {name: inside[name] for name, chosen in made_for.items() if chosen is not None}
    if stale := sorted(inside.keys() - valid.keys()):
        warnings.warn(
            f"{bundle.path} has been exported anew since {', '.join(stale)}: not used. Run: offramp calibrate",
            UncalibratedWarning,
            stacklevel=3,
        )
    if variant is not None:
        valid = {name: found for name, found in valid.items() if found.variant == bundle.variant(variant).name}
    if len(valid) > 1:
        listed = ", ".join(f"{name} of {found.variant}" for name, found in valid.items())
        raise UsageError(
            f"{bundle.path} has several calibrations ({listed}). Name one with calibration=, or its variant with variant=."
        )
    return next(iter(valid.values()), None)


def choose_point(
    bundle: Bundle,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    *,
    variant: str | None = None,
    point: str | None = None,
) -> tuple[Variant, Calibration | None, OperatingPoint | None]:
    """Return the variant that is to run, and the calibration and operating point it runs with where there are some.

    Raises:
        UsageError: there is no such variant, point or calibration, or there are several calibrations to choose from.
        BundleError: the calibration is damaged, newer, or was made for something else.
    """
    found = find_calibration(bundle, calibration, variant=variant)
    if found is None:
        if point is not None:
            raise UsageError(
                f"{bundle.path} has no calibration, so no operating point {point!r}. Run: offramp calibrate"
            )
        return bundle.variant(variant), None, None
    made_for = _variant_of(bundle, found)
    if made_for is None or variant not in (None, made_for.name):
        raise BundleError(
            f"The calibration was made for another {'variant' if made_for else 'export'} of {bundle.path.name} than the one at "
            f"{bundle.path}. Calibrate again, or bring the bundle it was made for."
        )
    name = next(iter(found.points)) if point is None else point
    if name not in found.points:
        raise unknown("operating point", name, found.points)
    return made_for, found, found.points[name]


def _variant_of(bundle: Bundle, calibration: Calibration) -> Variant | None:
    """Return the variant that a calibration was made for, or None where the bundle does not hold it."""
    for variant in bundle.manifest.variants:
        if variant.digest == calibration.variant_digest and len(variant.exits) == len(calibration.exit_latency_s):
            return variant
    return None
