"""What is kept outside the bundle by a key: stages built ahead, TensorRT's timings, and answers of unfinished calibrations.

    $XDG_CACHE_HOME/offramp/engines/<sha256 of the key>/{built, entry.json}

A key names everything that a build depends on, so a build whose key differs is never used. An entry is written under a temporary
name and moved in place when it is whole, and is moved away before it is removed: any number of processes may use the cache at
once. When the cache passes its limit, the entries that were used least recently are removed first.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from .bundle.record import Count
from .errors import MissingError, UsageError, quoted
from .files import (
    FOREIGN,
    LINK,
    NEW,
    OPEN,
    cache_home,
    find_doubt,
    new_name,
    os_errors_explained,
    read_file,
    read_own,
    remove_tree,
    sha256,
    write_atomically,
)
from .progress import debug

__all__ = [
    "CachedBuild",
    "Entry",
    "Key",
    "cache_folder",
    "cache_limit",
    "check_cache",
    "clean_cache",
    "digest_key",
    "discard",
    "fetch",
    "list_cache",
    "make_cache_folder",
    "read_build",
    "store",
    "write_build",
]

LIMIT_BYTES = 2 << 30
"""The cache's size limit, unless OFFRAMP_CACHE_MB gives another."""

MOST_BUILD_BYTES, MOST_RECORD_BYTES = 4 << 30, 1 << 20
"""A build and its record are no larger."""

ABANDONED_S = 3600.0
"""An unfinished entry that is older than this belongs to a process that was killed."""

ATTEMPTS = 10
"""How often a move into place is tried: another process may remove what a third has put there."""

Key = Mapping[str, str]


class Entry(Struct, frozen=True):
    """The record of a build.

    Attributes:
        label: which stage of which bundle it was built of, for people.
        key: what the build depends on, by name.
        bytes: the build's size.
        sha256: of the build, in hexadecimal.
    """

    label: str
    key: dict[str, str]
    bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class CachedBuild(Struct, frozen=True):
    """An entry of the cache.

    Attributes:
        folder: its name in the cache's folder.
        entry: its record.
        used_s: when it was used last, in seconds since 1970.

    Example:
        >>> from offramp.runtime import list_cache
        >>> sum(build.entry.bytes for build in list_cache())  # doctest: +SKIP
        48211968
    """

    folder: str
    entry: Entry
    used_s: float


def cache_folder() -> Path:
    """Return the cache's folder: `$XDG_CACHE_HOME/offramp/engines`, by default below `~/.cache`.

    A user without a home gets a folder that cannot be written, and writing to it raises MissingError.
    """
    return cache_home() / "offramp" / "engines"


def make_cache_folder() -> Path:
    """Make the cache's folder for its user alone, and return it.

    Raises:
        OSError: it cannot be made.
    """
    root = cache_folder()
    root.parent.parent.mkdir(parents=True, exist_ok=True)
    for own in (root.parent, root):
        own.mkdir(mode=0o700, exist_ok=True)
    return root


def check_cache() -> None:
    """See that nobody but this user (and root) can have put something into the cache, which is run as it is.

    Raises:
        MissingError: the cache's folder is a link, is another user's, or others may write to it.
    """
    root = cache_folder()
    remedies = {
        LINK: "To keep the cache elsewhere set XDG_CACHE_HOME",
        FOREIGN: "Set XDG_CACHE_HOME to a folder of your own",
        OPEN: f"Remove it, or if you know what is in it: chmod -R go-w {root.parent}",
    }
    for folder in (root.parent, root):
        try:
            reason = find_doubt(folder.lstat())
        except OSError:  # it is made, or refused, when something is stored
            return
        if reason is not None:
            raise MissingError(f"{folder} is not used as cache: {reason}. {remedies[reason]}.", path=folder)


def cache_limit() -> int:
    """Return the limit in bytes.

    Raises:
        UsageError: OFFRAMP_CACHE_MB is no number.
    """
    text = os.environ.get("OFFRAMP_CACHE_MB", "")
    if not re.fullmatch("[0-9]{0,9}", text):
        raise UsageError(f"OFFRAMP_CACHE_MB is the cache's limit in megabytes, a whole number, not {text!r}.")
    return int(text) * 1_000_000 if text else LIMIT_BYTES


