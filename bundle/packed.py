"""Packed bundles: one file with all files of a bundle, from which it is read in place.

    file header, 4096-aligned content    of each file, by name
    directory                            once more names, sizes and places
    end

It is a ZIP file whose members are stored as they are, and has one form only: sizes, CRC-32s and names decide every other byte. So
a reader makes headers and directory again and compares them; whatever has another form is refused before anything is read of it.
"""

import errno
import io
import os
import re
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from ..errors import BundleError, UsageError, quoted
from ..files import open_file, os_errors_explained, read_file
from .manifest import PLAIN_NAME

__all__ = [
    "PackedFile",
    "PackedMember",
    "describe_member",
    "end_of_members",
    "is_member_name",
    "is_packed",
    "open_packed",
    "unpack_advice",
]

ALIGNED_BYTES = 4096
"""Contents begin at multiples of this, the size of a page of memory, so that they can be mapped."""

FIRST_BYTES = b"PK\3\4"
"""What a ZIP file begins with."""

MOST_DIRECTORY_BYTES, MOST_ENTRY_BYTES = 32 << 20, 400
MOST_NAME, MOST_PARTS, MOST_QUOTED = 255, 8, 40
"""The most characters of a member's name, the most folders and names in it, and what a message shows of a strange one."""

LOCAL, CENTRAL, END = (struct.Struct(f"<{form}") for form in ("4s5H3L2H", "4s6H3L5H2L", "4s4H2LH"))
END_64, LOCATOR_64 = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
FULL_32, FULL_16 = 0xFFFFFFFF, 0xFFFF
"""What stands where a number does not fit; it stands behind, in 64 bits."""

STORED, NEW_YEAR_1980, UNIX_FILE = 0, 33, 0o100644 << 16
VERSION, VERSION_64 = 20, 45
MADE_ON_UNIX = 3 << 8 | VERSION_64
ID_64, ID_PADDING = 1, 0xD935
"""Extra fields: numbers in 64 bits, and padding as Android's zipalign writes it."""


class PackedMember(NamedTuple):
    """A file in a packed bundle.

    Attributes:
        name: `variants/fp32/weights.bin`.
        size: of its content, in bytes.
        crc: the CRC-32 of its content.
    """

    name: str
    size: int
    crc: int


def unpack_advice(path: Path) -> str:
    """Say how a packed bundle becomes a folder again."""
    return f"Unpack it to change it: python -m zipfile -e {path} FOLDER"


def is_member_name(name: str) -> bool:
    """Tell whether a file may have this name in a packed bundle: plain names joined by slashes, none of which leads upwards."""
    is_plain = re.fullmatch(f"{PLAIN_NAME}(/{PLAIN_NAME}){{0,{MOST_PARTS - 1}}}", name) is not None
    return is_plain and len(name) <= MOST_NAME


def describe_member(at: int, member: PackedMember) -> tuple[bytes, bytes]:
    """Return the header of a member that begins at a place, up to its content, and the member's entry in the directory."""
    name, size, crc = member
    is_large, begins_late = size >= FULL_32, at >= FULL_32
    version = VERSION_64 if is_large or begins_late else VERSION
    both = struct.pack("<2Q", size, size) if is_large else b""
    extra = _extra(both)
    padding = -(at + LOCAL.size + len(name) + len(extra) + 6) % ALIGNED_BYTES
    extra += struct.pack("<3H", ID_PADDING, 2 + padding, ALIGNED_BYTES) + bytes(padding)
    facts = STORED, 0, NEW_YEAR_1980, crc, *[min(size, FULL_32)] * 2, len(name)
    header = LOCAL.pack(b"PK\3\4", version, 0, *facts, len(extra)) + name.encode() + extra
    extra = _extra(both + (struct.pack("<Q", at) if begins_late else b""))
    rest = len(extra), 0, 0, 0, UNIX_FILE, min(at, FULL_32)
    entry = CENTRAL.pack(b"PK\1\2", MADE_ON_UNIX, version, 0, *facts, *rest) + name.encode() + extra
    return header, entry


def _extra(numbers: bytes) -> bytes:
    return struct.pack("<2H", ID_64, len(numbers)) + numbers if numbers else b""


def end_of_members(count: int, at: int, size: int) -> bytes:
    """Return what follows on the directory, of so many members, which begins at a place and has a size."""
    large = b""
    if count >= FULL_16 or max(at, size) >= FULL_32:
        large = END_64.pack(b"PK\6\6", END_64.size - 12, VERSION_64, VERSION_64, 0, 0, count, count, size, at)
        large += LOCATOR_64.pack(b"PK\6\7", 0, at + size, 1)
    few = min(count, FULL_16)
    return large + END.pack(b"PK\5\6", 0, 0, few, few, min(size, FULL_32), min(at, FULL_32), 0)


