"""Calibrate a fleet: record each kind of board once, measure every board, choose for each fingerprint, and for all together.

kind         boards whose answers are equal            recorded once, by all of them together
fingerprint  boards on which the same figures hold     one calibration in the bundle, of its median board
fleet        all boards                                the same thresholds, proven on each kind, and the spread of latencies

Labels stay here: boards get inputs, and what they answer is checked and judged here.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace as set_fields

from .. import __version__
from ..bundle import Bundle, Calibration, Target, opened, pack
from ..calibrate.certify.points import make_points
from ..calibrate.certify.questions import ask, check_remembered, describe_question
from ..calibrate.pipeline import describe_chosen
from ..calibrate.requests import Devices, Request, read_request
from ..calibrate.search.gains import LEAST_GAIN
from ..calibrate.storing import store
from ..errors import UsageError
from ..files import read_file
from ..progress import Progress, no_progress
from ..runtime.placement import AUTO
from .board import BoardTask
from .boards import Boards
from .choosing import Alike, choose_all, measure_all
from .kept import Kept
from .measuring import draw_rows
from .outliers import BoardFigures, compare_boards
from .recording import Work
from .scheduler import Tls, connect
from .shared_points import FLEET_SUFFIX, Shared, certify_shared, measure_shared

__all__ = ["FleetCalibration", "calibrate_fleet"]

MOST_BUNDLE_BYTES = 4 << 30


class FleetCalibration(Struct, frozen=True, kw_only=True):
    """What came home from a fleet.

    Attributes:
        calibrations: by the files they belong in, one for each fingerprint; the last note of each says where it was stored.
        boards: every board that was measured, beside its kind.
        missing: the boards of which nothing came home, and why.
        notes: other things worth knowing, in words.

    Example:
        >>> from offramp.fleet import BoardFigures, FleetCalibration
        >>> slow = BoardFigures(name="pi7", kind=0, reference_s=0.0123, slower=0.14, outlier="Board pi7 is 14% slower.")
        >>> FleetCalibration(calibrations={}, boards=(slow,), missing={}).outliers
        ('Board pi7 is 14% slower.',)
    """

    calibrations: dict[str, Calibration]
    boards: tuple[BoardFigures, ...]
    missing: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def outliers(self) -> tuple[str, ...]:
        """The boards that are slower than their kind, and why, in words."""
        return tuple(board.outlier for board in self.boards if board.outlier)


def calibrate_fleet(
    bundle: str | os.PathLike[str] | Bundle,
    data: Any,
    scheduler: str,
    target: Target | Mapping[str, Target] | None = None,
    *,
    device: Devices = "cpu",
    also: Sequence[Devices] = (),
    threads: int = 1,
    fallback: str | None = None,
    variant: str | Sequence[str] | None = None,
    replace: bool = False,
    confidence: float = 0.9,
    least_gain: float = LEAST_GAIN,
    outside: Any = None,
    seed: int = 0,
    measure_s: float = 6.0,
    every_s: float | None = None,
    groups: Any = None,
    tls: Tls | None = None,
    progress: Progress = no_progress,
) -> FleetCalibration:
    """Calibrate a bundle on all boards that are connected to a scheduler, each of which runs `offramp worker`.

    Boards whose architecture, chip, accelerators, drivers, engines and threads are the same are of one kind: the samples are
    recorded once for each kind, by all its boards together. Every board is measured, and answers some drawn samples as its kind
    does. Each fingerprint gets a calibration of its own in the bundle, by its median board (its slowest one, if costs are
    limited). In each of them stand points that are the same on all boards: `default-fleet` of the target `default`. Their
    thresholds are the best ones of the slowest board; their one promise is proven on each kind; `OperatingPoint.spread` says how
    long they take on all boards. All promises of the fleet together hold with the given confidence: each calibration, and the
    points of the fleet, have an equal part of the chance of error.

    Labels stay here. Boards get inputs and the bundle, and what they send is checked. A board that goes away is left out and
    named in `missing`; the same call again goes on from what has come home.

    Args:
        bundle, data, target: as for `calibrate`, of a network that classifies.
        scheduler: its address, such as `"tcp://10.0.0.2:8786"` or `"tls://10.0.0.2:8786"`.
        device, also, threads, fallback, variant: as for `calibrate`; `auto` is refused, since boards would choose differently.
        replace, confidence, least_gain, outside, seed, measure_s, every_s, groups: as for `calibrate`.
        tls: the files for an address `tls://`.
        progress: called with the name of the step, how much of it is done, and how much there is.

    Returns:
        The calibrations, what each board did, and who is missing.

    Raises:
        UsageError, DataError, BundleError: as for `calibrate`.
        TargetError: no board meets the limits; nothing is stored.
        MissingError: nothing answers at the address, or no board can be used.
        MeasurementError: no calibration came home.

    Example:
        >>> from offramp.bundle import Target
        >>> from offramp.calibrate import load_samples
        >>> from offramp.fleet import calibrate_fleet
        >>> samples, address = load_samples("test.npz"), "tcp://10.0.0.2:8786"
        >>> found = calibrate_fleet("digits.offramp", samples, address, Target(max_drop=0.01))  # doctest: +SKIP
        >>> print(*found.calibrations, *found.outliers, sep="\\n")  # doctest: +SKIP
    """
    bundle = opened(bundle)
    _check_askable(bundle, [device, *also], target)
    request = read_request(
        bundle,
        data,
        target,
        device=device,
        also=also,
        threads=threads,
        fallback=fallback,
        variant=variant,
        output=None,
        replace=replace,
        confidence=confidence,
        least_gain=least_gain,
        outside=outside,
        meter=None,
        keep=None,
        seed=seed,
        measure_s=measure_s,
        every_s=every_s,
        save_s=0.0,
        loss=None,
        disagreement=None,
        groups=groups,
        progress=progress,
    )
    check_remembered(bundle)
    task = BoardTask(
        devices=request.devices,
        variants=tuple(placed.variant.name for placed in request.placed) if variant is not None else None,
        threads=threads,
        fallback=fallback,
        seed=seed,
        measure_s=measure_s,
        every_s=every_s,
        targets=request.targets,
    )
    with connect(scheduler, tls=tls) as client:
        boards = Boards(client)
        found, lost = boards.find(task)
        timed = request.samples.x[draw_rows(len(request.samples), seed)[0]].arrays
        with boards.kept():
            sent = boards.send(_pack(bundle)), boards.send(timed)
            work = Work(boards, task, *sent, request, _keep(request), lost, progress)
            measured = measure_all(work, found)
            fingerprints = choose_all(work, measured)
            shared, notes = measure_shared(work, fingerprints)
    calibrations, are_stored = _certify_all(work, fingerprints, shared)
    if are_stored and not lost:  # else it is kept for who asks again
        work.kept.clear()
    files = {each.board.name: str(group.session.request.path) for group in fingerprints for each in group.boards}
    figures = compare_boards([each for each in measured if each.board.name not in lost])
    return FleetCalibration(
        calibrations=calibrations,
        boards=tuple(set_fields(each, calibration=files.get(each.name, "")) for each in figures),
        missing=lost,
        notes=tuple(notes),
    )


def _check_askable(bundle: Bundle, devices: Sequence[Devices], target: Target | Mapping[str, Target] | None) -> None:
    """Refuse what boards are not asked.

    Raises:
        UsageError: the network does not classify, `auto` is among the devices, or a target has the name of a point of the fleet.
    """
    if not bundle.manifest.classes:
        raise UsageError(
            f"The network answers with {', '.join(bundle.manifest.answer)}: fleets calibrate networks that classify. Calibrate "
            "it on a board of each kind."
        )
    if AUTO in [name for each in devices for name in ([each] if isinstance(each, str) else each)]:
        raise UsageError("Boards would choose different devices (auto): name the device.", device=AUTO)
    names = map(str, target) if isinstance(target, Mapping) else ()
    if named := [name for name in names if name.endswith(FLEET_SUFFIX)]:
        raise UsageError(
            f"Points of the whole fleet end in {FLEET_SUFFIX}: name the target {named[0]!r:.100} otherwise."
        )


def _pack(bundle: Bundle) -> bytes:
    """Return a bundle as the bytes of one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = bundle.path
        if bundle.packed is None:
            path = pack(bundle, Path(folder) / "sent.offramp").path
        return read_file(path, most=MOST_BUNDLE_BYTES)


