"""Stages that were built ahead, kept outside the bundle.

    $XDG_CACHE_HOME/offramp/engines/<sha256 of the key>/{built, entry.json}

The key names everything that matters: a build that it does not fit is not looked at. An entry is moved in place when it is whole
and moved away before it is removed, so any number of processes may use the cache at once. What was used least recently goes
first when the cache passes its limit.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from .bundle.manifest import Count
from .errors import UsageError
from .files import NEW, new_name, os_errors_explained, remove_tree, write_atomically

LIMIT_BYTES = 2 << 30
"""The size that the cache is kept below, unless OFFRAMP_CACHE_MB says otherwise."""

ABANDONED_S = 3600.0
"""After this time something unfinished belongs to a process that was killed."""

Key = Mapping[str, str]


class Entry(Struct, frozen=True):
    """What stands beside a build.

    Attributes:
        label: which stage of which bundle it was built of, for people.
        key: what decides whether it fits, by name.
        bytes, sha256: of the build.
    """

    label: str
    key: dict[str, str]
    bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class CachedBuild(Struct, frozen=True):
    """An entry of the cache, with the time it was last used, in seconds since 1970."""

    folder: str
    entry: Entry
    used_s: float


def cache_folder() -> Path:
    """Return where builds are kept: `$XDG_CACHE_HOME/offramp/engines`, by default below `~/.cache` (XDG base directories)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # a user without a home, as in some containers
            base = Path(os.devnull)  # nothing is found in it, and nothing can be written, which is said
    return base / "offramp" / "engines"


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
    return hashlib.sha256(msgspec.json.encode(dict(key), order="sorted")).hexdigest()


def fetch(key: Key, label: str) -> tuple[bytes | None, str | None]:
    """Return what was built under a key, or None and, where there is something like it, why it cannot be used."""
    cache_limit()  # a wrong limit is said before anything is built
    folder = cache_folder() / digest_key(key)
    content, problem = read_build(folder / "entry.json", folder / "built", key)
    if content is not None:
        with contextlib.suppress(OSError):
            os.utime(folder)
        return content, None
    if problem is not None:
        _remove(folder)
        return None, problem
    others = [kept.entry.key for kept in list_cache() if kept.entry.label == label]
    # What was built for another device, number of threads or set of outputs is not stale: both may be in use.
    alike = [
        other for other in others if all(other.get(part) == key[part] for part in ("device", "threads", "outputs"))
    ]
    if not alike:
        return None, None
    return None, compare_keys(key, min(alike, key=lambda other: len(_differing(key, other))))


def read_build(record: Path, path: Path, key: Key) -> tuple[bytes | None, str | None]:
    """Read a build and the record beside it.

    Returns:
        The build, or None with the reason why it cannot be used; None and None where there is nothing.
    """
    entry = _read_entry(record)
    if entry is None:
        return None, (f"the record {record} is damaged" if os.path.lexists(path) or os.path.lexists(record) else None)
    if entry.key != dict(key):
        return None, compare_keys(key, entry.key)
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}"
    if len(content) != entry.bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
        return None, f"{path} is damaged: its sha256 is not the one that was recorded"
    return content, None


def compare_keys(ours: Key, theirs: Key) -> str:
    """Say which parts of two keys differ."""
    parts = [
        f"{name} was {_brief(theirs.get(name))} and is {_brief(ours.get(name))}" for name in _differing(ours, theirs)
    ]
    return "; ".join(parts)


def write_build(record: Path, path: Path, key: Key, label: str, content: bytes) -> None:
    """Write a build and the record beside it; each is whole or as it was, and one without the other counts as damaged.

    Raises:
        MissingError: the folder cannot be written or the disk is full.
    """
    entry = Entry(label, dict(key), len(content), hashlib.sha256(content).hexdigest())
    write_atomically(path, content)
    write_atomically(record, msgspec.json.format(msgspec.json.encode(entry), indent=1) + b"\n")


def store(key: Key, label: str, content: bytes) -> None:
    """Keep a build, and remove what was used least recently where the cache passes its limit.

    Raises:
        MissingError: the cache cannot be written or the disk is full.
    """
    root = cache_folder()
    final = root / digest_key(key)
    with os_errors_explained(root, "write"):
        root.mkdir(parents=True, exist_ok=True)
        folder = new_name(root)
        folder.mkdir()
        try:
            write_build(folder / "entry.json", folder / "built", key, label, content)
            _remove(final)  # what the engine could not load
            _move(folder, final)
        finally:
            remove_tree(folder, ignore_errors=True)
    clean_cache(cache_limit(), keep=final.name)


def discard(key: Key) -> None:
    """Remove what was kept under a key."""
    _remove(cache_folder() / digest_key(key))


def _move(folder: Path, final: Path) -> None:
    """Move a whole entry in place, unless another process was first with the same; a third may remove that meanwhile."""
    for attempt in range(10):
        try:
            folder.rename(final)
            return
        except OSError:
            if final.is_dir():
                return
            if attempt == 9:
                raise


def list_cache() -> list[CachedBuild]:
    """Return every entry, the one used last first."""
    kept = []
    with contextlib.suppress(OSError):
        for folder in cache_folder().iterdir():
            entry = None if folder.name.startswith(NEW) else _read_entry(folder / "entry.json")
            with contextlib.suppress(OSError):
                if entry is not None:
                    kept.append(CachedBuild(folder.name, entry, folder.stat().st_mtime))
    return sorted(kept, key=lambda one: -one.used_s)


def clean_cache(limit: int = 0, *, keep: str = "") -> tuple[int, int]:
    """Remove the entries used least recently until the rest is within a limit; at 0 everything goes.

    What processes that were killed have left half written goes in any case, once it is an hour old; at 0 what is damaged too.

    Args:
        limit: in bytes.
        keep: an entry that stays whatever its size.

    Returns:
        How many entries were removed, and their bytes.
    """
    total, removed, freed = 0, 0, 0
    for kept in list_cache():
        total += kept.entry.bytes  # once the limit is passed, everything older goes
        if total > limit and kept.folder != keep and _remove(cache_folder() / kept.folder):
            removed, freed = removed + 1, freed + kept.entry.bytes
    with contextlib.suppress(OSError):
        for left in list(cache_folder().iterdir()):
            if _is_abandoned(left) if left.name.startswith(NEW) else limit == 0 and not keep:
                _remove(left)
    return removed, freed


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_S
    except OSError:  # another process has finished it
        return False


def _remove(path: Path) -> bool:
    """Move an entry away, so that nobody finds half of it, and remove it; False where it is not there or stays."""
    away = new_name(path.parent)
    try:
        path.rename(away)
    except OSError:
        return False
    if away.is_dir():
        remove_tree(away, ignore_errors=True)
    else:
        away.unlink(missing_ok=True)
    return True


def _read_entry(path: Path) -> Entry | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Entry)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _differing(ours: Key, theirs: Key) -> list[str]:
    return [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]


def _brief(value: str | None) -> str:
    if value is None:
        return "not recorded"
    return value if len(value) <= 60 else f"{value[:12]}..."
