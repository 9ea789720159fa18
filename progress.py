"""How long work says how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is in all."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""
