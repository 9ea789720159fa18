"""One trial of a sweep, brought to a rung: trained, exported in all forms, and recorded. This is what a worker runs."""

import contextlib
import io
import itertools
import os
import random
import re
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import asdict, replace

from ..bundle import Bundle
from ..calibrate.labels import check_labelled
from ..calibrate.measure.latency import forced_latencies
from ..calibrate.named_sources import load_batches, load_network, load_samples
from ..calibrate.sample_files import labelled
from ..calibrate.user_code import executing
from ..errors import DataError, MissingError, OfframpError, UsageError, require
from ..files import os_errors_explained, remove_tree, write_atomically
from ..runtime.loading import load_uncalibrated
from .settings import Choices, Settings
from .table import RunFigures, TrialRow, list_versions, name_trial, read_rows, write_rows

if TYPE_CHECKING:
    import torch

__all__ = [
    "CHECKPOINT_FILE",
    "SETTINGS_FILE",
    "TRIAL_BUNDLE",
    "StoredSweep",
    "read_stored",
    "rows_file",
    "run_trial",
    "trial_folder",
]

SETTINGS_FILE, TRIAL_BUNDLE, CHECKPOINT_FILE = "sweep.json", "bundle.offramp", "checkpoint.pt"

MOST_FOR_RANGES = 512
"""So many of the training samples find the ranges of int8."""

LATENCY_S = 0.1
"""Seconds for which latencies are measured, roughly."""

_one_at_a_time = threading.Lock()
"""Trials seed the random generators of the process, and set torch's threads: a worker with several threads runs one trial."""


class StoredSweep(msgspec.Struct, frozen=True):
    """What a sweep's folder says of it: its file, and the folder from which the file's names are read."""

    settings: Settings
    base: str


def read_stored(folder: Path) -> StoredSweep:
    """Read what a sweep's folder says of it.

    Raises:
        MissingError: it is not there, as on a machine that does not share the folder.
        DataError: it cannot be read by this version.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise MissingError(
            f"{socket.gethostname()} has no {path}. Workers share the sweep's folder, and the files that it names, by the same "
            "paths.",
            path=path,
        )
    with os_errors_explained(path, "read"):
        content = path.read_bytes()
    try:
        return msgspec.json.decode(content, type=StoredSweep)
    except msgspec.DecodeError as error:
        raise DataError(f"{path} is of no sweep: {error}. Name another folder as out.", path=path) from error


def trial_folder(folder: Path, number: int) -> Path:
    """Return the folder of a trial within that of its sweep."""
    return folder / "trials" / name_trial(number)


def rows_file(own: Path, rung: int) -> Path:
    """Return the file that holds a trial's rows of a rung, once it has been there."""
    return own / f"rung{rung}.jsonl"


