"""The command line: each command parses, calls one public function, prints."""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the documented code, also where it is interrupted while it is still being read."""
    try:
        from .app import main as run
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    run(arguments)
