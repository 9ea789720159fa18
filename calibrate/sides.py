"""A side of a comparison: a bundle, and the calibration, the variant and the operating points of it that are compared."""

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from ..bundle import Bundle, Calibration, OperatingPoint, Variant, opened, read_calibration
from ..bundle.across import Across
from ..bundle.calibration import StaticPoint
from ..errors import BundleError, OutdatedError, UsageError, unknown_name
from ..runtime.selection import belongs

__all__ = ["BundleSide", "Side", "VariantWork", "find_side"]


class VariantWork(Struct, frozen=True):
    """A variant of a bundle in figures.

    Attributes:
        precision, rule: as in `Variant`.
        exits: the names of its exits.
        stage_macs: multiply-accumulates of each stage for one sample.
        bytes: the size of its files.

    Example:
        >>> from offramp.calibrate import compare_bundles
        >>> work = compare_bundles("digits.offramp", variant=("fp32", "int8")).first.variants["int8"]
        >>> work.precision, len(work.exits), len(work.stage_macs)
        ('int8', 3, 3)
    """

    precision: str
    rule: str
    exits: tuple[str, ...]
    stage_macs: tuple[int, ...]
    bytes: int


class BundleSide(Struct, frozen=True, kw_only=True):
    """What one side of a comparison is.

    Attributes:
        path: the bundle.
        network, task, inputs: the network's name, what it answers, and what it takes, in words.
        bytes: the size of all files of its variants; several may share one.
        variants: by name.
        calibrations: the processor, and what else tells them apart, of each calibration in the bundle, by name.
        calibration: the name of the one that is compared; None if there is none.
        variant: the variant whose whole static network is compared.
        board: the fingerprint of that calibration.
        samples: how many samples chose, and how many gave the figures; None without a calibration.
        meter, every_s: as in `Calibration`.

    Example:
        >>> from offramp.calibrate import compare_bundles
        >>> side = compare_bundles("digits.offramp", variant=("fp32", "int8")).first
        >>> side.network, list(side.variants), side.calibration, side.variant
        ('Digits', ['fp32', 'int8'], 'default', 'fp32')
    """

    path: str
    network: str
    task: str
    inputs: str
    bytes: int
    variants: dict[str, VariantWork]
    calibrations: dict[str, str]
    calibration: str | None
    variant: str
    board: dict[str, str]
    samples: tuple[int, int] | None
    meter: str | None
    every_s: float | None


class Side(Struct, frozen=True):
    """One side, found and read.

    Attributes:
        bundle, calibration: what is compared; no calibration if the bundle has none.
        variant: the variant whose whole static network is compared.
        points: the operating points that are compared, by name.
        facts: what people read of it.
    """

    bundle: Bundle
    calibration: Calibration | None
    variant: Variant
    points: dict[str, OperatingPoint]
    facts: BundleSide

    @property
    def reference(self) -> str | None:
        """The digest of the network that losses are counted against; None without a calibration."""
        return None if self.calibration is None else next(iter(self.calibration.variants.values()))

    @property
    def whole(self) -> StaticPoint | None:
        """The whole static network of the variant as it was measured; None if it was not."""
        statics = () if self.calibration is None else self.calibration.statics
        last = len(self.variant.exits) - 1
        return next((each for each in statics if (each.variant, each.exit) == (self.variant.name, last)), None)


def find_side(
    bundle: str | os.PathLike[str] | Bundle,
    calibration: str | os.PathLike[str] | Calibration | None,
    variant: str | None,
    point: str | None,
) -> Side:
    """Find what is compared of a bundle; see `compare_bundles`.

    Raises:
        UsageError, BundleError, MissingError: as for `compare_bundles`.
    """
    bundle = opened(bundle)
    named = _read_calibrations(bundle)
    name, chosen = _choose(bundle, named, calibration)
    points = {} if chosen is None else dict(chosen.points)
    if point is not None:
        if point not in points:
            raise unknown_name("operating point", point, points, path=bundle.path)
        points = {point: points[point]}
    if variant is not None:
        points = {key: each for key, each in points.items() if each.variant == variant}
    first = next(iter(points.values()), None)
    measured = bundle.chain(variant if variant is not None or first is None else first.variant)
    if isinstance(measured, Across):  # whose static networks are those of its two variants
        measured = bundle.variant()
    return Side(bundle, chosen, measured, points, _describe(bundle, named, name, chosen, measured.name))


