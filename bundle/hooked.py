"""Files of a bundle that the user's own function reads: what `load(read=)` calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UsageError

__all__ = ["call_hook"]

_Path: Any = type(Path())  # a path of this system


class ComparedFile(_Path):
    """The path of a file whose content has been compared with its hash. It is read no second time."""

    content: bytes

    def read_bytes(self) -> bytes:
        """Return the content that was compared."""
        return self.content


def call_hook(hook: Callable[[Path], bytes], path: Path, content: bytes) -> bytes:
    """Return what a hook makes of a file.

    Args:
        hook: the user's function.
        path: the file's path; nothing lies there if the bundle is packed.
        content: what it holds.

    Raises:
        UsageError: the hook returns no bytes.
    """
    file = ComparedFile(path)
    file.content = content
    result = hook(file)
    if not isinstance(result, bytes):
        raise UsageError(
            f"read= returned {type(result).__name__} for {path}: it returns the bytes of the file.", path=path
        )
    return result
