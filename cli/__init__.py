"""The command line: each command parses, calls one public function, prints."""

import gc
import sys
from collections.abc import Sequence

__all__ = ["main"]

GARBAGE_OBJECTS = 50_000
"""Garbage is looked for after so many new objects, not after Python's 700: of an export that took a sixth of the time."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the documented code, also where it is interrupted while it is still being read."""
    gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
    try:
        from .app import main as run
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    run(arguments)
