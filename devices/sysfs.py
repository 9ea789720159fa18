"""Files of the kernel in `/sys` and `/proc`: read fast and often, with a reason for each failure."""

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock

MOST_NUMBER = 1e18
"""No file of the kernel that is read here holds a larger number."""

BUSY_S = 1.0
"""A read waits this long for another read of the same file."""


class Node:
    """A file that holds a number or a word. It stays open, since opening it for each read takes fifteen times as long.

    A failed read closes the file and the next read searches it again: a driver may go and come back under another number.

    Args:
        find: returns the file's path.
    """

    def __init__(self, find: Callable[[], Path]) -> None:
        self._find = find
        self._fd: int | None = None
        self._lock = Lock()

    def read(self) -> int:
        """Return the number.

        Raises:
            OSError: the file is missing or may not be read, its driver reports an error, or it holds no number.
        """
        raw = self._read()
        try:
            return int(raw)
        except ValueError:
            with self._lock:
                self._close()
            raise OSError(errno.EIO, f"it holds {raw[:20]!r} and no number", str(self._find())) from None

    def text(self) -> str:
        """Return the file's text.

        Raises:
            OSError: as for `read`.
        """
        return self._read().decode(errors="replace").strip()

    def _read(self) -> bytes:
        if not self._lock.acquire(timeout=BUSY_S):  # a read hangs, or a fork has cut one off
            raise OSError(errno.EBUSY, "another read of it does not return", str(self._find()))
        try:
            if self._fd is None:
                self._fd = os.open(self._find(), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            return os.pread(self._fd, 64, 0)
        except OSError:
            self._close()
            raise
        finally:
            self._lock.release()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __del__(self) -> None:
        self._close()


def read_text(path: Path) -> str | None:
    """Return a file's text without the NUL or line end behind it; None if it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\0\n ")
    except OSError:
        return None


def read_number(path: Path, *, least: float = -MOST_NUMBER, most: float = MOST_NUMBER) -> int | None:
    """Return a file's number; None if it cannot be read, holds no number, or one outside the bounds, which cannot be."""
    try:
        number = int(read_text(path) or "")
    except ValueError:
        return None
    return number if least <= number <= most else None


def list_numbered(pattern: str, root: Path) -> list[Path]:
    """Return the paths that match a pattern below the root, ordered by length first, so that `cpu10` follows `cpu9`."""
    fixed = itertools.takewhile(lambda part: not set(part) & set("*?["), pattern.split("/"))
    with contextlib.suppress(OSError):  # a folder that may not be looked into counts as empty
        if root.joinpath(*fixed).is_dir():  # to compile a pattern takes longer than to look
            return sorted(root.glob(pattern), key=lambda path: (len(str(path)), str(path)))
    return []


def hwmon_chips(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield each hwmon chip's name and folder. The folders' numbers change from boot to boot: only names tell chips apart.

    The files of some old drivers lie in the folder's `device`, such as those of acpi_power_meter before Linux 6.15.
    """
    for number in list_numbered("sys/class/hwmon/hwmon*", root):
        for folder in (number, number / "device"):
            if name := read_text(folder / "name"):
                yield name, folder
                break


def device_of(folder: Path) -> Path | None:
    """Return the device of a hwmon chip, which tells chips of the same name apart; None if the chip names no device."""
    link = folder / "device"
    return link.resolve() if link.is_symlink() else None


def find_hwmon(root: Path, name: str, index: int, device: Path | None = None) -> Path:
    """Return the folder of a hwmon chip.

    Args:
        root: the folder that holds `sys`.
        name: the chip's name.
        index: its number, from 0, among the chips of that name.
        device: its device, which is used instead of `index` if it is known.

    Raises:
        OSError: there is no such chip.
    """
    folders = [folder for chip, folder in hwmon_chips(root) if chip == name]
    if device is not None:
        folders, index = [folder for folder in folders if device_of(folder) == device], 0
    if index >= len(folders):
        raise OSError(errno.ENODEV, f"the hwmon chip {name} is gone", str(root / "sys/class/hwmon"))
    return folders[index]
