"""How often the same samples were asked for promises: each question spends a part of the chance of error.

Whoever asks until a promise comes out would get one by luck. So the chance of error belongs to the samples, and each further
question about the same network has a smaller part of it: all promises that some samples ever gave hold together.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct

from ...bundle import Bundle
from ...bundle.record import Count, Positive, encode_number
from ...errors import BundleError, MissingError, UsageError
from ...files import check_writable, lock_folder, os_errors_explained, write_atomically
from ...units import show_share
from ..requests import Request
from ..truth import Truth

FIRST_PART = 0.8
"""The first question's part of the chance of error. Of the rest the k-th has 1 / (k (k - 1)), which adds up to all of it."""

SKETCH_PART = 20
"""Of a data set one hash in so many is kept: the smallest ones, by which the overlap of two sets is estimated. Of 200 samples
that are taken from a larger set, ten are seen."""

SKETCH = 1000, 50_000
"""At least and at most so many hashes are kept of a data set."""

LEAST_OVERLAP = 0.05
"""Two data sets are the same samples if they share at least this part of the smaller one."""

MOST_BYTES = 1 << 24
"""The largest file of questions that is read. Before it grows larger, fewer hashes are kept of the largest data sets."""

MOST_WAIT_S = 10.0
"""The longest wait for another process that asks: it takes milliseconds, unless it was stopped."""

__all__ = ["are_same_samples", "ask", "check_remembered", "describe_question", "part_of_chance"]

Hash = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class _Samples(Struct, frozen=True):
    """A data set: how many different samples it has, and the smallest of their hashes, rising."""

    count: Positive
    smallest: Annotated[list[Hash], Meta(min_length=1, max_length=SKETCH[1])]


class _Question(Struct, frozen=True):
    """What was asked: its key, the digest of the reference, the key of the samples, and which question it was."""

    key: str
    reference: str
    samples: str
    number: Positive


class _Questions(Struct, frozen=True):
    """All questions to a bundle, and the samples by their keys."""

    schema: Count = 1
    questions: tuple[_Question, ...] = ()
    samples: dict[str, _Samples] = {}


def check_remembered(bundle: Bundle) -> None:
    """Refuse a bundle whose file of questions is damaged, before anything is measured.

    Raises:
        BundleError: it is damaged.
        MissingError: it cannot be read.
    """
    _read(bundle)


def ask(request: Request) -> tuple[int, tuple[str, ...]]:
    """Remember in the bundle what is asked of which samples.

    Returns:
        How many different questions about this network these samples, or some of them, were asked up to this one; and notes.
        The same question again keeps its number.

    Raises:
        BundleError: the file of questions is damaged.
    """
    path = _path(request.bundle)
    with _locked(path.parent):
        return _ask(request, path)


