"""How long work reports its progress."""

from collections.abc import Callable

__all__ = ["Progress", "no_progress"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done and how many there are: `progress("compiling", 1, 3)`."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""
