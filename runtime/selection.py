"""Which calibration and which operating point a bundle runs with on this device."""

import os
from collections.abc import Mapping, Sequence

from ..bundle import Bundle, Calibration, OperatingPoint, Variant, read_calibration
from ..bundle.across import count_loaded, find_measured
from ..devices import Board, differences, fingerprint, identify
from ..devices.fingerprints import OPTIONAL, Difference
from ..errors import BundleError, MissingError, OutdatedError, UncalibratedWarning, UsageError, unknown_name
from ..progress import debug
from .engines import find_device
from .notices import warn_caller

__all__ = [
    "belongs",
    "choose_point",
    "count_loaded_by",
    "differs_here",
    "find_calibration",
    "most_careful",
    "packages_of",
    "variant_of",
]


def find_calibration(
    bundle: Bundle,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    *,
    variant: str | None = None,
    threads: int = 1,
) -> Calibration | None:
    """Return the calibration that is given, or the one in the bundle that fits this device best; None if the bundle has none.

    A calibration fits if it was made for the variants that the bundle holds now. With `variant` it must have a point of that
    variant. If several fit (one for each of a board's power modes, say), the one counts whose fingerprint differs least from
    this device's, where what it does not tell counts as different; among equals the one that compared most variants, or with
    `variant` fewest.

    Raises:
        UsageError: nothing lies at the path, or several fit equally well.
        BundleError: a calibration is damaged or newer than this offramp; TrustError if it is not signed as a policy demands.
    """
    if isinstance(calibration, Calibration):
        return calibration
    if calibration is not None:
        return read_calibration(calibration, signed=bundle.signed)
    fitting = _read_fitting(bundle)
    if variant is not None:
        name = bundle.chain(variant).name
        fitting = {
            file: candidate
            for file, candidate in fitting.items()
            if any(_is_of(bundle, candidate, point, name) for point in candidate.points)
        }
    if len(fitting) < 2:
        debug("calibrations of %s that fit: %s", bundle.path, ", ".join(fitting) or "none")
        return next(iter(fitting.values()), None)
    board = identify()
    misfits = {file: _misfit(candidate, threads, board) for file, candidate in fitting.items()}
    best = [file for file, misfit in misfits.items() if misfit == min(misfits.values())]
    counts = {file: len({chain.variant for chain in fitting[file].chains}) for file in best}
    wanted = max(counts.values()) if variant is None else min(counts.values())
    best = [file for file in best if counts[file] == wanted]
    if len(best) > 1 and misfits[best[0]][0] == misfits[best[0]][2] == 0:
        listed = ", ".join(f"{file} of {', '.join(fitting[file].variants)}" for file in best)
        raise UsageError(
            f"{bundle.path} has several calibrations that fit this device ({listed}). Name one with calibration=, or its variant "
            "with variant=.",
            path=bundle.path,
        )
    file = min(best, key=lambda file: min(map(_loss, fitting[file].points.values())))
    for name, (hard, _, soft) in misfits.items():
        verdict = "chosen" if name == file else "not chosen"
        debug("calibration %s: %d hard and %d soft differences, %s", name, hard, soft, verdict)
    return fitting[file]


def _read_fitting(bundle: Bundle) -> dict[str, Calibration]:
    """Read the calibrations in a bundle that were made for what it holds now; warn of the others. By the file's name."""
    readable = {}
    for path in bundle.calibrations():
        try:
            readable[path.name] = bundle.read_calibration(path)
        except OutdatedError as error:
            warn_caller(f"{error} It is not used.", UncalibratedWarning)
    fitting = {file: calibration for file, calibration in readable.items() if belongs(bundle, calibration)}
    wrong = {file: problem for file in readable if (problem := _wrong_exits(bundle, readable[file]))}
    for file, problem in wrong.items():
        warn_caller(f"{bundle.path}: {file} is not used: {problem}. Run: offramp calibrate", UncalibratedWarning)
    if stale := sorted(readable.keys() - fitting.keys() - wrong.keys()):
        warn_caller(
            f"{bundle.path} holds other variants than when it was calibrated. Not used: {', '.join(stale)}. Run: "
            "offramp calibrate",
            UncalibratedWarning,
        )
    return fitting


def choose_point(
    bundle: Bundle,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    *,
    variant: str | None = None,
    point: str | None = None,
    threads: int = 1,
) -> tuple[Variant, Calibration | None, OperatingPoint | None]:
    """Return the variant that is to run, and the calibration and operating point that it runs with.

    Args:
        bundle: the bundle.
        calibration: a calibration or its path; by default the one that `find_calibration` finds.
        variant: name of a variant; by default that of the point.
        point: name of an operating point; by default the first one of the variant.
        threads: threads with which the network will run; part of this device's fingerprint.

    Returns:
        The variant, the calibration and the point. Both are None if the bundle has no calibration for the variant.

    Raises:
        UsageError: the variant or point does not exist, nothing lies at the path, or several calibrations fit equally well.
        BundleError: the calibration is damaged, newer than this offramp, or was made for something else.
    """
    fitting = find_calibration(bundle, calibration, variant=variant, threads=threads)
    if fitting is None:
        if point is not None:
            raise UsageError(
                f"{bundle.path} has no calibration, so no operating point {point!r}. Run: offramp calibrate",
                path=bundle.path,
            )
        return bundle.chain(variant), None, None
    if problem := _wrong_exits(bundle, fitting):
        raise BundleError(
            f"The calibration is damaged: {problem}. Calibrate again.",
            path=calibration if isinstance(calibration, (str, os.PathLike)) else bundle.path,
        )
    if not belongs(bundle, fitting):
        raise BundleError(
            f"The calibration was made for another export of {bundle.path.name} than the one at {bundle.path}. Calibrate again, "
            "or bring the bundle it was made for.",
            path=calibration if isinstance(calibration, (str, os.PathLike)) else bundle.path,
        )
    name = _name_of_point(bundle, fitting, variant, point)
    made_for = variant_of(bundle, fitting, fitting.points[name])
    assert made_for is not None
    debug("operating point %s of variant %s is in use", name, made_for.name)
    return made_for, fitting, fitting.points[name]