def _read_calibrations(bundle: Bundle) -> dict[str, Calibration | None]:
    """Return the calibrations in a bundle by name, None for one that this offramp does not read."""
    named: dict[str, Calibration | None] = {}
    for path in bundle.calibrations():
        try:
            named[path.stem] = bundle.read_calibration(path)
        except OutdatedError:
            named[path.stem] = None
    return named


def _choose(
    bundle: Bundle, named: Mapping[str, Calibration | None], wanted: str | os.PathLike[str] | Calibration | None
) -> tuple[str | None, Calibration | None]:
    """Return the name and the calibration that is wanted, by default the bundle's only one."""
    if wanted is None:
        fitting = {name: each for name, each in named.items() if each is not None and belongs(bundle, each)}
        if len(fitting) > 1:
            raise UsageError(
                f"{bundle.path} has several calibrations: {', '.join(fitting)}. Name the one to compare with calibration=, "
                "--calibration.",
                path=bundle.path,
            )
        return next(iter(fitting.items()), (None, None))
    if isinstance(wanted, Calibration):
        name, chosen = "the given one", wanted
    elif (found := named.get(os.fspath(wanted))) is not None:
        name, chosen = os.fspath(wanted), found
    elif Path(wanted).suffix or os.sep in os.fspath(wanted) or not named:
        name, chosen = os.fspath(wanted), read_calibration(wanted, signed=bundle.signed)
    else:
        raise unknown_name("calibration", os.fspath(wanted), named, path=bundle.path)
    if not belongs(bundle, chosen):
        raise BundleError(
            f"The calibration {name} was made for another export than the one at {bundle.path}. Calibrate again, or bring the "
            "bundle it was made for.",
            path=bundle.path,
        )
    return name, chosen


def _describe(
    bundle: Bundle,
    named: Mapping[str, Calibration | None],
    name: str | None,
    chosen: Calibration | None,
    variant: str,
) -> BundleSide:
    manifest = bundle.manifest
    files = {(variant.folder, key): file.bytes for variant in manifest.variants for key, file in variant.files.items()}
    shapes = ("x".join("N" if axis is None else str(axis) for axis in tensor.shape) for tensor in manifest.inputs)
    return BundleSide(
        path=str(bundle.path),
        network=manifest.network,
        task=f"{manifest.classes} classes" if manifest.classes else f"answers {', '.join(manifest.answer)}",
        inputs=", ".join(f"{each.dtype} {shape}" for each, shape in zip(manifest.inputs, shapes, strict=True)),
        bytes=sum(files.values()),
        variants={variant.name: _measure(variant) for variant in manifest.variants},
        calibrations={key: _tell_apart(bundle, each) for key, each in named.items()},
        calibration=name,
        variant=variant,
        board={} if chosen is None else chosen.fingerprint,
        samples=None if chosen is None else (chosen.select_samples, chosen.report_samples),
        meter=None if chosen is None else chosen.meter,
        every_s=None if chosen is None else chosen.every_s,
    )


def _measure(variant: Variant) -> VariantWork:
    return VariantWork(
        precision=variant.precision,
        rule=variant.rule,
        exits=tuple(exit_.name for exit_ in variant.exits),
        stage_macs=tuple(stage.macs for stage in variant.stages),
        bytes=sum(file.bytes for file in variant.files.values()),
    )


def _tell_apart(bundle: Bundle, calibration: Calibration | None) -> str:
    """Name the board of a calibration, its power mode if it has one, and why it cannot be used here, if it cannot."""
    if calibration is None:
        return "of a form that this offramp does not read"
    told = [calibration.fingerprint[key] for key in ("soc", "power_mode") if key in calibration.fingerprint]
    return ", ".join([*told, *(() if belongs(bundle, calibration) else ("of another export",))])
