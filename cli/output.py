"""Printing: results on stdout, notes and progress on stderr."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import msgspec

from ..errors import printable, quoted
from ..progress import Progress, no_progress

MOST_IN_CELL = 500


def print_result(result: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result as text, or as one JSON document."""
    print_text(msgspec.json.encode(result).decode() if as_json else text())


def print_text(text: str) -> bool:
    """Print on stdout, and return False if its reader has gone, as in `| head`. The command goes on: its exit code counts too."""
    try:
        click.echo(printable(text, len(text)))  # names and notes in a bundle are a stranger's
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def note(text: str) -> None:
    """Print a note on stderr; if nobody reads it, the work goes on."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(printable(text), err=True)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text with aligned columns. A cell is one line of at most `MOST_IN_CELL` characters."""
    lines = [[quoted(cell, MOST_IN_CELL) for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show progress bars on stderr if it is a terminal."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total)
            bars.update(tasks[task], completed=done, total=total)

        yield show


@contextlib.contextmanager
def spinner(task: str) -> Iterator[None]:
    """Show on stderr that work is under way if it is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(task):
        yield
