"""What boards send home: bytes without code in them, which are checked before anything is computed with them.

Arrays travel as bytes, little-endian: labels int32, scores float32, seconds float64.
"""

from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct

from ..bundle.record import MOST_NAMED, Text, Texts
from ..calibrate.measure.tables import Costs
from ..errors import MeasurementError
from ..runtime import EveryExit
from ..runtime.chain.checks import LEAST_SCORE, MOST_SCORE

__all__ = [
    "Identity",
    "SentAnswers",
    "SentConfiguration",
    "SentCosts",
    "SentFigures",
    "SentRecording",
    "decode",
    "encode",
    "read_answers",
    "read_costs",
    "send_answers",
    "send_costs",
]

MOST = 1e12
"""No figure is larger: hertz, seconds, degrees."""

Figure = Annotated[float, Meta(ge=0, le=MOST)]
Duration = Annotated[float, Meta(gt=0, le=MOST)]
Temperature = Annotated[float, Meta(ge=-MOST, le=MOST)]

Message = TypeVar("Message", bound=Struct)

MOST_EXITS, MOST_CALLS = 10_000, 10_000_000
"""A network has no more exits, and no more calls are measured of one."""


class Identity(Struct, frozen=True):
    """What a board is: its fingerprint, its offramp, and what is wrong with it here; empty if nothing is."""

    fingerprint: Annotated[dict[Text, Text], Meta(max_length=MOST_NAMED)]
    offramp: Text
    problem: Text = ""


class SentAnswers(Struct, frozen=True):
    """The answers of a chain's exits, or of a static network, (samples, exits)."""

    exits: Annotated[int, Meta(ge=1, le=MOST_EXITS)]
    label: bytes
    score: bytes


class SentConfiguration(Struct, frozen=True):
    """A variant where it was placed, and what its chain and its static networks answered."""

    variant: Text
    placement: Texts
    chain: SentAnswers
    statics: tuple[SentAnswers, ...]


class SentRecording(Struct, frozen=True):
    """What every configuration answers to some samples, and the reference."""

    configurations: Annotated[tuple[SentConfiguration, ...], Meta(min_length=1, max_length=MOST_NAMED)]
    reference: SentAnswers
    reference_device: Text
    notes: Texts = ()


class SentCosts(Struct, frozen=True):
    """Latencies by exit, and how far they may be off."""

    times_s: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=MOST_EXITS)]
    noise: Figure
    machine_noise: Figure
    joined: bool = False


class MeasuredConfiguration(Struct, frozen=True):
    """What a configuration's chain and static networks cost, and what the reference took beside them."""

    variant: Text
    placement: Texts
    chain: SentCosts
    statics: tuple[SentCosts, ...]
    reference_s: Duration
    drifts_with_reference: bool


class SentFigures(Struct, frozen=True, kw_only=True):
    """What a board measured.

    Attributes:
        configurations: all of them; or nothing, if single runs were measured.
        runs: the costs of these, in their order.
        reference_s: latencies of the reference beside the runs.
        reference_parts_s: its latencies in parts of each measurement.
        clock_hz, temperature_c: before and after.
        throttled: what slowed the board down.
        max_clock_hz: the highest clock that is allowed, 0 if it is unknown.
        notes: in words.
        drawn: what it answers to drawn samples.
    """

    configurations: Annotated[tuple[MeasuredConfiguration, ...], Meta(max_length=MOST_NAMED)] = ()
    runs: Annotated[tuple[SentCosts, ...], Meta(max_length=MOST_NAMED)] = ()
    reference_s: bytes = b""
    reference_parts_s: Annotated[tuple[bytes, ...], Meta(max_length=MOST_NAMED)]
    clock_hz: tuple[Figure | None, Figure | None]
    temperature_c: tuple[Temperature | None, Temperature | None]
    throttled: Texts
    max_clock_hz: Figure
    notes: Texts = ()
    drawn: SentRecording | None = None


class Failure(Struct, frozen=True, tag=True):
    """Why a board could not do it."""

    reason: Text


class Done(Struct, frozen=True, tag=True):
    """What a board did, encoded."""

    content: msgspec.Raw


def encode(message: Struct) -> bytes:
    """Return a message as bytes."""
    return msgspec.msgpack.encode(message)


def decode(content: Any, kind: type[Message], board: str) -> Message:
    """Return a board's message.

    Raises:
        MeasurementError: it is none.
    """
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except (msgspec.DecodeError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise MeasurementError(f"Board {board!r:.100} sent what is no {kind.__name__}: {error!s:.200}") from None


def send_answers(answers: EveryExit) -> SentAnswers:
    """Return answers as they travel."""
    exits = answers.label.shape[1]
    return SentAnswers(exits, answers.label.astype("<i4").tobytes(), answers.score.astype("<f4").tobytes())


def read_answers(sent: SentAnswers, *, samples: int, exits: int, classes: int, board: str) -> EveryExit:
    """Return answers that were sent: int64 and float32 (samples, exits).

    Raises:
        MeasurementError: they are of other samples or exits, a label is no class, or a score is none.
    """
    size = 4 * samples * exits
    if sent.exits != exits or len(sent.label) != size or len(sent.score) != size:
        raise MeasurementError(
            f"Board {board!r:.100} sent answers of {sent.exits} exits in {len(sent.label)} and {len(sent.score)} bytes for "
            f"{samples} samples, where {exits} exits take {size} bytes each."
        )
    label = np.frombuffer(sent.label, "<i4").reshape(samples, exits).astype(np.int64)
    score = np.frombuffer(sent.score, "<f4").reshape(samples, exits).astype(np.float32)
    if size and (label.min() < 0 or label.max() >= classes):
        raise MeasurementError(f"Board {board!r:.100} sent a label that is none of the {classes} classes.")
    if not ((score >= LEAST_SCORE) & (score <= MOST_SCORE)).all():  # false for NaN
        raise MeasurementError(f"Board {board!r:.100} sent a score that is not from 0 to 1.")
    return EveryExit(label, score)


def send_seconds(seconds: np.ndarray) -> bytes:
    """Return times as they travel."""
    return seconds.astype("<f8").tobytes()


def read_seconds(content: bytes, board: str) -> np.ndarray:
    """Return times that were sent, float64.

    Raises:
        MeasurementError: there are none or too many, or one is not above 0 and at most `MOST`.
    """
    if not content or len(content) % 8 or len(content) > 8 * MOST_CALLS:
        raise MeasurementError(f"Board {board!r:.100} sent {len(content)} bytes of latencies, 8 for each.")
    seconds = np.frombuffer(content, "<f8").astype(np.float64)
    if not ((seconds > 0) & (seconds <= MOST)).all():  # false for NaN
        raise MeasurementError(f"Board {board!r:.100} sent a latency that is no time.")
    return seconds


def send_costs(costs: Costs) -> SentCosts:
    """Return costs as they travel."""
    return SentCosts(tuple(map(send_seconds, costs.times_s)), costs.noise, costs.machine_noise, costs.joined)


def read_costs(sent: SentCosts, *, exits: int, board: str) -> Costs:
    """Return costs that were sent.

    Raises:
        MeasurementError: they are of other exits, or no costs.
    """
    if len(sent.times_s) != exits:
        raise MeasurementError(f"Board {board!r:.100} sent the latencies of {len(sent.times_s)} exits, not of {exits}.")
    times_s = tuple(read_seconds(each, board) for each in sent.times_s)
    return Costs(times_s, noise=sent.noise, machine_noise=sent.machine_noise, joined=sent.joined)
