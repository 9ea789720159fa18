"""What boards measured, as a calibration takes it; and a session that lets a board measure again what was chosen."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from msgspec import Struct

from ..bundle import Variant
from ..bundle.calibration import Conditions
from ..calibrate.measure.configurations import Configuration, Measurements, Reference
from ..calibrate.measure.noise import describe_drift
from ..calibrate.measure.resume import Part
from ..calibrate.measure.session import TIMED_SAMPLES, Run, Session
from ..calibrate.measure.tables import Costs
from ..calibrate.requests import Request
from ..errors import MeasurementError
from ..runtime import EveryExit, Net
from ..runtime.chain.samples import Samples
from ..runtime.selection import packages_of
from .board import measure_board, measure_runs
from .boards import FleetBoard
from .messages import SentFigures, decode, encode, read_costs, read_seconds
from .recording import KindAnswers, Work, read_recorded, record_alone

__all__ = ["BoardSession", "KindRecordings", "MeasuredBoard", "OtherAnswersError", "draw_rows", "measure_here"]

DRAWN = 300
"""Samples by which it is seen that a board answers as its kind does: if all are equal, less than 1 % of all differ, with 95 %
confidence (0.99^300 = 0.05)."""

Key = TypeVar("Key")


class OtherAnswersError(MeasurementError):
    """A board answers otherwise than its kind was recorded."""


class KindRecordings(Struct, frozen=True):
    """What one kind of board answers to the given samples, and to those from outside if there are any."""

    boards: tuple[FleetBoard, ...]
    given: KindAnswers
    outside: KindAnswers | None


class MeasuredBoard(Struct, frozen=True):
    """A board with what it measured, and with what its kind answers.

    Attributes:
        board: the board.
        message: what it sent.
        measured: its costs, with the answers of its kind.
        recordings: of its kind.
    """

    board: FleetBoard
    message: SentFigures
    measured: Measurements
    recordings: KindRecordings

    @property
    def reference_s(self) -> float:
        """The median latency of the reference there."""
        return self.measured.reference.latency_s

    def latencies_s(self) -> np.ndarray:
        """Return the mean latency of every exit of every chain, float64 (exits of all,)."""
        return np.concatenate([each.chain.latency_s for each in self.measured.configurations])


def draw_rows(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples that are measured with, and those that show whether a board answers as its kind does."""
    rng = np.random.default_rng(seed)
    return tuple(np.sort(rng.permutation(samples)[:most]) for most in (TIMED_SAMPLES, DRAWN))  # type: ignore[return-value]


def measure_here(work: Work, board: FleetBoard, recordings: KindRecordings) -> MeasuredBoard:
    """Measure every configuration on a board, and see that it answers as its kind does.

    Raises:
        LostError: the board has gone, or could not do it.
        OtherAnswersError: it answers otherwise than its kind.
        MeasurementError: it sent something else than measurements.
    """
    request = work.request
    x, key = request.samples.x, {"board": board.name, **board.fingerprint}
    key.pop("temperature", None)
    _, drawn = draw_rows(len(x), request.seed)
    if (content := work.kept.load(key)) is not None:
        message = decode(content, SentFigures, board.name)
    else:
        message = work.boards.ask(
            board, SentFigures, measure_board, work.task, work.bundle, work.timed, x[drawn].arrays
        )
    measured = _read(message, board, request, recordings)
    _check_drawn(message, board, request, recordings.given, drawn)
    if content is None:
        work.kept.save(key, encode(message))
    return MeasuredBoard(board, message, measured, recordings)


def _read(message: SentFigures, board: FleetBoard, request: Request, recordings: KindRecordings) -> Measurements:
    """Return a board's measurements, with the answers of its kind."""
    given, outside = recordings.given, recordings.outside
    places = tuple((each.variant, each.placement) for each in message.configurations)
    if places != given.places:
        raise MeasurementError(f"Board {board.name!r:.100} measured other networks than its kind was recorded with.")
    found = []
    for i, sent in enumerate(message.configurations):
        exits = given.answers[i].chain.label.shape[1]
        if len(sent.statics) != exits:
            raise MeasurementError(f"Board {board.name!r:.100} sent {len(sent.statics)} static networks of {exits}.")
        found.append(
            Configuration(
                variant=_find_variant(request, sent.variant),
                placement=sent.placement,
                answers=given.answers[i],
                outside_answers=None if outside is None else outside.answers[i],
                chain=read_costs(sent.chain, exits=exits, board=board.name),
                statics=tuple(read_costs(static, exits=1, board=board.name) for static in sent.statics),
                reference_s=sent.reference_s,
                drifts_with_reference=sent.drifts_with_reference,
            )
        )
    same = (
        each
        for each in found
        if each.variant is request.reference_variant and each.placement[-1] == given.reference_device
    )
    reference = Reference(
        device=given.reference_device,
        answers=given.reference,
        outside_answers=None if outside is None else outside.reference,
        configuration=next(same, None),
        latency_s=found[-1].reference_s,
    )
    return Measurements(tuple(found), reference)


