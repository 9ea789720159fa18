"""Files written so that a kill at any moment leaves the old content or the new, and read so that damage is seen."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import MissingError


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Ask the kernel to put a file or a folder's entries on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its final place, then move it there.

    Raises:
        MissingError: the folder cannot be written or the disk is full.
    """
    with explained(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync(path.parent)


def check_writable(path: Path) -> None:
    """See that a file can be written at `path` before long work that ends in it; makes its folder where that is missing.

    Raises:
        MissingError: it cannot.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        os.close(descriptor)
        Path(temporary).unlink()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write below `path` into a MissingError that names it."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise MissingError(
            f"Cannot write {where}: {error.strerror or error}. Check permissions and free space, or write elsewhere."
        ) from error
