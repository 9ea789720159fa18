"""Printing: results on stdout, notes and progress on stderr."""

import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

import click

from ..errors import printable, quoted
from ..progress import Progress
from .schemas import encode_document
from .verbosity import is_quiet, is_verbose

if TYPE_CHECKING:
    from ..export import Epoch

MOST_IN_CELL = 500

ESTIMATED_S = 3600.0
"""What remains of work is estimated by its pace within so long: a variant takes minutes."""

LEAST_TOLD_S = 1.0
"""Work that took at least so long is told of when it is done."""

COUNT_SAMPLES = ("loading samples", "recording", "finding ranges", "running")
"""Steps whose progress counts samples."""

_is_step: ContextVar[bool] = ContextVar("_is_step", default=False)
"""Whether the command that runs is a step of a project, which says what comes next."""

_told: ContextVar[set[str] | None] = ContextVar("_told", default=None)
"""Notes that were told, where each is told once."""

_results: ContextVar[TextIO | None] = ContextVar("_results", default=None)
"""Where results go while a command runs."""


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Keep stdout for results: what other code prints there, such as a network or a library, goes to stderr."""
    token = _results.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _results.reset(token)


def _to_results(show: Callable[[str], bool]) -> Callable[[str], bool]:
    @functools.wraps(show)
    def wrapped(text: str) -> bool:
        with contextlib.redirect_stdout(_results.get() or sys.stdout):
            return show(text)

    return wrapped


def print_result(result: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result as text, or as one JSON document."""
    print_text(encode_document(result) if as_json else text())


@_to_results
def print_text(text: str) -> bool:
    """Print on stdout, and return False if its reader has gone, as in `| head`. The command goes on: its exit code counts too."""
    try:
        click.echo(printable(text, 6 * len(text)))  # names and notes in a bundle are a stranger's
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


@contextlib.contextmanager
def telling_once() -> Iterator[None]:
    """Tell each note once, also where several commands run that would tell the same."""
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)


def note(text: str) -> None:
    """Print a note on stderr, if the command is not quiet."""
    told = _told.get()
    if told is not None and text.startswith("Note: "):
        if text in told:
            return
        told.add(text)
    if not is_quiet():
        tell(text)


def tell(text: str) -> None:
    """Print a message on stderr; if nobody reads it, or it is closed or full, the work goes on."""
    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def draws_on(stream: TextIO) -> bool:
    """Tell whether lines of a stream can be drawn anew: it is a terminal, and no dumb one."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def tell_places(network: Any) -> None:
    """Tell where `attach` put the exits of a network, and which share of the work leads to each; nothing if it did not."""
    if isinstance(getattr(network, "exit_places", None), dict):
        note("\n".join(f"exit {k} at {place}" for k, place in enumerate(network.attached)))


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text with aligned columns. A cell is one line of at most `MOST_IN_CELL` characters."""
    lines = [[quoted(cell, MOST_IN_CELL) for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


class _Steps:
    """What work has reported of its steps, and how long each took."""

    def __init__(self) -> None:
        self.started_s = self.reported_s = monotonic()
        self.tasks_s: dict[str, float] = {}
        self.last: dict[str, int] = {}
        self.samples: dict[str, int] = {}

    def report(self, task: str, done: int, total: int) -> None:
        """Note a report."""
        if task not in self.tasks_s and is_verbose():
            tell(f"{task} ...")
        before = self.last.get(task, 0)
        if task in COUNT_SAMPLES:
            self.samples[task] = self.samples.get(task, 0) + done - (before if done >= before else 0)
        self.last[task] = done
        # A task has been at work since the last report of any: tasks that take turns, or lie in another, count once.
        now_s = monotonic()
        self.tasks_s[task] = self.tasks_s.get(task, 0.0) + now_s - self.reported_s
        self.reported_s = now_s

    def tell(self) -> None:
        """Say how long the work took, a line for each step; of what took a moment nothing is said, if nobody asked for all."""
        least_s = 0.0 if is_verbose() else LEAST_TOLD_S
        long = {task: seconds for task, seconds in self.tasks_s.items() if seconds >= least_s}
        for task, seconds in long.items():
            counted = f" ({count:,} sample{'s' * (count != 1)})" if (count := self.samples.get(task)) else ""
            note(f"Took {_show_seconds(seconds)}: {task}{counted}")
        all_s = monotonic() - self.started_s
        if all_s >= LEAST_TOLD_S and len(long) != 1:
            note(f"Took {_show_seconds(all_s)} in all")


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show progress bars on stderr if it is a terminal, and say at the end how long the work took."""
    steps = _Steps()
    if is_quiet() or not draws_on(sys.stderr):
        yield steps.report
        steps.tell()
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    # The file is named, so that bars go on where torch's exporters are kept from writing to sys.stderr.
    with Bars(console=Console(file=sys.stderr), transient=True, speed_estimate_period=ESTIMATED_S) as bars:
        tasks: dict[str, Any] = {}

        def show(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
            elif done < steps.last[task]:  # it begins again, with the next network, and so does the time that remains
                bars.reset(tasks[task])
            steps.report(task, done, total)
            bars.update(tasks[task], completed=done, total=total)

        yield show
    steps.tell()


@contextlib.contextmanager
def spinner(task: str) -> Iterator[None]:
    """Show on stderr that work is under way if it is a terminal, and say at the end how long it took."""
    steps = _Steps()
    steps.report(task, 0, 1)
    if is_quiet() or not draws_on(sys.stderr):
        yield
    else:
        from rich.console import Console

        with Console(stderr=True).status(task):
            yield
    steps.report(task, 1, 1)
    steps.tell()


@contextlib.contextmanager
def advises(advice: str = "Nothing is half written: the same command starts again.") -> Iterator[None]:
    """Say after an interrupt how to go on, if what was interrupted within does not say so itself."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise error if error.args else KeyboardInterrupt(advice) from error


@contextlib.contextmanager
def as_step() -> Iterator[None]:
    """Let commands within say nothing of what comes next."""
    token = _is_step.set(True)
    try:
        yield
    finally:
        _is_step.reset(token)


def conclude(text: str, wrote: str | None, then: Sequence[str] = ()) -> str:
    """Return what a command prints about its result, with its end: where that lies, and a command line that may come next.

    Args:
        text: the result.
        wrote: the file or bundle; None if none was written.
        then: the words of the next command. Words in capitals stand for what only the reader knows.
    """
    end = [f"Wrote {wrote}"] * (wrote is not None) + [f"Next: {shlex.join(then)}"] * (bool(then) and not _is_step.get())
    return "\n".join([text, *([""] * bool(text and end)), *end])


def show_epochs(epochs: int) -> "Callable[[Epoch], None]":
    """Return what tells of each epoch of a training when it has ended."""

    def show(epoch: "Epoch") -> None:
        note(epoch.describe(epochs))

    return show


def _show_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