def _ask(request: Request, path: Path) -> tuple[int, tuple[str, ...]]:
    earlier, reference = _read(request.bundle), request.reference_variant.digest
    samples, key = _sketch(request.samples.hashes), _key(request)
    number = next((question.number for question in earlier.questions if question.key == key), None)
    if number is not None:
        return number, ()
    number = 1 + sum(
        question.reference == reference and _overlap(earlier.samples.get(question.samples), samples) >= LEAST_OVERLAP
        for question in earlier.questions
    )
    question = _Question(key, reference, request.samples.sha256, number)
    asked = _Questions(1, (*earlier.questions, question), {**earlier.samples, request.samples.sha256: samples})
    try:
        request.bundle.check_changeable("calibrations")
        check_writable(path)
        write_atomically(path, _encode(asked))
    except (MissingError, UsageError) as error:
        return number, (f"That these samples were asked could not be remembered in the bundle: {error}",)
    return number, ()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask from reading before this one has written, where the drive has locks."""
    lock, end_s = None, time.monotonic() + MOST_WAIT_S
    while True:
        try:
            folder.mkdir(exist_ok=True)
            lock = lock_folder(folder)
        except BlockingIOError:
            if time.monotonic() < end_s:
                time.sleep(0.02)
                continue
        except OSError:  # whoever writes there says so
            pass
        break
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def are_same_samples(first: Bundle, second: Bundle) -> bool | None:
    """Tell whether two bundles were asked about the same samples; None if what they remember does not tell.

    Raises:
        BundleError: a file of questions is damaged.
    """
    ours, theirs = (_samples_of(bundle) for bundle in (first, second))
    if not ours or not theirs:
        return None
    if len(ours) == len(theirs) == 1 and ours.keys() == theirs.keys():
        return True
    overlaps = [_overlap(one, other) for one in ours.values() for other in theirs.values()]
    return False if max(overlaps) < LEAST_OVERLAP else None


def _samples_of(bundle: Bundle) -> dict[str, _Samples]:
    """Return the data sets that were asked about the network that a bundle holds now, by their keys."""
    asked, reference = _read(bundle), bundle.manifest.variants[0].digest
    keys = {question.samples for question in asked.questions if question.reference == reference}
    return {key: samples for key, samples in asked.samples.items() if key in keys}


def part_of_chance(number: int) -> float:
    """Return which part of the chance of error a question has; all parts together are 1."""
    return FIRST_PART if number == 1 else (1 - FIRST_PART) / (number * (number - 1))


def describe_question(number: int, confidence: float) -> list[str]:
    """Say what it costs that samples were asked before."""
    if number == 1:
        return []
    part = (1 - confidence) * part_of_chance(number)
    return [
        f"These samples, or some of them, answered {number - 1} other question{'s' if number > 2 else ''} about this network "
        f"before. Their promises share a chance of error of {show_share(1 - confidence)}, of which this one has "
        f"{show_share(part)}: the more is asked (another seed, target, variant, device, pace or least gain, other groups, or "
        "more samples), the harder a promise is to get. The same question again is free, and new samples have a whole chance of "
        "error."
    ]


def _path(bundle: Bundle) -> Path:
    return bundle.path / "calibrations" / "asked.ledger"


def _read(bundle: Bundle) -> _Questions:
    path = _path(bundle)
    try:
        with os_errors_explained(path, "read"):
            try:
                content = bundle.read_file(path, most=MOST_BYTES)
            except FileNotFoundError:
                return _Questions()
        if len(content) > MOST_BYTES:
            raise msgspec.DecodeError(f"it is larger than {MOST_BYTES >> 20} MB")
        return msgspec.json.decode(content, type=_Questions)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BundleError(
            f"{path} does not hold the questions that samples were asked. Remove it, and promises count from the "
            "first question again.",
            path=path,
        ) from None


def _key(request: Request) -> str:
    """Return what makes two questions the same: all that decides what is chosen, but for what clock and meter read."""
    labels, outside = request.samples.y, request.outside
    parts = [
        request.samples.sha256,
        "" if labels is None else _hash_labels(labels),
        "" if outside is None else outside.sha256,
        {name: str(target) for name, target in request.targets.items()},
        [(str(placed), placed.variant.digest) for placed in request.placed],
        request.seed,
        request.confidence,
        request.least_gain,
        request.threads,
        request.pace.every_s,
        request.meter_name,
    ]
    if request.judging is not None:
        parts.append(request.judging.key)
    if request.groups is not None:
        parts.append(hashlib.sha256(request.groups.number.tobytes()).hexdigest())
    return hashlib.sha256(msgspec.json.encode(parts, enc_hook=encode_number)).hexdigest()


def _hash_labels(labels: "np.ndarray | Truth") -> str:
    return labels.sha256 if isinstance(labels, Truth) else hashlib.sha256(labels.tobytes()).hexdigest()


def _sketch(hashes: np.ndarray) -> _Samples:
    distinct = np.unique(hashes)
    kept = distinct[: min(max(SKETCH[0], len(distinct) // SKETCH_PART), SKETCH[1])]
    return _Samples(len(distinct), [f"{value:016x}" for value in kept.tolist()])


def _encode(asked: _Questions) -> bytes:
    """Return the file's content, small enough to be read again: the smaller half of a data set's hashes serves as all do."""
    while len(content := msgspec.json.encode(asked)) > MOST_BYTES:
        key, most = max(asked.samples.items(), key=lambda item: len(item[1].smallest))
        if len(most.smallest) == 1:
            break
        asked.samples[key] = _Samples(most.count, most.smallest[: len(most.smallest) // 2])
    return content


def _overlap(one: _Samples | None, other: _Samples) -> float:
    """Estimate which part of the smaller of two data sets is in the other: by the hashes that neither has cut off."""
    if one is None:
        return 0.0
    lasts = [each.smallest[-1] for each in (one, other) if each.count > len(each.smallest)]
    end = min(lasts, default="g")
    parts = [{value for value in each.smallest if value <= end} for each in (one, other)]
    fewer = min(len(part) for part in parts)
    return len(parts[0] & parts[1]) / fewer if fewer else 0.0
