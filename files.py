"""Files, written so that a kill at any moment leaves the old content or the new; and the folders of the user."""

import contextlib
import errno
import importlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from .errors import BundleError, MissingError, UsageError, printable

__all__ = [
    "FOREIGN",
    "LINK",
    "NEW",
    "OPEN",
    "Folder",
    "cache_home",
    "check_writable",
    "copy_hashed",
    "data_home",
    "find_doubt",
    "hash_file",
    "hash_open",
    "lock_folder",
    "new_name",
    "open_file",
    "os_errors_explained",
    "private_folder",
    "read_file",
    "read_open",
    "read_own",
    "read_pieces",
    "remove_tree",
    "sha256",
    "sync",
    "write_atomically",
]

NEW = ".new-"
"""Prefix of unfinished files and folders."""

PIECE_BYTES = 1 << 20
"""Large files are read a piece of this size at a time."""

FEW_BYTES = 2 << 20
"""More bytes are hashed by OpenSSL: from 1 MB on it is faster even when loaded first; up to here its 4 MB of memory count."""

LINK, FOREIGN, OPEN = "it is a link", "it belongs to another user", "others may write to it"
"""Why others may have filled a folder, or written a file."""
MOST_IN_PATH = 400
"""The most characters of a path in a message; a bundle's manifest may name long ones."""

COPIES = "offramp-copies."
"""Prefix of private folders that are removed when whoever locked them has ended."""


def cache_home() -> Path:
    """Return the folder for what may be removed at any time: `$XDG_CACHE_HOME`, by default `~/.cache`."""
    return _user_folder("XDG_CACHE_HOME", ".cache")


def data_home() -> Path:
    """Return the folder for a user's own installations: `$XDG_DATA_HOME`, by default `~/.local/share`."""
    return _user_folder("XDG_DATA_HOME", ".local/share")


def _user_folder(variable: str, default: str) -> Path:
    """Return a folder of the XDG Base Directory Specification, which ignores relative paths.

    A user without a home, as in some containers, gets a folder in which nothing can be found or written: /dev/null. So does one
    whose `HOME` is empty or a relative path: it would be the root folder, or another one for each working folder.
    """
    path = Path(os.environ.get(variable, ""))
    if path.is_absolute():
        return path
    home = os.environ.get("HOME")
    with contextlib.suppress(RuntimeError):
        if home is None or Path(home).is_absolute():
            return Path.home() / default
    return Path(os.devnull)


def new_name(folder: Path) -> Path:
    """Return an unused path in a folder, for a file that is moved to its place when it is whole."""
    return folder / f"{NEW}{os.urandom(4).hex()}"


def sha256(content: bytes) -> str:
    """Return the sha256 of some bytes in hexadecimal. Few are hashed by Python's own function; see `FEW_BYTES`."""
    if len(content) <= FEW_BYTES and "hashlib" not in sys.modules:
        for module in ("_sha2", "_sha256"):  # from Python 3.12 on, and before
            with contextlib.suppress(ImportError):
                return str(importlib.import_module(module).sha256(content).hexdigest())
    import hashlib

    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content in hexadecimal; raise as `open_file` does."""
    with open_file(path) as file:
        return hash_open(file)


def hash_open(file: io.RawIOBase) -> str:
    """Return the sha256 of what is left of an open file in hexadecimal."""
    import hashlib

    digest = hashlib.sha256()
    for piece in read_pieces(file):
        digest.update(piece)
    return digest.hexdigest()


def read_pieces(file: io.RawIOBase) -> Iterator[memoryview]:
    """Yield what is left of a file, a piece at a time in the same memory: new memory for each costs more than hashing it."""
    memory = memoryview(bytearray(PIECE_BYTES))
    while count := file.readinto(memory):
        yield memory[:count]


def open_file(path: Path) -> io.FileIO:
    """Open a file to read it.

    Raises:
        OSError: it cannot be read, or it is a folder, a pipe or a device, which is not waited for.
    """
    at_once = getattr(os, "O_NONBLOCK", 0)
    file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | at_once))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "It is no file")
    return file


def read_file(path: Path, *, most: int) -> bytes:
    """Return a file's content, or its first `most + 1` bytes where it is longer; raise as `open_file` does."""
    return read_open(open_file(path), most=most)


def read_open(raw: io.RawIOBase, *, most: int) -> bytes:
    """Return the content of an open file, as `read_file` does, and close it."""
    with io.BufferedReader(raw) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return file.read(min(most, size) + 1)