def _name_of_point(bundle: Bundle, calibration: Calibration, variant: str | None, point: str | None) -> str:
    """Return the point's name if it is given, else that of the first point of the variant.

    Raises:
        UsageError: the variant or the point does not exist.
        BundleError: the calibration has no such point of the variant.
    """
    wanted = None if variant is None else bundle.chain(variant).name
    points: Mapping[str, OperatingPoint] = calibration.points
    if point is not None and point not in points:
        raise unknown_name("operating point", point, points)
    names = [name for name in points if wanted is None or _is_of(bundle, calibration, name, wanted)]
    name = point or next(iter(names), None)
    if name is None or name not in names:
        which = f"operating point {point!r}" if point else "operating points"
        raise BundleError(
            f"The calibration was made for another variant of {bundle.path.name}: its {which} are not of {wanted}. Calibrate "
            "that variant, or leave it out.",
            path=bundle.path,
        )
    return name


def differs_here(calibration: Calibration, threads: int) -> list[Difference]:
    """Return what differs between this device and the one that a calibration was made on."""
    return _compare_here(calibration, threads)[0]


def _compare_here(calibration: Calibration, threads: int, board: Board | None = None) -> tuple[list[Difference], int]:
    """Return what differs from the device that a calibration was made on, and how many fields it does not tell of that one.

    `board` is this device's, if it is identified already.
    """
    try:
        packages = packages_of([name for point in calibration.points.values() for name in point.placement])
    except MissingError as error:
        return [Difference("engine", "hard", str(error), calibration.fingerprint.get("engine", "none"))], 0
    here, there = fingerprint(packages=packages, threads=threads, board=board), calibration.fingerprint
    return differences(here, there), sum(field in here and field not in there for field in OPTIONAL)


def _misfit(calibration: Calibration, threads: int, board: Board) -> tuple[int, int, int]:
    """Return how many hard fields of a calibration's fingerprint differ, how many soft ones may, and how many of these do."""
    found, untold = _compare_here(calibration, threads, board)
    kinds = [difference.kind for difference in found]
    return kinds.count("hard"), kinds.count("soft") + untold, kinds.count("soft")


def most_careful(calibration: Calibration, variant: str | None) -> OperatingPoint:
    """Return the point that loses least accuracy. Points with a promise go before points without.

    Args:
        calibration: the calibration.
        variant: only points of this variant count; None for all.
    """
    points = [point for point in calibration.points.values() if variant in (None, point.variant)]
    return min(points, key=lambda point: (not point.is_promised, _loss(point)))


def _loss(point: OperatingPoint) -> float:
    return point.disagreement if point.drop is None else point.drop


def belongs(bundle: Bundle, calibration: Calibration) -> bool:
    """Return True if a calibration was made for what the bundle holds, and not for an earlier export of it."""
    return all(variant_of(bundle, calibration, point) is not None for point in calibration.points.values())


def _wrong_exits(bundle: Bundle, calibration: Calibration) -> str | None:
    """Say which point of a calibration has other exits than the variant that it was made for; None if none has."""
    for name, point in calibration.points.items():
        variant = find_measured(bundle.manifest, calibration, point)
        if variant is not None and not _fits(variant, point):
            has = (
                f"{len(point.exit_shares)} exits"
                if point.static is None
                else f"a static network to exit {point.static}"
            )
            return f"its point {name} has {has}, and variant {variant.name} has exits 0 to {len(variant.exits) - 1}"
    return None


def _fits(variant: Variant, point: OperatingPoint) -> bool:
    exits = len(variant.exits)
    return len(point.exit_shares) == exits if point.static is None else point.static < exits


def _is_of(bundle: Bundle, calibration: Calibration, point: str, variant: str) -> bool:
    made_for = variant_of(bundle, calibration, calibration.points[point])
    return made_for is not None and made_for.name == variant


def variant_of(bundle: Bundle, calibration: Calibration, point: OperatingPoint) -> Variant | None:
    """Return the variant that an operating point was made for; None if the bundle does not hold it any more."""
    variant = find_measured(bundle.manifest, calibration, point)
    return variant if variant is not None and _fits(variant, point) else None


def count_loaded_by(bundle: Bundle, calibration: Calibration) -> dict[str, dict[str, int]]:
    """Return the bytes of graphs and weights that each point loads, by variant; without the points of other exports."""
    found = {name: variant_of(bundle, calibration, point) for name, point in calibration.points.items()}
    return {
        name: count_loaded(variant, calibration.points[name].static)
        for name, variant in found.items()
        if variant is not None
    }


def packages_of(devices: Sequence[str]) -> list[str]:
    """Return the packages that serve some devices, each once: ["onnxruntime", "openvino"].

    Raises:
        MissingError: no engine serves a device.
    """
    return list(dict.fromkeys(find_device(device).engine.PACKAGE for device in devices))
