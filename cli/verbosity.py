"""How much a command says: --quiet leaves results and errors, --verbose adds what is done, with what, and how long it took.

Every command has both options, and those that it runs say as much as it does.
"""

import contextlib
import shlex
import sys
from collections.abc import Iterator

import click

__all__ = ["add_verbosity", "is_quiet", "is_verbose", "volume_restored"]

HANDLER = "offramp --verbose"
"""The name of what shows the log."""

_volume = ""
"""`quiet`, `verbose`, or neither; one for all threads."""


def is_quiet() -> bool:
    """Tell whether notes and progress are left out."""
    return _volume == "quiet"


def is_verbose() -> bool:
    """Tell whether each step is told of when it begins and ends."""
    return _volume == "verbose"


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


@contextlib.contextmanager
def volume_restored() -> Iterator[None]:
    """Let what a command line asks for end with it, whatever becomes of it."""
    global _volume
    before = _volume
    try:
        yield
    finally:
        if is_verbose() and before != "verbose":
            _stop_logging()
        _volume = before


def _set_volume(ctx: click.Context, option: click.Parameter, given: bool) -> None:
    global _volume
    if not given or ctx.resilient_parsing:
        return
    name = option.name or ""
    if ctx.meta.setdefault("offramp.volume", name) != name:
        raise click.UsageError("--quiet and --verbose say opposite things: give one of them.", ctx)
    if name == "verbose" and not is_verbose():
        _start_logging()
    _volume = name


def _start_logging() -> None:
    """Show what all of offramp logs at level debug."""
    import logging

    from .. import __version__
    from .output import tell

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(f"  {record.name.removeprefix('offramp.')}: {record.getMessage()}")

    logger, handler = logging.getLogger("offramp"), Lines()
    handler.name = HANDLER
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    tell(f"offramp {__version__}, Python {sys.version.split()[0]}: offramp {shlex.join(sys.argv[1:])}")


def _stop_logging() -> None:
    import logging

    logger = logging.getLogger("offramp")
    for handler in [each for each in logger.handlers if each.name == HANDLER]:
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