def digest_key(key: Key) -> str:
    """Return the sha256 of a key in hexadecimal."""
    return sha256(msgspec.json.encode(dict(key), order="sorted"))


def fetch(key: Key, label: str) -> tuple[bytes | None, str | None]:
    """Look up the build of a key.

    Args:
        key: what the build depends on.
        label: the stage that it was built of.

    Returns:
        The build and None; or None and the reason why a build of this stage cannot be used; or None and None if there is none.
    """
    cache_limit()  # refuses a wrong limit before anything is built
    try:
        check_cache()
    except MissingError as error:
        debug("miss: %s: %s", label, error)
        return None, None
    folder = cache_folder() / digest_key(key)
    content, problem = read_build(folder / "entry.json", folder / "built", key, read=read_own)
    if content is not None:
        with contextlib.suppress(OSError):
            os.utime(folder)
        debug("hit: %s in %s", label, folder)
        return content, None
    if problem is not None:
        _remove(folder)
        debug("miss: %s, removed: %s", label, problem)
        return None, problem
    problem = _describe_nearest(key, label)
    debug("miss: %s: %s", label, problem or "not built for this device before")
    return None, problem


def _describe_nearest(key: Key, label: str) -> str | None:
    """Say how the most similar build of the same stage differs from a key; None if there is no stale one.

    Builds for other devices, numbers of threads or sets of outputs are not stale: both may be in use.
    """
    keys = [cached.entry.key for cached in list_cache() if cached.entry.label == label]
    stale = [other for other in keys if all(other.get(part) == key[part] for part in ("device", "threads", "outputs"))]
    if not stale:
        return None
    return compare_keys(key, min(stale, key=lambda other: len(_differing(key, other))))


def read_build(
    record: Path, path: Path, key: Key, *, most: int = MOST_BUILD_BYTES, read: Callable[..., bytes] = read_file
) -> tuple[bytes | None, str | None]:
    """Read a build of at most so many bytes, and the record beside it. `read` reads files, as `files.read_file` does.

    Returns:
        The build and None; or None and the reason why it cannot be used; or None and None if neither file exists.
    """
    entry = _read_entry(record, read)
    if entry is None:
        return None, (f"the record {record} is damaged" if os.path.lexists(path) or os.path.lexists(record) else None)
    if entry.key != dict(key):
        return None, compare_keys(key, entry.key)
    if entry.bytes > most:
        return None, f"{path} has {entry.bytes} bytes by its record, and builds of this stage at most {most}"
    try:
        content = read(path, most=entry.bytes)
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}"
    if len(content) != entry.bytes or sha256(content) != entry.sha256:
        return None, f"{path} is damaged: its sha256 is not the one that was recorded"
    return content, None


def compare_keys(ours: Key, theirs: Key) -> str:
    """Say which parts of two keys differ: `engine was 1.20 and is 1.21; threads was 1 and is 2`."""
    parts = [
        f"{quoted(name)} was {_shorten(theirs.get(name))} and is {_shorten(ours.get(name))}"
        for name in _differing(ours, theirs)
    ]
    return "; ".join(parts)


def write_build(record: Path, path: Path, key: Key, label: str, content: bytes) -> None:
    """Write a build and the record beside it. Each file is replaced as a whole; a build without its record counts as damaged.

    Raises:
        MissingError: the folder cannot be written or the disk is full.
    """
    entry = Entry(label, dict(key), len(content), sha256(content))
    write_atomically(path, content)
    write_atomically(record, msgspec.json.format(msgspec.json.encode(entry), indent=1) + b"\n")


def store(key: Key, label: str, content: bytes) -> None:
    """Put a build into the cache, then remove the entries used least recently until the cache is within its limit.

    Raises:
        MissingError: the cache cannot be written or the disk is full, it is not this user's alone, or there is no folder for it.
    """
    root = cache_folder()
    final = root / digest_key(key)
    check_cache()
    if root.is_relative_to(os.devnull):
        raise MissingError(
            "There is no folder for the cache, as HOME names none: set XDG_CACHE_HOME to one of your own."
        )
    with os_errors_explained(root, "write"):
        folder = new_name(make_cache_folder())
        folder.mkdir(mode=0o700)
        try:
            write_build(folder / "entry.json", folder / "built", key, label, content)
            _remove(final)  # a build that the engine could not load
            _move(folder, final)
        finally:
            remove_tree(folder, ignore_errors=True)
    debug("stored: %s in %s, %d bytes", label, final, len(content))
    clean_cache(cache_limit(), keep=final.name)


