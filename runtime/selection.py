"""Which calibration and which operating point a bundle runs with on this device."""

import os
import warnings
from collections.abc import Sequence

from ..bundle import Bundle, Calibration, OperatingPoint, Variant, read_calibration
from ..devices import differences, fingerprint
from ..devices.fingerprint import Difference
from ..errors import BundleError, MissingError, OutdatedError, UncalibratedWarning, UsageError, unknown_name
from .engines import find_device


def find_calibration(
    bundle: Bundle,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    *,
    variant: str | None = None,
    threads: int = 1,
) -> Calibration | None:
    """Return the calibration that is given, or the one inside the bundle that belongs to what it holds and fits this device.

    A variant's name leaves those out that have no point of it. Of several, as of a board's power modes, the one is taken whose
    fingerprint differs least from this device's.

    Raises:
        UsageError: nothing lies at the path, or several fit.
        BundleError: a calibration is damaged or newer.
    """
    if isinstance(calibration, Calibration):
        return calibration
    if calibration is not None:
        return read_calibration(calibration)
    inside = {}
    for path in bundle.calibrations():
        try:
            inside[path.name] = read_calibration(path)
        except OutdatedError as error:
            warnings.warn(f"{error} It is not used.", UncalibratedWarning, stacklevel=3)
    valid = {name: found for name, found in inside.items() if belongs(bundle, found)}
    if stale := sorted(inside.keys() - valid.keys()):
        warnings.warn(
            f"{bundle.path} has been exported anew since {', '.join(stale)}: not used. Run: offramp calibrate",
            UncalibratedWarning,
            stacklevel=3,
        )
    if variant is not None:
        name = bundle.variant(variant).name
        valid = {
            file: found
            for file, found in valid.items()
            if any(_is_of(bundle, found, one, name) for one in found.points)
        }
    if len(valid) < 2:
        return next(iter(valid.values()), None)
    misfits = {name: _misfit(found, threads) for name, found in valid.items()}
    best = [name for name, misfit in misfits.items() if misfit == min(misfits.values())]
    # Of those that fit alike the one counts that looked at most variants, or where one is named, at that alone.
    counts = {name: len({chain.variant for chain in valid[name].chains}) for name in best}
    wanted = max(counts.values()) if variant is None else min(counts.values())
    best = [name for name in best if counts[name] == wanted]
    if len(best) > 1 and misfits[best[0]] == (0, 0):
        listed = ", ".join(f"{name} of {', '.join(valid[name].variants)}" for name in best)
        raise UsageError(
            f"{bundle.path} has several calibrations that fit this device ({listed}). Name one with calibration=, or its variant "
            "with variant=."
        )
    return min((valid[name] for name in best), key=lambda found: min(map(_loss, found.points.values())))


def choose_point(
    bundle: Bundle,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    *,
    variant: str | None = None,
    point: str | None = None,
    threads: int = 1,
) -> tuple[Variant, Calibration | None, OperatingPoint | None]:
    """Return the variant that is to run, and the calibration and operating point it runs with where there are some.

    Raises:
        UsageError: there is no such variant, point or calibration, or there are several calibrations to choose from.
        BundleError: the calibration is damaged, newer, or was made for something else.
    """
    found = find_calibration(bundle, calibration, variant=variant, threads=threads)
    if found is None:
        if point is not None:
            raise UsageError(
                f"{bundle.path} has no calibration, so no operating point {point!r}. Run: offramp calibrate"
            )
        return bundle.variant(variant), None, None
    if not belongs(bundle, found):
        raise BundleError(
            f"The calibration was made for another export of {bundle.path.name} than the one at {bundle.path}. Calibrate again, "
            "or bring the bundle it was made for."
        )
    wanted = None if variant is None else bundle.variant(variant).name
    if point is not None and point not in found.points:
        raise unknown_name("operating point", point, found.points)
    names = [name for name in found.points if wanted is None or _is_of(bundle, found, name, wanted)]
    name = point or next(iter(names), None)
    if name is None or name not in names:
        which = f"operating point {point!r}" if point else "operating points"
        raise BundleError(
            f"The calibration was made for another variant of {bundle.path.name}: its {which} are not of {wanted}. Calibrate "
            "that variant, or leave it out."
        )
    made_for = variant_of(bundle, found, found.points[name])
    assert made_for is not None
    return made_for, found, found.points[name]


def differs_here(found: Calibration, threads: int) -> list[Difference]:
    """Return what differs between this device and the one that a calibration was made on."""
    try:
        packages = packages_of([name for point in found.points.values() for name in point.placement])
    except MissingError as error:
        return [Difference("engine", "hard", str(error), found.fingerprint.get("engine", "none"))]
    return differences(fingerprint(packages=packages, threads=threads), found.fingerprint)


def _misfit(found: Calibration, threads: int) -> tuple[float, float]:
    """Return how many hard and soft fields of a calibration's fingerprint differ from this device's."""
    differing = differs_here(found, threads)
    return tuple(sum(one.kind == kind for one in differing) for kind in ("hard", "soft"))  # type: ignore[return-value]


def most_careful(found: Calibration, variant: str | None) -> OperatingPoint:
    """Return the point that loses least, of those that are promised if any are; of one variant if it is named."""
    points = [point for point in found.points.values() if variant in (None, point.variant)]
    return min(points, key=lambda point: (not point.is_promised, _loss(point)))


def _loss(point: OperatingPoint) -> float:
    return point.disagreement if point.drop is None else point.drop


def belongs(bundle: Bundle, found: Calibration) -> bool:
    """Tell whether a calibration is of what the bundle holds, and not of an earlier export."""
    return all(variant_of(bundle, found, point) is not None for point in found.points.values())


def _is_of(bundle: Bundle, found: Calibration, point: str, variant: str) -> bool:
    made_for = variant_of(bundle, found, found.points[point])
    return made_for is not None and made_for.name == variant


def variant_of(bundle: Bundle, found: Calibration, point: OperatingPoint) -> Variant | None:
    """Return the variant that an operating point was made for, or None where the bundle does not hold it."""
    for variant in bundle.manifest.variants:
        exits = len(variant.exits)
        fits = len(point.exit_shares) == exits if point.static is None else point.static < exits
        if variant.digest == found.variants[point.variant] and fits:
            return variant
    return None


def packages_of(devices: Sequence[str]) -> list[str]:
    """Return the packages that serve some devices, each once.

    Raises:
        MissingError: no engine serves one of them.
    """
    return list(dict.fromkeys(find_device(device).engine.PACKAGE for device in devices))
