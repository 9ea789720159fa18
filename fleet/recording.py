"""The answers of one kind of board to all samples, recorded in parts by all boards of the kind.

samples    [ part 0 ][ part 1 ][ part 2 ][ part 3 ] ...      each goes to one board, two at a time to each
boards         a         b         a         b               whoever is free takes the next; a part of a lost board goes on
tables     [          joined in the order of samples  ]      as if one board had recorded them all
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from ..bundle import Manifest
from ..calibrate.labels import SampleSet
from ..calibrate.measure.configurations import Answers
from ..calibrate.requests import Request
from ..errors import MeasurementError
from ..progress import Progress
from ..runtime import EveryExit
from ..runtime.chain.samples import Samples
from .board import BoardTask, record_samples, record_static
from .boards import KIND, Boards, FleetBoard, LostError, Sent
from .kept import Kept
from .messages import SentAnswers, SentRecording, decode, encode, read_answers

__all__ = ["KindAnswers", "Work", "part_samples", "read_recorded", "record_alone", "record_kind"]

MOST_SAMPLES, MOST_BYTES = 5000, 64 << 20
"""A part has at most so many samples, and bytes if that leaves one; a board holds `AT_ONCE` of them."""

AT_ONCE = 2
"""Parts that a board has: one that it records, and one that is on its way."""


class KindAnswers(Struct, frozen=True):
    """What each configuration of some kind of board answers to some samples.

    Attributes:
        places: of each configuration the variant's name and its placement.
        answers: of each configuration.
        reference: the reference's answers.
        reference_device: where it runs.
        notes: in words.
    """

    places: tuple[tuple[str, tuple[str, ...]], ...]
    answers: tuple[Answers, ...]
    reference: EveryExit
    reference_device: str
    notes: tuple[str, ...]


class Work(Struct, frozen=True):
    """A calibration of a fleet, under way.

    Attributes:
        boards: of the fleet.
        task, bundle, timed: what they are asked for, and what stands for the bundle, and for the samples they are measured with.
        request: the calibration.
        kept: what boards sent is kept there, and what they sent to an earlier run is taken from there.
        lost: why boards were lost, by their names.
        progress: is told what is being done.
    """

    boards: Boards
    task: BoardTask
    bundle: Sent
    timed: Sent
    request: Request
    kept: Kept
    lost: dict[str, str]
    progress: Progress


class _PartQuestion(NamedTuple):
    """What boards are asked of each part: the kind of message, the work, its last arguments, a check, and a key to keep it by."""

    kind: type
    work: Callable[..., bytes]
    behind: tuple[Any, ...]
    read: Callable[[Any, slice, str], Any]
    key: Mapping[str, str]


def part_samples(x: Samples) -> list[slice]:
    """Return the rows of parts of nearly equal size, in their order."""
    each = max(1, sum(array[0].nbytes for array in x.arrays))
    parts = -(-len(x) // max(1, min(MOST_SAMPLES, MOST_BYTES // each)))
    edges = np.linspace(0, len(x), parts + 1).round().astype(int).tolist()
    return [slice(first, last) for first, last in pairwise(edges)]


def record_kind(work: Work, among: Sequence[FleetBoard], samples: SampleSet) -> KindAnswers:
    """Record what boards of one kind answer to samples.

    Args:
        work: the calibration.
        among: the boards of the kind.
        samples: the samples.

    Raises:
        LostError: all boards of the kind are lost.
        MeasurementError: parts do not go together.
    """

    def read(message: SentRecording, rows: slice, board: str) -> KindAnswers:
        return read_recorded(message, rows.stop - rows.start, work.request.bundle.manifest, board)

    key = {"of": samples.sha256}  # the given samples, or as many from outside
    return _join(_ask_in_parts(work, among, samples.x, _PartQuestion(SentRecording, record_samples, (), read, key)))


def record_alone(work: Work, among: Sequence[FleetBoard], x: Samples, place: tuple[str, str, int]) -> EveryExit:
    """Record what a static network answers by itself; `place` is the variant's name, the device, and the exit at its end."""

    def read(message: SentAnswers, rows: slice, board: str) -> EveryExit:
        classes = work.request.bundle.manifest.classes
        return read_answers(message, samples=rows.stop - rows.start, exits=1, classes=classes, board=board)

    key = {"static": " ".join(map(str, place))}
    return _join_answers(_ask_in_parts(work, among, x, _PartQuestion(SentAnswers, record_static, (place,), read, key)))


