"""The command line: each command parses, calls one public function, prints."""

from .app import main

__all__ = ["main"]
