"""Files of a bundle that the user's own function reads: what `load(read=)` calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import BundleError, UsageError, quoted

__all__ = ["call_hook"]

_Path: Any = type(Path())  # a path of this system


class ComparedFile(_Path):  # type: ignore[misc]
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
        BundleError: the hook raises an error, as for a wrong key.
        UsageError: it returns no bytes.
    """
    file = ComparedFile(path)
    file.content = content
    try:
        result = hook(file)
    except Exception as error:
        reason = ": ".join(filter(None, [type(error).__name__, quoted(error)]))
        raise BundleError(f"The function that reads {path} failed: {reason}.", path=path) from error
    if not isinstance(result, bytes):
        raise UsageError(
            f"The function that reads {path} returned {type(result).__name__}; it returns the bytes that are used.",
            path=path,
        )
    return result