class Folder:
    """The files below a folder, by their names in it: `variants/fp32/weights.bin`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, name: str) -> io.RawIOBase:
        """Open a file. No pipe or device keeps the reader waiting; `check_inside` refuses links that lead outside.

        Raises:
            OSError: it cannot be read.
        """
        return open_file(self.root / name)

    def find_size(self, name: str, real: Callable[[str], str] = os.path.realpath) -> int | None:
        """Return the bytes of a file; None if there is none. `real` is as for `check_inside`.

        Raises:
            BundleError: a link leads outside the folder.
            OSError: its folder may not be read.
        """
        self.check_inside(name, real)
        try:
            facts = os.stat(os.path.join(self.root, name))  # noqa: PTH116, PTH118  # pathlib takes ten times as long
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        return facts.st_size if stat.S_ISREG(facts.st_mode) else None

    def check_inside(self, name: str, real: Callable[[str], str] = os.path.realpath) -> None:
        """Check that no link leads from a name outside, where strangers read and write through it.

        `real` says where a path leads in the end; one that remembers folders spares most of the time.

        Raises:
            BundleError: one does.
        """
        path, top = os.path.join(self.root, name), real(str(self.root))  # noqa: PTH118
        folder, last = os.path.split(path)
        is_plain = os.path.isfile(path) and not os.path.islink(path)  # noqa: PTH113, PTH114
        found = os.path.join(real(folder), last) if is_plain else os.path.realpath(path)  # noqa: PTH118
        if found != top and not found.startswith(top.rstrip(os.sep) + os.sep):
            raise BundleError(
                f"{path} leads outside the bundle through a link. Copy the bundle with what its links lead to: cp -rL.",
                path=Path(path),
            )

    def glob(self, pattern: str) -> list[Path]:
        """Return the paths of files, by a pattern of their names. Pathlib's passes over folders that may not be listed.

        Raises:
            MissingError: a folder is there and may not be listed.
        """
        paths = [self.root]
        for part in pattern.split("/"):
            folders, paths = paths, []
            for folder in folders:
                with os_errors_explained(folder, "read"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    paths += [path for path in folder.iterdir() if fnmatchcase(path.name, part)]
        return paths


def find_doubt(facts: os.stat_result) -> str | None:
    """Say why others than this user may have filled a folder, or written a file; None if they cannot have."""
    if os.name != "posix":
        return None
    if stat.S_ISLNK(facts.st_mode):
        return LINK
    if facts.st_uid != os.geteuid():
        return FOREIGN
    return OPEN if stat.S_ISDIR(facts.st_mode) and facts.st_mode & 0o022 else None


def read_own(path: Path, *, most: int) -> bytes:
    """Read a file as `read_file` does, if nobody but this user can have put it there: else it raises an OSError."""
    file = open_file(path)
    doubt = find_doubt(path.parent.lstat()) or find_doubt(os.fstat(file.fileno()))
    if doubt is not None:
        file.close()
        raise PermissionError(errno.EPERM, doubt)
    return read_open(file, most=most)


def copy_hashed(source: io.RawIOBase, target: Path, *, most: int) -> str:
    """Copy an open file to a new file, a piece at a time, and return the sha256 of what was copied.

    A file of more than `most` bytes is not copied to its end.

    Raises:
        OSError: `target` cannot be written, and is not there.
    """
    import hashlib

    digest = hashlib.sha256()
    try:
        with target.open("xb") as copy:
            for piece in read_pieces(source):
                digest.update(piece)
                copy.write(piece)
                if copy.tell() > most:
                    break
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Make the kernel put a file, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """Make the kernel put an open file on the disk, on drives that can be told so: some network and USB drives cannot."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its final place, then move it there.

    Raises:
        UsageError: what is there is no file.
        MissingError: the folder cannot be written or the disk is full.
    """
    with os_errors_explained(path, "write"):
        _check_file(path)
        temporary = new_name(path.parent)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                sync_descriptor(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def check_writable(path: Path) -> None:
    """Check that a file can be written before long work whose result it will hold. Its folder is made if it is missing.

    Raises:
        UsageError: what is at `path` is no file.
        MissingError: the file cannot be written.
    """
    with os_errors_explained(path, "write"):
        _check_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = new_name(path.parent)
        temporary.touch()
        temporary.unlink()


def _check_file(path: Path) -> None:
    """Check that a new file replaces no folder, pipe or device: root may replace `/dev/null`, and every program would miss it."""
    if path.is_dir() or path.parent == Path("/dev") or (path.exists() and not path.is_file()):
        what = "a folder" if path.is_dir() else "a device or a pipe"
        raise UsageError(f"{path} is {what}. Name a file to write.", path=path)


@contextlib.contextmanager
def os_errors_explained(path: Path, action: Literal["read", "write"]) -> Iterator[None]:
    """Turn an OSError of a block that reads or writes `path` into a MissingError that names the path and a remedy."""
    try:
        yield
    except OSError as error:
        remedy = (
            "Check permissions and free space, or write elsewhere." if action == "write" else "Check its permissions."
        )
        shown = printable(path, MOST_IN_PATH)
        raise MissingError(f"Cannot {action} {shown}: {error.strerror or error}. {remedy}", path=path) from error


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for this user alone in the temporary folder (`TMPDIR`), and remove it in the end.

    Those that killed processes left are removed first: nobody holds their lock.

    Raises:
        MissingError: it cannot be made.
    """
    import tempfile  # takes long to import

    with os_errors_explained(Path(os.environ.get("TMPDIR", "/tmp")), "write"):
        parent = Path(tempfile.gettempdir())
    with os_errors_explained(parent, "write"):
        for abandoned in parent.glob(f"{COPIES}*"):
            with contextlib.suppress(OSError):
                if (lock := lock_folder(abandoned)) is not None:
                    if os.fstat(lock).st_uid == os.geteuid():
                        remove_tree(abandoned, ignore_errors=True)
                    os.close(lock)
        folder = Path(tempfile.mkdtemp(prefix="offramp.", dir=parent))
        if (lock := lock_folder(folder)) is not None:  # it is renamed with its lock: nobody takes it for abandoned
            folder = folder.rename(parent / f"{COPIES}{folder.suffix[1:]}")
    try:
        yield folder
    finally:
        remove_tree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def lock_folder(folder: Path) -> int | None:
    """Lock a folder; return the descriptor that holds the lock until it is closed, or None where there are no locks.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the folder cannot be opened.
    """
    try:
        import fcntl  # not on Windows
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # some network and USB drives have none
        os.close(descriptor)
        return None
    return descriptor


def remove_tree(folder: Path, *, ignore_errors: bool = False) -> None:
    """Remove a folder and all that it holds."""
    import shutil  # its compressors take long to import

    shutil.rmtree(folder, ignore_errors=ignore_errors)
