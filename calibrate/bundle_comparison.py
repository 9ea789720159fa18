"""Two bundles, or two calibrations, variants or operating points of one, beside each other: what differs, and what that means."""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from ..bundle import Bundle, Calibration
from ..devices import differences
from ..errors import UsageError
from ..pictures import check_picture
from ..units import show_time
from .certify.questions import are_same_samples
from .compared import Compared, Grounds, compare_networks
from .frontiers_picture import draw_frontiers
from .sides import BundleSide, Side, find_side

__all__ = ["BundleComparison", "compare_bundles"]

MOST_DRIFT = 0.05
"""If the reference takes so much longer in one of two calibrations, a note says so."""


class BundleComparison(Struct, frozen=True, kw_only=True):
    """Two sides, A and B, of which nothing is measured anew.

    Attributes:
        first, second: A and B.
        compared: operating points that both have, and whole static networks; empty if a side has no calibration.
        board: the fields of the fingerprints that decide whether figures hold elsewhere and that differ: A's, and B's.
        drift: by what share the machine was slower in one calibration than in the other, as the reference shows it; None where
            nothing shows it.
        verdict: what is surely different between the first two that are compared, in words.
        notes: why figures do not compare, or compare more than the networks.

    Example:
        >>> from offramp.calibrate import compare_bundles
        >>> found = compare_bundles("digits.offramp", variant=("fp32", "int8"))
        >>> found.board, found.drift
        ({}, 0.0)
        >>> print(found.verdict)  # doctest: +SKIP
        whole static network: B is 1.6 times as fast as A (95 % interval 1.5 to 1.7), at 0.90 points less accuracy (95 % interval
        0.20 to 1.60).
    """

    first: BundleSide
    second: BundleSide
    compared: tuple[Compared, ...]
    board: dict[str, tuple[str, str]]
    drift: float | None
    verdict: str
    notes: tuple[str, ...]


def compare_bundles(
    first: str | os.PathLike[str] | Bundle,
    second: str | os.PathLike[str] | Bundle | None = None,
    *,
    calibration: "str | os.PathLike[str] | Calibration | tuple[str | os.PathLike[str] | Calibration, ...] | None" = None,
    variant: str | tuple[str, ...] | None = None,
    point: str | tuple[str, ...] | None = None,
    plot: str | os.PathLike[str] | None = None,
) -> BundleComparison:
    """Compare two bundles, or two calibrations, variants or operating points of one, by what their calibrations measured.

    A difference is claimed only where its 95 % interval leaves out none: of the machine's noise, and of the samples. Nothing is
    measured anew.

    Args:
        first, second: A and B, each a bundle, its folder or its packed file; by default B is the same bundle as A.
        calibration: a calibration, its file, or its name in the bundle, as `offramp inspect` shows it: one for both sides or a
            pair. By default the only one that was made for what the bundle holds.
        variant: likewise the variant whose operating points and whole static network are compared; by default all points, and the
            variant of the first.
        point: likewise the operating point; by default those whose names both have, or else the first of each.
        plot: a file to write the frontiers of both to, .svg, .png or .pdf. Needs the `report` extra.

    Raises:
        UsageError: a bundle, variant, calibration or point does not exist, there are several calibrations to choose from, or A
            is B.
        BundleError: a bundle or calibration is damaged, newer than this offramp, or was made for another export.
        MissingError: a file may not be read, or the picture cannot be written.

    Example:
        >>> from offramp.calibrate import compare_bundles
        >>> found = compare_bundles("digits.offramp", variant=("fp32", "int8"))
        >>> found.first.variants["int8"].bytes < found.first.variants["fp32"].bytes
        True
    """
    picture = None if plot is None else check_picture(plot)
    calibrations, variants, points = _pair(calibration), _pair(variant), _pair(point)
    if second is None and all(one == other for one, other in (calibrations, variants, points)):
        raise UsageError(
            "A and B are the same. Name a second bundle, or two calibrations, variants or points of this one."
        )
    one = find_side(first, calibrations[0], variants[0], points[0])
    other = find_side(one.bundle if second is None else second, calibrations[1], variants[1], points[1])
    board, drift, grounds, notes = _find_grounds(one, other)
    compared = tuple(_compare(one, other, grounds))
    if picture is not None:
        draw_frontiers(one, other, picture)
    return BundleComparison(
        first=one.facts,
        second=other.facts,
        compared=compared,
        board=board,
        drift=drift,
        verdict=compared[0].verdict if compared else "There are no figures to compare.",
        notes=(*notes, *_note_unmeasured(one, other), *_note_targets(compared)),
    )


def _pair(value: Any) -> tuple[Any, Any]:
    """Return a value for each side: one for both, or two."""
    if not isinstance(value, tuple):
        return value, value
    if len(value) not in (1, 2):
        raise UsageError(f"There are two sides, so name one for both or one for each, not {len(value)}.")
    return value[0], value[-1]


def _compare(one: Side, other: Side, grounds: Grounds) -> Iterator[Compared]:
    """Yield the operating points that both sides have, or the first of each, and the whole static networks."""
    if one.calibration is None or other.calibration is None:
        return
    names = [(name, name) for name in one.points if name in other.points]
    if not names and one.points and other.points:
        names = [(next(iter(one.points)), next(iter(other.points)))]
    for first, second in names:
        points = one.points[first], other.points[second]
        title = f"point {first}" if first == second else f"points {first} and {second}"
        yield compare_networks(title, (one, other), points, grounds)
    if one.whole is not None and other.whole is not None:
        yield compare_networks("whole static network", (one, other), (one.whole, other.whole), grounds)


