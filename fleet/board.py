"""What runs on a board. It gets a bundle and inputs, never labels, and sends answers and latencies home."""

import hashlib
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Raw, Struct
from msgspec.structs import replace

from .. import __version__
from ..bundle import Target, open_bundle
from ..calibrate.labels import hash_set
from ..calibrate.measure.answers import record_answers
from ..calibrate.measure.configurations import Answers, Configuration, measure_configuration, record_all
from ..calibrate.measure.session import Run, Session
from ..calibrate.pace import Pace
from ..calibrate.requests import Devices, Request, choose_variants, place_variants
from ..devices import fingerprint, identify
from ..errors import OfframpError
from ..files import write_atomically
from ..progress import no_progress
from ..runtime import load_static
from ..runtime.chain.samples import Samples
from ..runtime.selection import packages_of
from .messages import (
    Done,
    Failure,
    Identity,
    MeasuredConfiguration,
    SentAnswers,
    SentConfiguration,
    SentFigures,
    SentRecording,
    encode,
    send_answers,
    send_costs,
    send_seconds,
)

__all__ = ["BoardTask", "identify_board", "measure_board", "measure_runs", "record_samples", "record_static"]


class BoardTask(Struct, frozen=True, kw_only=True):
    """What boards are asked for, as of `calibrate`.

    Attributes:
        devices: the devices that were named.
        variants: names; None for all.
        threads, fallback, seed, measure_s, every_s: as for `calibrate`.
        targets: by the names of their points.
    """

    devices: tuple[Devices, ...]
    variants: tuple[str, ...] | None
    threads: int
    fallback: str | None
    seed: int
    measure_s: float
    every_s: float | None
    targets: dict[str, Target]

    @property
    def names(self) -> list[str]:
        """The names of all devices."""
        return [name for each in self.devices for name in ([each] if isinstance(each, str) else each)]


def identify_board(task: BoardTask) -> bytes:
    """Say what this board is; see `Identity`."""
    try:
        fields = fingerprint(packages=packages_of(task.names), threads=task.threads)
    except OfframpError as error:
        return encode(Identity(fingerprint(threads=task.threads), __version__, str(error)))
    return encode(Identity(fields, __version__))


def record_samples(task: BoardTask, bundle: bytes, arrays: tuple[np.ndarray, ...]) -> bytes:
    """Record what every exit of every configuration answers to some samples; see `SentRecording`."""
    return _answer(lambda: _record(task, bundle, arrays))


def record_static(task: BoardTask, bundle: bytes, arrays: tuple[np.ndarray, ...], place: tuple[str, str, int]) -> bytes:
    """Record what a static network answers by itself: of a variant by its name, on a device, to an exit; see `SentAnswers`."""
    variant, device, exit_ = place

    def answer() -> SentAnswers:
        request = _make_request(task, bundle, arrays)
        with load_static(request.bundle, device, variant=variant, exit=exit_, threads=task.threads) as net:
            answers = record_answers(net, request.samples.x, progress=no_progress, threads=task.threads)
        return send_answers(answers)

    return _answer(answer)


def measure_board(
    task: BoardTask, bundle: bytes, timed: tuple[np.ndarray, ...], drawn: tuple[np.ndarray, ...]
) -> bytes:
    """Measure what every configuration costs here, and record what it answers to drawn samples; see `SentFigures`."""

    def measure() -> SentFigures:
        recorded = _record(task, bundle, drawn)
        with Session(_make_request(task, bundle, timed)) as session:
            nothing = Answers(None, ()), None  # type: ignore[arg-type]
            found = [measure_configuration(session, each, recorded=nothing) for each in session.open_each()]
            pauses = session.try_pauses()
            sent = tuple(map(_send_configuration, found))
            return _describe(session, configurations=sent, notes=(*session.notes, *pauses), drawn=recorded)

    return _answer(measure)