def discard(key: Key) -> None:
    """Remove the build of a key.

    Raises:
        MissingError: the cache is not this user's alone.
    """
    check_cache()
    folder = cache_folder() / digest_key(key)
    if _remove(folder):
        debug("discarded: %s", folder)


def _move(folder: Path, final: Path) -> None:
    """Move a whole entry in place, unless another process has put the same entry there."""
    for attempt in range(ATTEMPTS):
        try:
            folder.rename(final)
            return
        except OSError:
            if final.is_dir():
                return
            if attempt == ATTEMPTS - 1:
                raise


def list_cache() -> list[CachedBuild]:
    """Return every entry, the most recently used first.

    Raises:
        MissingError: the cache is not this user's alone.

    Example:
        >>> from offramp.runtime import list_cache
        >>> [build.entry.label for build in list_cache()]  # doctest: +SKIP
        ['/home/me/digits.offramp fp32 stage0.onnx']
    """
    check_cache()
    builds = []
    with contextlib.suppress(OSError):
        for folder in cache_folder().iterdir():
            entry = None if folder.name.startswith(NEW) else _read_entry(folder / "entry.json")
            with contextlib.suppress(OSError):
                if entry is not None:
                    builds.append(CachedBuild(folder.name, entry, folder.stat().st_mtime))
    return sorted(builds, key=lambda build: -build.used_s)


def clean_cache(limit: int = 0, *, keep: str = "") -> tuple[int, int]:
    """Remove the entries used least recently until the rest is within a limit; a limit of 0 removes all.

    Unfinished entries of processes that were killed are removed in any case, an hour after they were begun. A limit of 0 removes
    damaged entries too.

    Args:
        limit: in bytes.
        keep: the folder of an entry that stays, however large it is.

    Returns:
        How many entries were removed, and their bytes.

    Raises:
        MissingError: the cache is not this user's alone.

    Example:
        >>> from offramp.runtime import clean_cache
        >>> removed, freed_bytes = clean_cache(500_000_000)  # doctest: +SKIP
    """
    total, removed, freed = 0, 0, 0
    for build in list_cache():
        total += build.entry.bytes  # beyond the limit, everything that was used earlier goes
        if total > limit and build.folder != keep and _remove(cache_folder() / build.folder):
            removed, freed = removed + 1, freed + build.entry.bytes
            debug("removed: %s, %d bytes, beyond the limit of %d", build.entry.label, build.entry.bytes, limit)
    with contextlib.suppress(OSError):
        for leftover in list(cache_folder().iterdir()):
            is_useless = _is_abandoned(leftover) if leftover.name.startswith(NEW) else limit == 0 and not keep
            if is_useless and _remove(leftover):
                debug("removed: %s, unfinished or damaged", leftover)
    return removed, freed


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_S
    except OSError:  # another process has finished it
        return False


def _remove(path: Path) -> bool:
    """Move an entry away, so that nobody finds half of it, and remove it. Return False if it is missing or cannot be moved."""
    away = new_name(path.parent)
    try:
        path.rename(away)
    except OSError:
        return False
    if away.is_dir() and not away.is_symlink():
        remove_tree(away, ignore_errors=True)
    else:
        away.unlink(missing_ok=True)
    return True


def _read_entry(path: Path, read: Callable[..., bytes] = read_file) -> Entry | None:
    """Return the record in a file; None if it is missing or damaged."""
    try:
        return msgspec.json.decode(read(path, most=MOST_RECORD_BYTES), type=Entry)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _differing(ours: Key, theirs: Key) -> list[str]:
    """Return the names whose values differ between two keys."""
    return [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]


def _shorten(value: str | None) -> str:
    if value is None:
        return "not recorded"
    return quoted(value if len(value) <= 60 else f"{value[:12]}...")
