"""How much a command says: --quiet leaves results and errors, --verbose adds what is done, with what, and how long it took.

Every command has both options, and those that it runs say as much as it does.
"""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from contextvars import ContextVar

import click

__all__ = ["add_verbosity", "is_quiet", "is_verbose"]

_volume: ContextVar[str] = ContextVar("_volume", default="")


def is_quiet() -> bool:
    """Tell whether notes and progress are left out."""
    return _volume.get() == "quiet"


def is_verbose() -> bool:
    """Tell whether each step is told of when it begins and ends."""
    return _volume.get() == "verbose"


def add_verbosity(command: click.Command) -> None:
    """Give a command the options, before its --help; they hold until it ends."""
    quiet = click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_set_volume,
        help="Print results and errors alone.",
    )
    verbose = click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_set_volume,
        help="Say on stderr what is done, with what, and how long each step takes.",
    )
    command.params += [quiet, verbose]


def _set_volume(ctx: click.Context, option: click.Parameter, given: bool) -> None:
    if not given or ctx.resilient_parsing:
        return
    name = option.name or ""
    if ctx.meta.setdefault("offramp.volume", name) != name:
        raise click.UsageError("--quiet and --verbose say opposite things: give one of them.", ctx)
    ctx.with_resource(_saying(name))


@contextlib.contextmanager
def _saying(volume: str) -> Iterator[None]:
    token = _volume.set(volume)
    try:
        with _logging() if volume == "verbose" else contextlib.nullcontext():
            yield
    finally:
        _volume.reset(token)


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Show what all of offramp logs at level debug."""
    import logging

    from .output import tell

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(f"  {record.name.removeprefix('offramp.')}: {record.getMessage()}")

    logger, handler = logging.getLogger("offramp"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        from .. import __version__

        tell(f"offramp {__version__}, Python {sys.version.split()[0]}: offramp {shlex.join(sys.argv[1:])}")
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
