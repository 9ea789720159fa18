"""`sweep`: trials are run, here or on workers, rung after rung; what is left becomes one bundle."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ..bundle import Bundle, open_bundle
from ..bundle.adoption import adopt
from ..bundle.writing import open_unless_new
from ..errors import MissingError, UsageError, require
from ..files import lock_folder, os_errors_explained, remove_tree, write_atomically
from ..fleet.scheduler import connect
from ..progress import Progress, no_progress
from .page import write_page
from .ranking import find_reference, rank
from .settings import Settings, read_settings
from .table import TrialRow, name_trial, write_rows
from .trials import (
    CHECKPOINT_FILE,
    SETTINGS_FILE,
    TRIAL_BUNDLE,
    StoredSweep,
    read_stored,
    rows_file,
    run_trial,
    trial_folder,
)

__all__ = ["Sweep", "sweep"]

TABLE_FILE, BUNDLE_FOLDER, PAGE_FILE = "table.jsonl", "survivors.offramp", "report.html"

GOES_ON = "The same command goes on from what is done."

Runner = Callable[[Sequence[int], int], Iterable[tuple[int, list[TrialRow]]]]
"""From the numbers of trials, and a rung, to each trial's rows, as they are done."""


class Sweep(Struct, frozen=True, kw_only=True):
    """What a sweep found.

    Attributes:
        rows: a `TrialRow` for each form of each trial at each rung; within a rung the best trial first.
        table: the file that holds them, a line of JSON each.
        bundle: the folder of the bundle whose variants are the forms of the trials of the last rung. Its first variant is the
            one with the most accurate whole network.
        report: the page with the frontier; None if a package for it is missing.

    Example:
        >>> from pathlib import Path
        >>> from offramp.sweep import Sweep
        >>> folder = Path("out")
        >>> found = Sweep(rows=(), table=folder / "table.jsonl", bundle=folder / "survivors.offramp", report=None)
        >>> print(f"offramp calibrate {found.bundle} held_back.npz --max-drop 0.01")
        offramp calibrate out/survivors.offramp held_back.npz --max-drop 0.01
    """

    rows: tuple[TrialRow, ...]
    table: Path
    bundle: Path
    report: Path | None


def sweep(
    path: str | os.PathLike[str],
    *,
    scheduler: str | None = None,
    workers: int = 0,
    progress: Progress = no_progress,
    notice: Callable[[str], None] = lambda text: None,
) -> Sweep:
    """Try networks until the best ones are found: train, prune, export and record each, and keep training the best.

    A sweep that was interrupted, or whose workers or scheduler were killed, goes on where it was when it is called again. Results
    do not depend on how many workers there are: a trial trains on one thread from its own seed.

    Args:
        path: the sweep's file, see `Settings` and docs/how-to/sweep.md.
        scheduler: the address of a Dask scheduler whose workers run the trials, such as `tcp://10.0.0.2:8786`. They share the
            sweep's folder and the files that it names, by the same paths.
        workers: without a scheduler, how many processes of this machine run trials; 0 runs them in this one.
        progress: called with the rung, how many of its trials are done, and of all.
        notice: called with what people should know meanwhile: where Dask's dashboard is, and trials that failed.

    Raises:
        UsageError: the file or an argument cannot be used, the folder holds another sweep, another process is at it, or
            every trial failed.
        DataError: the file is not YAML, or the folder is damaged.
        MissingError: a package or the folder is missing on a worker, or scheduler or workers are gone.

    Example:
        >>> from pathlib import Path
        >>> from offramp.sweep import sweep
        >>> space = "{lr: [0.02], rule: [entropy]}"
        >>> text = f"{{network: net.py:network, data: train.npz, judge: test.npz, out: tried, epochs: 1, space: {space}}}"
        >>> _ = Path("sweep.yaml").write_text(text)
        >>> found = sweep("sweep.yaml")
        >>> [(row.trial, row.choices.lr, row.standing.place) for row in found.rows]
        [(0, 0.02, 1)]
    """
    if workers < 0 or (workers and scheduler is not None):
        raise UsageError(f"workers={workers}: give 0 or more, and none with a scheduler, which has its own.")
    settings, base = read_settings(path)
    folder = (base / settings.out).resolve()
    rungs, target = settings.list_rungs(), settings.make_target()
    rows: list[TrialRow] = []
    with _prepared(folder, StoredSweep(settings, str(base))), _runner(folder, scheduler, workers, notice) as run:
        trials: Sequence[int] = range(rungs[0].trials)
        for number, rung in enumerate(rungs):
            here: list[TrialRow] = []
            task = f"rung {number + 1} of {len(rungs)}, to epoch {rung.epochs}"
            progress(task, 0, len(trials))
            for done, (trial, found) in enumerate(run(trials, number), 1):
                if found[0].failed:
                    notice(f"{name_trial(trial)} failed: {found[0].failed}")
                here = sorted([*here, *found], key=lambda row: row.trial)
                write_rows(folder / TABLE_FILE, [*rows, *here])
                progress(task, done, len(trials))
            last = number + 1 == len(rungs)
            here = rank(here, folder, target, len(trials) if last else rungs[number + 1].trials)
            rows += here
            write_rows(folder / TABLE_FILE, rows)
            _drop(folder, here)
            trials = sorted({row.trial for row in here if row.standing is not None and row.standing.stays})
            if not trials:
                for (
                    row
                ) in here:  # perhaps of what all share, such as a file that is not there: the next call tries again
                    rows_file(trial_folder(folder, row.trial), number).unlink(missing_ok=True)
                raise UsageError(
                    f"All trials of rung {number + 1} failed. {name_trial(here[0].trial)}: {here[0].failed}"
                )
        bundle = _gather(folder, here)
        report: Path | None = folder / PAGE_FILE
        try:
            write_page(folder / PAGE_FILE, folder, settings, rows)
        except MissingError as error:
            report = None
            notice(f"There is no report: {error}")
    return Sweep(rows=tuple(rows), table=folder / TABLE_FILE, bundle=bundle.path, report=report)