def run_trial(folder: str, number: int, rung: int) -> list[TrialRow]:
    """Bring a trial to a rung, and return a row for each of its forms; what an earlier run has done is not done again.

    Args:
        folder: the sweep's, as this machine sees it.
        number: of the trial.
        rung: the trial has been at all lower ones.

    Raises:
        MissingError: the folder, a package, memory or disk space is missing. Other errors of offramp's make the trial a failed
            one, since they may come of what it takes of the space.
    """
    root = Path(folder)
    stored, own = read_stored(root), trial_folder(root, number)
    with os_errors_explained(own, "write"):
        own.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time, _locked(own):
        path = rows_file(own, rung)
        if path.exists():
            return read_rows(path)
        row = TrialRow(
            trial=number,
            rung=rung,
            epochs=stored.settings.list_rungs()[rung].epochs,
            choices=stored.settings.list_trials()[number],
            seed=stored.settings.seed,
            versions=list_versions(),
        )
        try:
            rows = _Trial(stored, own, row).run()
        except MissingError:
            raise
        except OfframpError as error:
            rows = [replace(row, failed=str(error))]
        write_rows(path, rows)
        return rows


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until nobody else is at this trial: a worker whose scheduler has gone trains on until it is done."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _Trial:
    """A trial at work in its folder; `row` says which, and to which epoch."""

    def __init__(self, stored: StoredSweep, folder: Path, row: TrialRow) -> None:
        self.settings, self.base, self.folder, self.row = stored.settings, Path(stored.base), folder, row

    def run(self) -> list[TrialRow]:
        """Train, export and record; return a row for each form."""
        torch = require("torch", extra="export")
        start, threads = time.monotonic(), torch.get_num_threads()
        torch.set_num_threads(1)  # sums depend on how many threads share them
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of each of hundreds of trials; the table shows what a form loses
                network, batches, loss = self._train(torch)
                bundle = self._export(network, batches)
                return self._record(bundle, loss, start)
        finally:
            torch.set_num_threads(threads)

    def _source(self, name: str) -> str:
        return str(self.base / name)

    def _train(self, torch: Any) -> tuple["torch.nn.Module", Any, tuple[float, ...]]:
        """Make the network and train it; return it with its batches, and the loss of each exit in the last epoch."""
        from ..export import train

        settings, choices = self.settings, self.row.choices
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(settings.seed)
        network = load_network(self._source(settings.network))
        if not isinstance(network, torch.nn.Module):
            raise UsageError(f"{settings.network} gives a {type(network).__name__}, not a torch.nn.Module.")
        source = self._source(settings.data)
        batches = load_batches(source, None, batch=settings.batch, seed=settings.seed)
        teacher = None if choices.teacher is None else load_network(self._source(choices.teacher))
        with executing(source):  # batches may be a generator's
            network = self._shape(network, batches, choices)
            history = train(
                network,
                batches,
                epochs=settings.epochs,
                until=self.row.epochs,
                recipe=choices.recipe,
                teacher=teacher,
                weights=choices.weights,
                lr=choices.lr,
                weight_decay=choices.weight_decay,
                label_smoothing=choices.label_smoothing,
                device=settings.train_on,
                checkpoint=self.folder / CHECKPOINT_FILE,
            )
        return network, batches, history.epochs[-1].loss

    def _shape(self, network: "torch.nn.Module", batches: Any, choices: Choices) -> "torch.nn.Module":
        """Add exits to the network and prune it, as the trial takes it."""
        from ..export import attach, prune

        if choices.attach is None and choices.prune is None:
            return network
        x = _first(next(iter(batches))[0], 3)
        if choices.attach is not None:
            network = attach(network, x, **asdict(choices.attach))
        if choices.prune is not None:
            network = prune(network, x, **asdict(choices.prune))
            for parameter in network.parameters():  # it changed those that were frozen, too
                parameter.requires_grad_(parameter.is_floating_point())
        return network

    def _export(self, network: "torch.nn.Module", batches: Any) -> Bundle:
        """Write the trial's bundle anew, a variant for each form; the rule's name is that of the variant."""
        from ..export import export, quantize

        path, space = self.folder / TRIAL_BUNDLE, self.settings.space
        remove_tree(path, ignore_errors=True)
        x = next(iter(batches))[0]
        bundle = export(network, _first(x, 3), path, rule=space.rule[0], replace=True)
        for rule in space.rule[1:]:
            bundle = export(network, None, path, rule=rule, beside=re.sub(r"[^\w.-]", "-", rule))
        for variant in [variant.name for variant in bundle.manifest.variants]:
            for to in space.quantize:
                data = _gather(batches, MOST_FOR_RANGES) if to == "int8" else None
                name = to if variant == bundle.manifest.variants[0].name else f"{variant}-{to}"
                bundle = quantize(bundle, data, to=to, variant=variant, name=name)
        return bundle

    def _record(self, bundle: Bundle, loss: tuple[float, ...], start: float) -> list[TrialRow]:
        """Store what every exit of every form answers to the samples that judge; return the rows."""
        source, rows = self._source(self.settings.judge), []
        samples = labelled(load_samples(source, bundle.manifest), source)
        x, y = check_labelled(samples, bundle.manifest)
        for variant in bundle.manifest.variants:
            with load_uncalibrated(bundle, variant=variant.name) as net:
                answers = net.every_exit(x)
                latency_s = forced_latencies(net, x, seconds=LATENCY_S)
            wrong = (answers.label != y[:, None]).astype(np.int8)
            content = io.BytesIO()
            np.savez(content, score=answers.score, wrong=wrong)
            write_atomically(self.folder / f"rung{self.row.rung}.{variant.name}.npz", content.getvalue())
            rows.append(
                replace(
                    self.row,
                    variant=variant.name,
                    rule=variant.rule,
                    precision=variant.precision,
                    exits=tuple(exit_.place or exit_.name for exit_ in variant.exits),
                    accuracy=tuple((wrong == 0).mean(0).tolist()),
                    macs=tuple(itertools.accumulate(stage.macs for stage in variant.stages)),
                    loss=loss,
                    measured=RunFigures(
                        worker=f"{socket.gethostname()}:{os.getpid()}",
                        seconds=time.monotonic() - start,
                        latency_s=tuple(latency_s),
                    ),
                )
            )
        return rows


def _first(x: Any, count: int) -> Any:
    """Return the first samples of a batch, which may have several inputs."""
    if isinstance(x, dict):
        return {name: part[:count] for name, part in x.items()}
    return tuple(part[:count] for part in x) if isinstance(x, (tuple, list)) else x[:count]


def _gather(batches: Any, count: int) -> Any:
    """Return so many samples of the batches, or all, as arrays."""
    parts: list[list[np.ndarray]] = []
    names: list[str] | None = None
    for x, _ in batches:
        names = list(x) if isinstance(x, dict) else None
        inputs = list(x.values()) if isinstance(x, dict) else x if isinstance(x, (tuple, list)) else [x]
        parts.append([np.asarray(part) for part in inputs])
        if sum(len(part[0]) for part in parts) >= count:
            break
    arrays = [np.concatenate(each)[:count] for each in zip(*parts, strict=True)]
    if names is not None:
        return dict(zip(names, arrays, strict=True))
    return tuple(arrays) if len(arrays) > 1 else arrays[0]