class PackedFile:
    """The files of a packed bundle, by their names in it. The file is open while this lives, and is opened no second time."""

    def __init__(self, path: Path, file: io.FileIO) -> None:
        """Read the directory.

        Raises:
            BundleError: the file has another form than `pack` gives it.
            OSError: it cannot be read.
        """
        self.path = path
        self._descriptor = os.dup(file.fileno())
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, self._descriptor)
        self._members = self._read_members(os.fstat(self._descriptor).st_size)

    def __reduce__(self) -> "tuple[Callable[[Path], PackedFile | None], tuple[Path]]":
        """Let another process open the file at the path; contents are compared with the manifest there, too."""
        return open_packed, (self.path,)

    def open(self, name: str) -> io.RawIOBase:
        """Open a file.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        if name not in self._members:
            raise FileNotFoundError(errno.ENOENT, "No such file")
        return _Part(self, *self._members[name])

    def find_size(self, name: str, real: Callable[[str], str] = os.path.realpath) -> int | None:
        """Return the bytes of a file; None if there is none."""
        return self._members[name][1] if name in self._members else None

    def check_inside(self, name: str) -> None:
        """Do nothing: no name leads outside."""

    def refuse_change(self, advice: str = "") -> UsageError:
        """Return the error for who would change it; `advice` is repeated."""
        return UsageError(
            f"{self.path} is packed and stays as it is. {advice}{unpack_advice(self.path)}", path=self.path
        )

    def glob(self, pattern: str) -> list[Path]:
        """Return the paths of files, by a pattern of their names. Nothing lies at those paths."""
        return [
            self.path / name
            for name in self._members
            if name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)
        ]

    def read_at(self, at: int, size: int) -> bytes:
        """Return so many bytes from a place; fewer at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, at)
        with self._lock:  # on Windows
            os.lseek(self._descriptor, at, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def _read_members(self, size: int) -> dict[str, tuple[int, int]]:
        """Return where each member's content begins, and its bytes."""
        end_at = size - END.size
        end = self.read_at(max(end_at, 0), END.size)
        if len(end) < END.size or not end.startswith(b"PK\5\6") or not end.endswith(b"\0\0"):
            raise self._refuse("it does not end as it should: it was cut off, or something stands behind its end")
        _, _, _, _, count, directory_size, directory_at, _ = END.unpack(end)
        if FULL_32 in (directory_size, directory_at) or count == FULL_16:
            end_at -= END_64.size + LOCATOR_64.size
            large = self.read_at(max(end_at, 0), END_64.size)
            if len(large) < END_64.size:
                raise self._refuse("its end and its directory do not agree")
            *_, count, directory_size, directory_at = END_64.unpack(large)
        is_possible = directory_size <= min(count * MOST_ENTRY_BYTES, MOST_DIRECTORY_BYTES)
        if directory_at + directory_size != end_at or not is_possible or count * ALIGNED_BYTES > directory_at:
            raise self._refuse("its end and its directory do not agree")
        if self.read_at(end_at, size - end_at) != end_of_members(count, directory_at, directory_size):
            raise self._refuse("its end and its directory do not agree")
        directory = self.read_at(directory_at, directory_size)
        members = list(self._read_directory(directory))
        if len(members) != count:
            raise self._refuse("its end and its directory do not agree")
        contents: dict[str, tuple[int, int]] = {}
        at = read = 0
        for member in members:
            header, entry = describe_member(at, member)
            if directory[read : read + len(entry)] != entry:
                raise self._refuse(f"its directory describes {member.name} otherwise than offramp pack does")
            if self.read_at(at, len(header)) != header:
                raise self._refuse(f"what stands before {member.name} is not what its directory says")
            contents[member.name] = at + len(header), member.size
            at, read = at + len(header) + member.size, read + len(entry)
            if at > directory_at:
                raise self._refuse(f"{member.name} reaches into its directory")
        if at != directory_at:
            raise self._refuse("something stands between its files and its directory")
        return contents

    def _read_directory(self, directory: bytes) -> Iterator[PackedMember]:
        """Yield the members that a directory lists; their other facts are compared afterwards."""
        at, before, seen = 0, "", set[str]()
        while at < len(directory):
            if len(directory) - at < CENTRAL.size:
                raise self._refuse("its directory is cut off")
            mark, _, _, flags, method, _, _, crc, packed, size, length, extra, *_ = CENTRAL.unpack_from(directory, at)
            at += CENTRAL.size
            name = directory[at : at + length].decode("ascii", "replace")
            if mark != b"PK\1\2" or not is_member_name(name):
                raise self._refuse(f"'{quoted(name[:MOST_QUOTED])}' is no name of a file in a bundle")
            if flags & 1 or method != STORED or packed != size:
                raise self._refuse(f"{name} is {'encrypted' if flags & 1 else 'compressed'}")
            folders = name.split("/")[:-1]
            if name <= before or any("/".join(folders[: k + 1]) in seen for k in range(len(folders))):
                raise self._refuse(f"{name} is there twice, or not in its order")
            seen.add(name)
            if size == FULL_32 and extra >= 20:
                size = int.from_bytes(directory[at + length + 4 : at + length + 12], "little")
            at, before = at + length + extra, name
            yield PackedMember(name, size, crc)

    def _refuse(self, reason: str) -> BundleError:
        return BundleError(
            f"{self.path} is not a packed bundle: {reason}. Copy it again, or make it anew: offramp pack.",
            path=self.path,
        )


def is_packed(path: Path) -> bool:
    """Tell whether a path leads to a file that begins as a packed bundle does.

    Raises:
        OSError: it cannot be read.
    """
    return path.is_file() and read_file(path, most=len(FIRST_BYTES) - 1) == FIRST_BYTES


def open_packed(path: Path) -> PackedFile | None:
    """Open a packed bundle; return None for a file that is no ZIP file.

    Raises:
        BundleError: it has another form than `pack` gives it.
        MissingError: it cannot be read.
    """
    with os_errors_explained(path, "read"), open_file(path) as file:
        return PackedFile(path, file) if file.read(len(FIRST_BYTES)) == FIRST_BYTES else None


class _Part(io.RawIOBase):
    """A file in a packed bundle, opened to read it."""

    def __init__(self, packed: PackedFile, begin: int, size: int) -> None:
        self._packed, self._begin, self._size, self._at = packed, begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, memory: "memoryview") -> int:  # type: ignore[override]
        piece = self._packed.read_at(self._begin + self._at, max(0, min(len(memory), self._size - self._at)))
        memory[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