def _find_grounds(one: Side, other: Side) -> tuple[dict[str, tuple[str, str]], float | None, Grounds, list[str]]:
    """Return what differs between the boards, the machine's drift, what can be compared, and notes on what cannot."""
    ours, theirs = one.calibration, other.calibration
    notes = [
        f"{name} has no calibration for what it holds: only what is in the files is compared. Run: offramp calibrate {side.path}"
        for name, side, found in (("A", one.facts, ours), ("B", other.facts, theirs))
        if found is None
    ]
    board: dict[str, tuple[str, str]] = {}
    if ours is None or theirs is None:
        nothing = Grounds(latency=False, right=False, energy=False, drift=0, same_reference=False, same_board=False)
        return board, None, nothing, notes
    board = {each.field: (each.here, each.there) for each in differences(ours.fingerprint, theirs.fingerprint)}
    same_board, same_pace = not board.keys() - {"meter"}, ours.every_s == theirs.every_s
    drift = _find_drift(ours, theirs, one.reference == other.reference) if same_board and same_pace else None
    can_compare, said = _compare_samples(one, other)
    if one.reference != other.reference:
        notes.append(
            "Each loses against a whole network of its own: drops and disagreements do not compare, accuracies may."
        )
    same_meter = ours.meter == theirs.meter
    notes += [*said, *_note_board(board, ours, theirs, drift)]
    if not same_meter and None not in (ours.meter, theirs.meter):
        notes.append(
            f"Measured with different meters: A by {ours.meter}, B by {theirs.meter}. Energies do not compare."
        )
    grounds = Grounds(
        latency=same_pace,
        right=can_compare,
        energy=same_meter and same_pace,
        drift=drift or 0.0,
        same_reference=one.reference == other.reference,
        same_board=same_board,
    )
    return board, drift, grounds, notes


def _find_drift(ours: Calibration, theirs: Calibration, same_reference: bool) -> float | None:
    """Return by what share the machine was slower in one of two calibrations; None if no network was measured in both."""
    if ours == theirs:
        return 0.0
    first, second = ours.conditions, theirs.conditions
    if not same_reference or not first.reference_s or not second.reference_s:
        return None
    return (
        abs(math.log(first.reference_s / second.reference_s))
        if first.reference_device == second.reference_device
        else None
    )


def _compare_samples(one: Side, other: Side) -> tuple[bool, list[str]]:
    """Return whether accuracies can be compared, and notes on that."""
    ours, theirs = one.calibration, other.calibration
    assert ours is not None and theirs is not None
    if ours == theirs:
        return True, []
    tasks = [(each.facts.task, each.bundle.manifest.class_names) for each in (one, other)]
    if tasks[0] != tasks[1]:
        told = f"{tasks[0][0]} and {tasks[1][0]}" if tasks[0][0] != tasks[1][0] else "classes of other names"
        return False, [f"They answer different questions, {told}: accuracies do not compare."]
    if ours.point.target.counts != theirs.point.target.counts:
        return False, ["One counts right labels, the other losses: accuracies do not compare."]
    totals = [each.report_samples + (0 if each.outside else each.select_samples) for each in (ours, theirs)]
    # A bundle remembers the samples of its own calibrations, and not those of a file that came from elsewhere.
    is_remembered = all(each.facts.calibration in each.facts.calibrations for each in (one, other))
    same = are_same_samples(one.bundle, other.bundle) if is_remembered else None
    if same is False or totals[0] != totals[1]:
        return False, [f"Measured on different data, {totals[0]} and {totals[1]} samples: accuracies do not compare."]
    unknown = (
        "Nothing shows whether both were measured on the same samples. If they were not, accuracies do not compare."
    )
    return True, [] if same else [unknown]


def _note_board(
    board: dict[str, tuple[str, str]], ours: Calibration, theirs: Calibration, drift: float | None
) -> list[str]:
    notes = []
    if fields := board.keys() - {"meter"}:
        listed = ", ".join(field for field in board if field in fields)
        notes.append(f"Measured on devices that differ ({listed}): latencies and energies compare the devices too.")
    if ours.every_s != theirs.every_s:
        paces = [
            "back to back" if each is None else f"every {show_time(each)}" for each in (ours.every_s, theirs.every_s)
        ]
        notes.append(f"Measured at different paces, A {paces[0]}, B {paces[1]}: latencies and energies do not compare.")
    elif not fields and drift is None:
        notes.append(
            "Two calibrations of one device, and no network that both measured: a machine's speed changes from one measurement "
            "to the next, which no interval here holds. Export both networks into one bundle (offramp export --beside), and "
            "calibrate it."
        )
    elif drift is not None and drift > MOST_DRIFT:
        notes.append(
            f"The same network took {math.exp(drift):.2f} times as long in one of the calibrations: the machine's speed changed "
            "by so much, and the intervals of latencies are so much longer."
        )
    for name, calibration in (("A", ours), ("B", theirs)):
        if calibration.conditions.throttled:
            slowed = ", ".join(calibration.conditions.throttled)
            notes.append(f"{name} was measured on a board that slowed down ({slowed}).")
    return notes


def _note_unmeasured(one: Side, other: Side) -> list[str]:
    """Name the variants that a calibration measured nothing of."""
    return [
        f"{name}: the calibration {side.facts.calibration} measured nothing of variant {side.facts.variant}. Run: offramp "
        f"calibrate {side.facts.path}"
        for name, side in (("A", one), ("B", other))
        if side.calibration is not None and not side.points and side.whole is None
    ]


def _note_targets(compared: Sequence[Compared]) -> list[str]:
    """Name the points that were chosen for different targets, which decide how careful they are."""
    return [
        f"{each.name}: chosen for different targets, A for {each.targets[0]}, B for {each.targets[1]}."
        for each in compared
        if each.targets is not None and each.targets[0] != each.targets[1]
    ]
