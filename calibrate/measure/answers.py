"""The answers of every exit of the deployed engines to every sample; a calibration that was killed records none twice."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, process_time

import numpy as np

from ...devices.container import read_quota
from ...errors import DataError, UsageError
from ...progress import Progress
from ...runtime import EveryExit, Net
from ...runtime.chain.samples import Samples
from ..judging import Judge
from .resume import Part, Resume

__all__ = ["record_answers"]

SAMPLES_AT_ONCE = 100
"""Samples that are recorded between two looks at the clock."""

TOGETHER = 10
"""Samples that go through a stage together, where that gives the same answers in less time."""

MOST_TOGETHER_S = 5e-3
"""Samples that take longer alone stay alone: together they take memory that a board may lack."""

TRIED = 5 * TOGETHER
"""Samples by which it is seen whether that may pay."""

MOST_COPIES = 4
"""Networks that record at the same time, at most."""

MOST_ANSWER_BYTES = 100_000_000
"""Answers that are no labels take so much memory at most before they are judged, of all copies together."""

LEAST_SURE = 48
"""Samples that are compared because an exit is least sure of them, about."""

DRAWN = 300
"""Samples that are compared because they were drawn at random: if all are equal, less than 1 % of all differ, with 95 %
confidence (0.99^300 = 0.05)."""

LEAST_SAMPLES = 2 * DRAWN
"""With fewer samples a comparison or a copy costs more than it saves."""


def record_answers(
    net: Net,
    x: Samples,
    *,
    progress: Progress,
    threads: int = 1,
    resume: Resume | None = None,
    part: Part | None = None,
    save_s: float = 10.0,
    like: EveryExit | None = None,
    judge: Judge | None = None,
) -> EveryExit:
    """Return what every exit answers to every sample when it goes through by itself, as a product asks.

    On the processor samples go through together where that takes less time and gives drawn ones the same answers, to the last
    bit. If it has several cores, copies of the network record at the same time.

    Args:
        net: the chain, or a static network.
        x: the samples.
        progress: is told after each hundred samples.
        threads: those that the network runs on.
        resume, part: answers recorded so far are stored in `resume` under the name `part`, and those of an earlier run are taken
            from there; None stores nothing.
        save_s: seconds between two saves. Recordings shorter than a tenth of this are not stored: they spare the disk.
        like: answers of another network, which are returned if this one gives exactly the same to some of the samples: to those
            of which it should be least sure, and to 300 drawn at random.
        judge: keeps losses and disagreements of the answers of a network that does not classify.

    Raises:
        DataError: a score is not a number.
    """
    stored = None if resume is None or part is None else resume.load(part)
    if like is not None and judge is None and stored is None and len(x) >= LEAST_SAMPLES and _answers_so(net, x, like):
        progress("recording", len(x), len(x))
        return like
    label, score = np.empty((len(x), len(net.exits)), np.int64), np.empty((len(x), len(net.exits)), np.float32)
    kept: dict[str, np.ndarray] = {}
    done = _restore(stored, label, score, kept)
    last_save_s = monotonic()
    for rows, answers in _record(net, x, done, threads, judge):
        label[rows], score[rows] = answers.label, answers.score
        for name in (answers.answers or ({},))[0]:
            values = np.stack([part[name] for part in answers.answers or ()], 1)
            kept.setdefault(name, np.empty(score.shape, np.float32))[rows] = values
        progress("recording", rows.stop, len(x))
        if (
            resume is not None
            and part is not None
            and monotonic() - last_save_s > save_s / (10 if rows.stop == len(x) else 1)
        ):
            resume.save(part, _dump(label, score, kept, rows.stop))
            last_save_s = monotonic()
    parts = tuple({name: values[:, k] for name, values in kept.items()} for k in range(len(net.exits)))
    return EveryExit(label, score, None, parts if kept else None)


def _record(net: Net, x: Samples, done: int, threads: int, judge: Judge | None) -> Iterator[tuple[slice, EveryExit]]:
    """Yield the answers to each hundred samples behind the first ones, which are done, in their order."""
    count = _samples_at_once(net, x) if judge is not None and done < len(x) else SAMPLES_AT_ONCE
    size = _find_size(net, x, len(x) - done) if judge is None else 1
    parts = [slice(first, min(first + count, len(x))) for first in range(done, len(x), count)]

    def ask(net: Net, rows: slice) -> EveryExit:
        try:
            fits = (rows.stop - rows.start) % size == 0  # fewer together were not compared
            answers = net.every_exit(x[rows], size=size if fits else 1)
        except DataError as error:
            raise DataError(f"Counted from sample {rows.start} on: {error}") from error
        return answers if judge is None else judge.judge(x, rows, answers)

    with ExitStack() as stack:
        nets = [net, *(_copy(net, threads, stack) if len(x) - done >= LEAST_SAMPLES else [])]
        run = map if len(nets) == 1 else stack.enter_context(ThreadPoolExecutor(len(nets))).map
        for first in range(0, len(parts), len(nets)):
            at_once = parts[first : first + len(nets)]
            yield from zip(at_once, run(ask, nets, at_once), strict=True)


def _find_size(net: Net, x: Samples, count: int) -> int:
    """Return how many of `count` samples go through together: 10, if it takes less time and the answers are equal; else 1."""
    if count < LEAST_SAMPLES or not _is_on_processor(net):
        return 1
    drawn = np.random.default_rng(0).choice(len(x), DRAWN, replace=False)
    try:
        start = process_time()
        net.every_exit(x[drawn[:TOGETHER]])
        if process_time() - start > TOGETHER * MOST_TOGETHER_S:
            return 1
        net.every_exit(x[drawn[:TOGETHER]], size=TOGETHER)  # the first call allocates
        for rows in (drawn[:TRIED], drawn[TRIED:]):
            start = process_time()
            alone = net.every_exit(x[rows])
            middle = process_time()
            together = net.every_exit(x[rows], size=TOGETHER)
            alone_s, together_s = middle - start, process_time() - middle
            saves = count * (alone_s - together_s) > DRAWN * (alone_s + together_s)  # which comparing takes
            if not saves or not _are_equal(alone, together):
                return 1
    except DataError:  # it is said, with the sample's number, when that is recorded
        return 1
    return TOGETHER


def _samples_at_once(net: Net, x: Samples) -> int:
    """Return how many samples' answers fit into `MOST_ANSWER_BYTES` with those of all copies."""
    answers = net.every_exit(x[0:1]).answers or ()
    each = sum(part.nbytes for answer in answers for part in answer.values())
    return max(1, min(SAMPLES_AT_ONCE, MOST_ANSWER_BYTES // max(1, MOST_COPIES * each)))


def _copy(net: Net, threads: int, stack: ExitStack) -> list[Net]:
    """Return as many copies of a network as find cores of their own; none if it does not run on the processor alone."""
    if not _is_on_processor(net):
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(MOST_COPIES, int(min(cores, read_quota(Path("/")) or cores)) // threads)
    try:
        return [stack.enter_context(net.clone()) for _ in range(count - 1)]
    except UsageError:  # its engine allows none
        return []


def _is_on_processor(net: Net) -> bool:
    return all(device.rpartition(":")[2].lower() == "cpu" for device in net.provenance.devices)


def _answers_so(net: Net, x: Samples, answers: EveryExit) -> bool:
    """Return True if a network gives these answers to the samples of which each exit was least sure, and to some drawn ones."""
    each = max(4, LEAST_SURE // answers.score.shape[1])
    unsure = np.unique(np.argsort(answers.score, axis=0)[:each])
    drawn = np.sort(np.random.default_rng(0).choice(len(x), DRAWN, replace=False))
    return all(
        _are_equal(net.every_exit(x[rows]), EveryExit(answers.label[rows], answers.score[rows]))
        for rows in (unsure, drawn)
    )


def _are_equal(one: EveryExit, other: EveryExit) -> bool:
    return np.array_equal(one.label, other.label) and np.array_equal(one.score, other.score)


def _dump(label: np.ndarray, score: np.ndarray, kept: dict[str, np.ndarray], done: int) -> bytes:
    file = io.BytesIO()
    arrays = {"label": label.astype(np.int32), "score": score} | kept
    np.savez(file, **{name: array[:done] for name, array in arrays.items()})  # type: ignore[arg-type]
    return file.getvalue()


def _restore(content: bytes | None, label: np.ndarray, score: np.ndarray, kept: dict[str, np.ndarray]) -> int:
    """Put answers of an earlier run into place; return how many samples they cover."""
    if content is None:
        return 0
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        done = len(file["score"])
        label[:done], score[:done] = file["label"], file["score"]
        for name in set(file.files) - {"label", "score"}:
            kept[name] = np.empty(score.shape, np.float32)
            kept[name][:done] = file[name]
    return done