def _check_drawn(
    message: SentFigures, board: FleetBoard, request: Request, given: KindAnswers, drawn: np.ndarray
) -> None:
    """Refuse a board that answers otherwise than its kind: its figures would stand beside another network's promises."""
    if message.drawn is None:
        raise MeasurementError(f"Board {board.name!r:.100} sent no answers to the drawn samples.")
    own = read_recorded(message.drawn, len(drawn), request.bundle.manifest, board.name)
    pairs = [
        (own.reference, given.reference),
        *((ours.chain, theirs.chain) for ours, theirs in zip(own.answers, given.answers, strict=False)),
    ]
    for ours, theirs in pairs:
        if not (np.array_equal(ours.label, theirs.label[drawn]) and np.array_equal(ours.score, theirs.score[drawn])):
            raise OtherAnswersError(
                f"It answers otherwise than the boards of its kind, to {len(drawn)} drawn samples: calibrate it by itself. If "
                "all of them are said to, end the one that is broken."
            )


def _find_variant(request: Request, name: str) -> Variant:
    """Return a variant of the bundle, the same object each time."""
    return next(variant for variant in request.bundle.manifest.variants if variant.name == name)


class BoardSession(Session):
    """A session whose networks run on a board.

    Args:
        work: the calibration of the fleet.
        request: as it is for this board.
        here: the board, with what it measured.
    """

    def __init__(self, work: Work, request: Request, here: MeasuredBoard) -> None:
        self.request, self.placed = request, request.placed
        self._work, self._here, self._message = work, here, here.message
        self.notes = list(dict.fromkeys([*here.recordings.given.notes, *here.message.notes]))
        self.reference_device = here.measured.reference.device
        self.reference_parts_s = _read_parts(here.message, here.board)
        self._again: list[SentFigures] = []

    def record(self, net: Net, x: Samples, part: Part, *, like: EveryExit | None = None) -> EveryExit:
        """Return what a static network answers by itself, recorded by the boards of this kind."""
        assert part.static is not None
        configuration = self._here.measured.reference.configuration
        if (
            configuration is not None
            and part.variant is configuration.variant
            and part.placement == configuration.placement
            and part.static == len(part.variant.exits) - 1
        ):
            return self._here.measured.reference.answers
        place = part.variant.name, part.placement[part.static], part.static
        return record_alone(self._work, self._here.recordings.boards, x, place)

    def open_static(self, variant: Variant, device: str, exit_: int) -> Net:
        """Return nothing: the network runs on the board."""
        return None  # type: ignore[return-value]

    def measure_runs(self, runs: Mapping[Key, Run], *, seconds: float) -> tuple[dict[Key, Costs], np.ndarray]:
        """Let the board measure."""
        message, costs = ask_runs(self._work, self._here, list(runs.values()), self.reference_parts_s, seconds)
        self.reference_parts_s = _read_parts(message, self._here.board)
        self._again.append(message)
        return dict(zip(runs, costs, strict=True)), read_seconds(message.reference_s, self._here.board.name)

    def try_pauses(self) -> list[str]:
        """Return nothing: the board tried it while it measured."""
        return []

    def describe_drift(self) -> list[str]:
        """Say in a note how far the board's speed changed."""
        return describe_drift(self.reference_parts_s)

    def conditions(self) -> Conditions:
        """Return the board's state when it began, and when it had measured last."""
        first, last = self._message, [self._message, *self._again][-1]
        throttled = [cause for each in (first, *self._again) for cause in each.throttled]
        return Conditions(
            (first.clock_hz[0], last.clock_hz[1]),
            (first.temperature_c[0], last.temperature_c[1]),
            tuple(dict.fromkeys(throttled)),
        )

    def fingerprint(self, devices: Sequence[str]) -> dict[str, str]:
        """Return the board's fingerprint, with the software behind some of the devices."""
        fields = dict(self._here.board.fingerprint)
        versions = {each.rpartition(" ")[0]: each for each in fields.get("engine", "").split(", ")}
        wanted = [versions.get(package, "") for package in packages_of(list(devices))]
        return fields | {"engine": ", ".join(text for text in wanted if text)}


def ask_runs(
    work: Work, here: MeasuredBoard, runs: Sequence[Run], parts_s: list[np.ndarray], seconds: float
) -> tuple[SentFigures, list[Costs]]:
    """Let a board measure some runs side by side; return its message, and the costs of each."""
    message = work.boards.ask(
        here.board, SentFigures, measure_runs, work.task, work.bundle, work.timed, tuple(runs), parts_s, seconds
    )
    if len(message.runs) != len(runs):
        raise MeasurementError(f"Board {here.board.name!r:.100} measured {len(message.runs)} of {len(runs)} networks.")
    exits = [1 if run.static is not None else len(run.variant.exits) for run in runs]
    costs = [
        read_costs(sent, exits=count, board=here.board.name) for sent, count in zip(message.runs, exits, strict=True)
    ]
    return message, costs


def _read_parts(message: SentFigures, board: FleetBoard) -> list[np.ndarray]:
    return [read_seconds(each, board.name) for each in message.reference_parts_s]