def measure_runs(
    task: BoardTask,
    bundle: bytes,
    timed: tuple[np.ndarray, ...],
    runs: tuple[Run, ...],
    parts_s: list[np.ndarray],
    seconds: float,
) -> bytes:
    """Measure some runs side by side; see `SentFigures`.

    Args:
        task, bundle, timed: as for `measure_board`.
        runs: the runs, chains first. Their variants are known by name.
        parts_s: the reference's latencies in parts of earlier measurements.
        seconds: how long.
    """

    def measure() -> SentFigures:
        request = _make_request(task, bundle, timed)
        with Session(request) as session:
            session.reference_parts_s.extend(parts_s)
            here = {i: _find_variant(run, request) for i, run in enumerate(runs)}
            costs, reference_s = session.measure_runs(here, seconds=seconds)
            return _describe(
                session, runs=tuple(send_costs(costs[i]) for i in here), reference_s=send_seconds(reference_s)
            )

    return _answer(measure)


def _answer(work: Callable[[], Struct]) -> bytes:
    """Return what some work returns; or why it failed, in words, since an exception would travel as code."""
    try:
        return encode(Done(Raw(encode(work()))))
    except OfframpError as error:
        return encode(Failure(str(error)))


def _find_variant(run: Run, request: Request) -> Run:
    return replace(run, variant=request.bundle.variant(run.variant.name))


def _make_request(task: BoardTask, content: bytes, arrays: tuple[np.ndarray, ...]) -> Request:
    """Return the request of a session on this board: as on any, but nothing is chosen or stored here."""
    path = _keep_bundle(content)
    bundle, samples = open_bundle(path), Samples(tuple(arrays))
    variants = choose_variants(bundle, task.variants)
    return Request(
        bundle=bundle,
        samples=hash_set(samples, None),
        outside=None,
        order=np.arange(len(samples)),
        selecting=0,
        targets=task.targets,
        confidence=0.5,
        least_gain=0.0,
        placed=place_variants(variants, task.devices),
        devices=task.devices,
        is_variant_named=task.variants is not None,
        threads=task.threads,
        fallback=task.fallback,
        meter=None,
        keep=None,
        path=path,
        is_path_named=True,
        replace=False,
        seed=task.seed,
        rng=np.random.default_rng(task.seed),
        measure_s=task.measure_s,
        pace=Pace(task.every_s),
        save_s=math.inf,
        progress=no_progress,
        notes=(),
        judging=None,
    )


def _keep_bundle(content: bytes) -> Path:
    """Return the file that holds a bundle, which is written once: in the folder of the Dask worker, which goes with it."""
    try:
        from distributed import get_worker

        folder = Path(get_worker().local_directory)
    except (ImportError, ValueError):  # called without Dask
        folder = Path(tempfile.mkdtemp())
    path = folder / f"{hashlib.sha256(content).hexdigest()}.offramp"
    if not path.exists():
        write_atomically(path, content)
    return path


def _record(task: BoardTask, bundle: bytes, arrays: tuple[np.ndarray, ...]) -> SentRecording:
    with Session(_make_request(task, bundle, arrays)) as session:
        recorded, reference = record_all(session)
        session.resume.clear()
    return SentRecording(
        tuple(
            SentConfiguration(
                loaded.variant.name,
                loaded.placement,
                send_answers(answers.chain),
                tuple(map(send_answers, answers.statics)),
            )
            for loaded, answers in recorded
        ),
        send_answers(reference),
        session.reference_device,
        tuple(session.notes),
    )


def _send_configuration(configuration: Configuration) -> MeasuredConfiguration:
    return MeasuredConfiguration(
        configuration.variant.name,
        configuration.placement,
        send_costs(configuration.chain),
        tuple(map(send_costs, configuration.statics)),
        configuration.reference_s,
        configuration.drifts_with_reference,
    )


def _describe(session: Session, **figures: Any) -> SentFigures:
    conditions = session.conditions()
    return SentFigures(
        reference_parts_s=tuple(map(send_seconds, session.reference_parts_s)),
        clock_hz=conditions.clock_hz,
        temperature_c=conditions.temperature_c,
        throttled=conditions.throttled,
        max_clock_hz=max(identify().max_clock_hz.values(), default=0.0),
        **figures,
    )