@contextlib.contextmanager
def _prepared(folder: Path, stored: StoredSweep) -> Iterator[None]:
    """Make the sweep's folder, or see that it is this sweep's; nobody else runs it meanwhile.

    Raises:
        UsageError: it holds something else, or another process is at it.
        MissingError: it cannot be written.
    """
    path = folder / SETTINGS_FILE
    with os_errors_explained(folder, "write"):
        if folder.exists() and (not folder.is_dir() or (not path.exists() and any(folder.iterdir()))):
            raise UsageError(f"{folder} is there and is no folder of a sweep. Name another one as out.", path=folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = lock_folder(folder)
        except BlockingIOError:
            raise UsageError(
                f"Another process runs the sweep in {folder}. Wait until it has finished.", path=folder
            ) from None
    try:
        if path.exists() and (there := read_stored(folder).settings) != stored.settings:
            fields = (
                name for name in Settings.__struct_fields__ if getattr(there, name) != getattr(stored.settings, name)
            )
            raise UsageError(
                f"{folder} holds another sweep: its {', '.join(fields)} differ from the file's. Name another folder as out, or "
                "remove this one.",
                path=folder,
            )
        write_atomically(path, msgspec.json.encode(stored))
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def _runner(folder: Path, scheduler: str | None, workers: int, notice: Callable[[str], None]) -> Iterator[Runner]:
    """Give a function that runs trials, in this process or on workers.

    Raises:
        MissingError: as for `connect`.
    """
    if scheduler is None and not workers:
        yield lambda trials, rung: ((trial, run_trial(str(folder), trial, rung)) for trial in trials)
        return
    with connect(scheduler, workers=workers or 1) as client:
        info = client.scheduler_info()
        if "dashboard" in info.get("services", {}):
            notice(f"Dask shows what its workers do at {client.dashboard_link}")
        if not info["workers"]:
            notice(f"The scheduler has no workers yet. Start one with: dask worker {scheduler} --nthreads 1")
        yield lambda trials, rung: _run_on(client, folder, trials, rung)


def _run_on(client: Any, folder: Path, trials: Sequence[int], rung: int) -> Iterator[tuple[int, list[TrialRow]]]:
    """Run trials on Dask's workers. One that is killed leaves its trial to another, which goes on from its last epoch.

    Raises:
        MissingError: a trial killed several workers, or the scheduler has gone.
    """
    distributed = require("distributed", extra="fleet")
    futures = {client.submit(run_trial, str(folder), trial, rung, pure=False): trial for trial in trials}
    trial = trials[0]
    try:
        for future in distributed.as_completed(futures):
            trial = futures[future]
            yield trial, future.result()
    except distributed.KilledWorker as error:
        raise MissingError(
            f"{name_trial(trial)} has ended worker after worker; perhaps it takes more memory than they have. {GOES_ON}"
        ) from error
    except (distributed.CancelledError, distributed.comm.CommClosedError, OSError, TimeoutError) as error:
        if any(future.status == "error" for future in futures):  # the trial's own, which came over the connection
            raise
        raise MissingError(
            f"The connection to Dask's scheduler is lost. Start it and its workers again. {GOES_ON}"
        ) from error


def _drop(folder: Path, rows: Sequence[TrialRow]) -> None:
    """Remove the networks of trials that do not stay; their figures stay."""
    for row in rows:
        if row.standing is None or not row.standing.stays:
            own = trial_folder(folder, row.trial)
            remove_tree(own / TRIAL_BUNDLE, ignore_errors=True)
            with os_errors_explained(own, "write"):
                (own / CHECKPOINT_FILE).unlink(missing_ok=True)


def _gather(folder: Path, rows: Sequence[TrialRow]) -> Bundle:
    """Put every form of the trials that are left into one bundle, the most accurate whole network first."""
    path = folder / BUNDLE_FOLDER
    reference = find_reference(rows)
    assert reference is not None
    bundle = open_unless_new(path)
    there = set() if bundle is None else {variant.name for variant in bundle.manifest.variants}
    left = [row for row in rows if not row.failed]
    for row in sorted(left, key=lambda row: row.trial != reference.trial):  # which keeps the order of the others
        first = next(each.variant for each in left if each.trial == row.trial)
        name = name_trial(row.trial, "" if row.variant == first else row.variant)
        if name in there:
            continue
        source = open_bundle(trial_folder(folder, row.trial) / TRIAL_BUNDLE)
        origin = source.variant(row.variant).origin
        parent = None if origin is None else name_trial(row.trial, "" if origin.parent == first else origin.parent)
        bundle = adopt(path, source, variant=row.variant, name=name, parent=parent)
    assert bundle is not None
    return bundle
