"""Where a calibration is stored, what it replaces, and which it does not replace unasked."""

import logging
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from ..bundle import Calibration, OperatingPoint, read_calibration, write_calibration
from ..bundle.decoding import MOST_BYTES
from ..errors import OfframpError
from ..files import os_errors_explained, read_file, write_atomically
from ..runtime.selection import belongs
from .requests import Request

BEFORE = ".before"
"""What the name of the calibration before ends in; such files are not loaded."""

BOARD = ("architecture", "soc", "accelerators", "module")
"""Fields of a fingerprint that tell boards apart, whatever their software and settings."""

__all__ = ["store"]

_log = logging.getLogger(__name__)


def store(calibration: Calibration, request: Request) -> tuple[Calibration, bool]:
    """Store a calibration with a note that says where and what it replaces; the one before is kept beside it.

    A calibration that misses a target, or promises less than every target, replaces none that does not; nor does one that can
    promise early exit nowhere replace one that recommends it. Both do if the file was named or the replacement was asked for, or
    if the one before is of another device: that is neither better nor worse. The note of a calibration that was not stored says
    why.

    Returns:
        The calibration with the note, and True if it was stored.

    Raises:
        MissingError: the file cannot be written.
    """
    path = request.path
    earlier = _read_earlier(request)
    worse = "" if earlier is None or request.is_path_named or request.replace else _compare(calibration, earlier)
    if worse:
        note = f"{worse} It was not stored: {path} stays as it was. To store it, ask for it (--replace) or name a file (-o)."
        return _with_note(calibration, note), False
    note = f"Stored in {path}."
    if path.exists():
        note += f" {_describe(earlier)} is kept as {_keep(path).name}."
    calibration = _with_note(calibration, note)
    write_calibration(path, calibration)
    _log.debug("stored %s", path)
    return calibration, True


def _with_note(calibration: Calibration, note: str) -> Calibration:
    return replace(calibration, notes=(*calibration.notes, note))


def _read_earlier(request: Request) -> Calibration | None:
    """Return the calibration of this bundle that the path holds; None if it holds none."""
    try:
        calibration = read_calibration(request.path)
    except OfframpError:
        return None
    return calibration if belongs(request.bundle, calibration) else None


def _compare(calibration: Calibration, earlier: Calibration) -> str:
    """Say in which way a calibration is worse than an earlier one; empty if it is not."""
    if not _is_of_same_device(calibration, earlier):
        return ""
    if earlier.met and not calibration.met:
        return "This calibration misses a target, and the one before meets its own."
    if earlier.is_promised and not calibration.is_promised:
        return "This calibration does not promise every target, and the one before promises its own."
    is_tried = calibration.early.exits_early
    if is_tried and _promises_early_exit(earlier.asked_for) and not _promises_early_exit(calibration.points):
        return "This calibration can promise early exit for no target, and the one before promises and recommends it."
    return ""


def _is_of_same_device(calibration: Calibration, earlier: Calibration) -> bool:
    """Return True if a calibration was made on the board of an earlier one, and on a device that one of its points runs on."""
    here, there = calibration.fingerprint, earlier.fingerprint
    measured = {device for chain in calibration.chains for device in chain.placement}
    return all(here.get(field) == there.get(field) for field in BOARD) and not measured.isdisjoint(_devices(earlier))


def _devices(calibration: Calibration) -> list[str]:
    return list(dict.fromkeys(device for point in calibration.points.values() for device in point.placement))


def _promises_early_exit(points: Mapping[str, OperatingPoint]) -> bool:
    return any(point.exits_early and point.is_promised for point in points.values())


def _describe(earlier: Calibration | None) -> str:
    """Describe a calibration that is replaced."""
    if earlier is None:
        return "What stood there, which is no calibration of this export,"
    targets = ", ".join(f"{name}: {point.target}" for name, point in earlier.asked_for.items())
    what = "promised" if earlier.is_promised else "not promised"
    on = ", ".join(_devices(earlier))
    by = f"{earlier.report_samples} samples" if earlier.groups is None else f"{earlier.groups} groups"
    return f"The calibration before ({targets}; on {on}; {what}, by {by})"


def _keep(path: Path) -> Path:
    """Copy a file beside itself, in place of an earlier copy, and return the copy's path."""
    kept = path.with_name(path.name + BEFORE)
    with os_errors_explained(path, "read"):
        content = read_file(path, most=MOST_BYTES)
    write_atomically(kept, content)
    return kept