def _keep(request: Request) -> Kept:
    """Return where messages are kept: by the samples, and by what runs where and how it is measured."""
    digests = [placed.variant.digest for placed in request.placed] + [request.reference_variant.digest]
    asked = [str(request.threads), str(request.fallback), str(request.seed), f"{request.measure_s:g}"]
    return Kept(
        request.resume_key({"offramp": __version__})
        | {"outputs": "fleet", "variants": " ".join(digests), "asked": " ".join(asked)}
    )


def _certify_all(
    work: Work, groups: Sequence[Alike], shared: Mapping[str, Shared]
) -> tuple[dict[str, Calibration], bool]:
    """Test what was chosen on the reporting samples, and store a calibration for each fingerprint; True if all were stored."""
    question, forgotten = ask(work.request)
    ours = certify_shared(work, groups, shared, question)
    calibrations, are_stored = {}, True
    for group, points in zip(groups, ours, strict=True):
        request = group.session.request
        found = make_points(
            group.chosen.picks,
            request.targets,
            group.chosen.choice.statics,
            confidence=request.confidence,
            every_s=request.pace.every_s,
            question=question,
            progress=work.progress,
        )
        names, here = ", ".join(each.board.name for each in group.boards), group.here.board.name
        notes = [
            f"Boards of this fingerprint in the fleet: {names:.2000}. The figures were measured on {here}.",
            *describe_question(question, request.confidence),
            *forgotten,
        ]
        calibration = describe_chosen(group.session, group.chosen, found | points, notes=notes)
        calibrations[str(request.path)], is_stored = store(calibration, request)
        are_stored &= is_stored
    return calibrations, are_stored
