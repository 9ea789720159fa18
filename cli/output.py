"""What the command line prints: results on stdout, notes and progress on stderr."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from ..progress import Progress


def print_result(result: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result as text, or as one JSON document."""
    print_text(msgspec.json.encode(result).decode() if as_json else text())


def print_text(text: str) -> bool:
    """Print on stdout. Where its reader has gone, as in `| head`, say so; the command goes on, since its exit code counts too."""
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def note(text: str) -> None:
    """Say something on stderr; where nobody reads it the work goes on."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(text, err=True)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Align cells in columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


@contextlib.contextmanager
def progress_bars() -> "Iterator[Progress]":
    """Show progress bars on stderr when a person watches."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


@contextlib.contextmanager
def spinner(what: str) -> Iterator[None]:
    """Show on stderr that something is under way when a person watches."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