def read_recorded(message: SentRecording, samples: int, manifest: Manifest, board: str) -> KindAnswers:
    """Return what was recorded, checked.

    Raises:
        MeasurementError: it does not fit the bundle or the samples.
    """
    names = {variant.name: len(variant.exits) for variant in manifest.variants}
    answers = []
    for sent in message.configurations:
        exits = names.get(sent.variant)
        if exits is None or len(sent.placement) != exits or len(sent.statics) != exits:
            raise MeasurementError(
                f"Board {board!r:.100} sent answers of what the bundle does not hold: {sent.variant!r:.100}."
            )
        chain, *statics = (
            read_answers(each, samples=samples, exits=of, classes=manifest.classes, board=board)
            for each, of in [(sent.chain, exits), *((static, 1) for static in sent.statics)]
        )
        answers.append(Answers(chain, tuple(statics)))
    reference = read_answers(message.reference, samples=samples, exits=1, classes=manifest.classes, board=board)
    places = tuple((sent.variant, sent.placement) for sent in message.configurations)
    return KindAnswers(places, tuple(answers), reference, message.reference_device, message.notes)


def _join(parts: Sequence[KindAnswers]) -> KindAnswers:
    """Return what was recorded in parts as one.

    Raises:
        MeasurementError: they are of other configurations.
    """
    first = parts[0]
    if any((part.places, part.reference_device) != (first.places, first.reference_device) for part in parts):
        raise MeasurementError(
            "Boards of one kind placed the network differently: give each stage its device (--place)."
        )
    answers = []
    for of_parts in zip(*(part.answers for part in parts), strict=True):
        statics = zip(*(each.statics for each in of_parts), strict=True)
        answers.append(Answers(_join_answers([each.chain for each in of_parts]), tuple(map(_join_answers, statics))))
    reference = _join_answers([part.reference for part in parts])
    return KindAnswers(first.places, tuple(answers), reference, first.reference_device, first.notes)


def _join_answers(parts: Sequence[EveryExit]) -> EveryExit:
    return EveryExit(np.concatenate([part.label for part in parts]), np.concatenate([part.score for part in parts]))


def _ask_in_parts(work: Work, among: Sequence[FleetBoard], x: Samples, question: _PartQuestion) -> list[Any]:
    """Return what boards make of each part of the samples, in their order."""
    parts = part_samples(x)
    kind = dict(zip(KIND, among[0].kind, strict=True))
    keys = [{**kind, **question.key, "samples": f"{rows.start} to {rows.stop} of {len(x)}"} for rows in parts]
    made: dict[int, Any] = {}

    def ask(board: FleetBoard, number: int) -> Any:
        rows = parts[number]
        arrays = x[rows].arrays
        message = work.boards.ask(board, question.kind, question.work, work.task, work.bundle, arrays, *question.behind)
        result = question.read(message, rows, board.name)
        work.kept.save(keys[number], encode(message))
        return result

    for number, rows in enumerate(parts):
        if (content := work.kept.load(keys[number])) is not None:
            made[number] = question.read(decode(content, question.kind, "cache"), rows, "cache")
    todo, alive = deque(number for number in range(len(parts)) if number not in made), list(among)
    pool, running = ThreadPoolExecutor(AT_ONCE * len(among)), dict[Future[Any], tuple[FleetBoard, int]]()
    try:
        while todo or running:
            busy = Counter(board.name for board, _ in running.values())
            for board in [*alive] * AT_ONCE:
                if todo and busy[board.name] < AT_ONCE:
                    busy[board.name] += 1
                    number = todo.popleft()
                    running[pool.submit(ask, board, number)] = board, number
            if not running:
                raise LostError(f"Every board of a kind was lost: {', '.join(board.name for board in among)}.")
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                board, number = running.pop(future)
                try:
                    made[number] = future.result()
                except MeasurementError as error:  # it has gone, or sent something else than answers
                    work.lost[board.name] = str(error)
                    alive = [other for other in alive if other is not board]
                    todo.appendleft(number)
            work.progress("recording", sum(parts[number].stop - parts[number].start for number in made), len(x))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [made[number] for number in range(len(parts))]
