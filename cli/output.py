"""Printing: results on stdout, notes and progress on stderr."""

import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

import click
import msgspec

from ..errors import printable, quoted
from ..progress import Progress, no_progress

if TYPE_CHECKING:
    from ..export import Epoch

MOST_IN_CELL = 500

ESTIMATED_S = 3600.0
"""What remains of work is estimated by its pace within so long: a variant takes minutes."""

LEAST_TOLD_S = 1.0
"""Work that took at least so long is told of when it is done."""

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
    """Print a result as text, or as one JSON document, in which what is no finite number is the text "inf", "-inf" or "nan"."""
    print_text(msgspec.json.encode(_name_numbers(msgspec.to_builtins(result))).decode() if as_json else text())


def _name_numbers(value: Any) -> Any:
    """Return a document with texts in place of floats that JSON has not, and which would be null as if they were unknown."""
    if isinstance(value, dict):
        return {key: _name_numbers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_name_numbers(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


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
    """Print a note on stderr; if nobody reads it, or it is closed or full, the work goes on."""
    told = _told.get()
    if told is not None and text.startswith("Note: "):
        if text in told:
            return
        told.add(text)
    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def tell_places(network: Any) -> None:
    """Tell where `attach` put the exits of a network, and which share of the work leads to each; nothing if it did not."""
    if isinstance(getattr(network, "exit_places", None), dict):
        note("\n".join(f"exit {k} at {place}" for k, place in enumerate(network.attached)))


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text with aligned columns. A cell is one line of at most `MOST_IN_CELL` characters."""
    lines = [[quoted(cell, MOST_IN_CELL) for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show progress bars on stderr if it is a terminal, and say at the end how long the work took."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    started_s = monotonic()
    begun_s: dict[str, float] = {}
    ended_s: dict[str, float] = {}
    # The file is named, so that bars go on where torch's exporters are kept from writing to sys.stderr.
    with Bars(console=Console(file=sys.stderr), transient=True, speed_estimate_period=ESTIMATED_S) as bars:
        tasks: dict[str, Any] = {}
        last: dict[str, int] = {}

        def show(task: str, done: int, total: int) -> None:
            if task not in tasks:
                # Before its first report a task has been at work since the last report of another.
                begun_s[task] = max([started_s, *ended_s.values()])
                tasks[task] = bars.add_task(task, total=total)
            elif done < last[task]:  # it begins again, with the next network, and so does the time that remains
                bars.reset(tasks[task])
            last[task] = done
            bars.update(tasks[task], completed=done, total=total)
            ended_s[task] = monotonic()

        yield show
    _tell_times({task: ended_s[task] - begun_s[task] for task in tasks}, monotonic() - started_s)


@contextlib.contextmanager
def spinner(task: str) -> Iterator[None]:
    """Show on stderr that work is under way if it is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    started_s = monotonic()
    with Console(stderr=True).status(task):
        yield
    _tell_times({task: monotonic() - started_s})


@contextlib.contextmanager
def goes_on_after_interrupt(advice: str) -> Iterator[None]:
    """Say after an interrupt that the same command goes on where it was."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(advice) from error


def show_epochs(epochs: int) -> "Callable[[Epoch], None]":
    """Return what tells of each epoch of a training when it has ended."""

    def show(epoch: "Epoch") -> None:
        note(epoch.describe(epochs))

    return show


def _tell_times(tasks_s: dict[str, float], all_s: float = 0.0) -> None:
    """Say how long work took, part by part, where that was long."""
    parts = [f"{task} {_show_seconds(seconds)}" for task, seconds in tasks_s.items() if seconds >= LEAST_TOLD_S]
    if all_s >= LEAST_TOLD_S and len(parts) != 1:
        parts.append(f"{_show_seconds(all_s)} in all")
    if parts:
        note(f"Took: {', '.join(parts)}.")


def _show_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
