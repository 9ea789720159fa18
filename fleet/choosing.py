"""What boards measured and what was chosen by it: kinds are recorded, boards measured, and each fingerprint gets its choice."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ..bundle.target import LOSS_LIMITS
from ..calibrate.measure.configurations import check_measured
from ..calibrate.pipeline import Chosen, choose_measured
from ..calibrate.requests import Request
from ..devices.fingerprints import HARD, SOFT
from ..errors import DataError, MeasurementError, TargetError
from .boards import FleetBoard, LostError
from .measuring import BoardSession, KindRecordings, MeasuredBoard, OtherAnswersError, measure_here
from .recording import Work, record_kind

__all__ = ["Alike", "ask_all", "choose_all", "limits_costs", "measure_all"]

Asked = TypeVar("Asked")
Result = TypeVar("Result")


class Alike(Struct, frozen=True):
    """The boards of one fingerprint, and what was chosen by one of them.

    Attributes:
        session: of the board that stands for all of them.
        here: that board.
        boards: all of them that were measured.
        chosen: what was chosen.
    """

    session: BoardSession
    here: MeasuredBoard
    boards: tuple[MeasuredBoard, ...]
    chosen: Chosen


def measure_all(work: Work, boards: Sequence[FleetBoard]) -> list[MeasuredBoard]:
    """Record each kind, and measure every board.

    Raises:
        MeasurementError: nothing came home.
    """
    request = work.request
    kinds: dict[tuple[str, ...], list[FleetBoard]] = {}
    for board in boards:
        kinds.setdefault(board.kind, []).append(board)

    def record_both(among: Sequence[FleetBoard]) -> KindRecordings:
        outside = None if request.outside is None else record_kind(work, among, request.outside)
        return KindRecordings(tuple(among), record_kind(work, among, request.samples), outside)

    recorded = dict(zip(kinds, ask_all(work, list(kinds.values()), record_both, "recording kinds"), strict=True))

    doubted = set[tuple[str, ...]]()

    def measure(board: FleetBoard) -> MeasuredBoard:
        recordings = recorded[board.kind]
        assert recordings is not None
        try:
            return measure_here(work, board, recordings)
        except OtherAnswersError:
            doubted.add(board.kind)
            raise

    there = [board for board in boards if recorded[board.kind] is not None and board.name not in work.lost]
    found = [each for each in ask_all(work, there, measure, "measuring boards") if each is not None]
    if doubted - {each.board.kind for each in found}:
        work.kept.clear()  # a broken board may have recorded what all others differ from
    if not found:
        raise MeasurementError(f"No board came home: {_list_lost(work.lost)}")
    for recordings in recorded.values():
        if first := next((each for each in found if each.recordings is recordings), None):
            check_measured(first.measured, request)
    return found


def _list_lost(lost: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in lost.items())


def choose_all(work: Work, measured: Sequence[MeasuredBoard]) -> list[Alike]:
    """Choose for each fingerprint, by its median board, or by the next one to it if that is lost; the slowest one stands first.

    Raises:
        TargetError: nothing meets a target on any board.
        MeasurementError: no board is left.
    """
    alike: list[list[MeasuredBoard]] = []
    for each in measured:
        group = next((group for group in alike if each.board.is_like(group[0].board)), None)
        if group is None:
            alike.append(group := [])
        group.append(each)
    confidence = 1 - (1 - work.request.confidence) / (len(alike) + 1)
    failures: list[DataError | TargetError] = []

    def choose(group: Sequence[MeasuredBoard]) -> Alike | None:
        request = _request_for(work.request, group[0].board, confidence)
        for here in _by_worth(group, request):
            try:
                session = BoardSession(work, request, here)
                chosen = choose_measured(session, here.measured, is_more_tried=False)
            except LostError as error:
                work.lost.setdefault(here.board.name, str(error))
            except (DataError, TargetError) as error:
                failures.append(error)
                work.lost.update({each.board.name: str(error) for each in group})
                return None
            else:
                return Alike(session, here, tuple(group), chosen)
        return None

    groups = [each for each in ask_all(work, alike, choose, "choosing") if each is not None]
    if not groups:
        raise failures[0] if failures else MeasurementError(f"No board came home: {_list_lost(work.lost)}")
    return sorted(groups, key=lambda group: -group.here.reference_s)


def _by_worth(group: Sequence[MeasuredBoard], request: Request) -> list[MeasuredBoard]:
    """Return boards in the order in which they stand for all: the slowest first if costs are limited, else the median."""
    falling = sorted(group, key=lambda each: -each.reference_s)
    if limits_costs(request):
        return falling
    middle = len(falling) // 2
    return sorted(falling, key=lambda each: abs(falling.index(each) - middle))


def limits_costs(request: Request) -> bool:
    """Return True if a target limits a cost, not only losses."""
    return any(name not in LOSS_LIMITS for target in request.targets.values() for name in target.limits)


def _request_for(request: Request, board: FleetBoard, confidence: float) -> Request:
    """Return the request of one fingerprint: its file is named after the chip, and after all fields that are compared."""
    fields = board.fingerprint
    compared = [f"{field}={fields.get(field, '')}" for field in (*HARD, *SOFT)]
    digest = hashlib.sha256("\n".join(compared).encode()).hexdigest()[:8]
    chip = re.sub("[^a-z0-9]+", "-", fields.get("soc", fields.get("architecture", "board")).lower()).strip("-")[:40]
    path = request.path.parent / f"{chip or 'board'}-{digest}.json"
    return replace(request, path=path, confidence=confidence)


def ask_all(work: Work, items: Sequence[Any], ask: Callable[[Any], Result], name: str) -> list[Result | None]:
    """Return what comes of each item, at the same time for all; None for boards that were lost, which are named."""
    results: list[Result | None] = [None] * len(items)
    pool = ThreadPoolExecutor(max(1, len(items)))
    try:
        for i, future in enumerate([pool.submit(ask, item) for item in items]):
            try:
                results[i] = future.result()
            except MeasurementError as error:
                _lose(work, items[i], error)
            work.progress(name, i + 1, len(items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return results


def _lose(work: Work, item: Any, error: MeasurementError) -> None:
    for board in item if isinstance(item, (list, tuple)) else [item]:
        named = board.board if isinstance(board, MeasuredBoard) else board
        work.lost.setdefault(named.name, str(error))
