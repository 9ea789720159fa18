"""Files that a kernel keeps: read often and fast, and with the reason where that fails."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock

BUSY_S = 1.0
"""So long does a read wait for another of the same file."""


class Node:
    """A file that holds a number or a word, kept open: an open and a read take fifteen times as long as a read alone.

    A read that fails closes the file, and the next one finds it anew: drivers go and come back under another number.
    """

    def __init__(self, find: Callable[[], Path]) -> None:
        self._find = find
        self._fd: int | None = None
        self._lock = Lock()

    def read(self) -> int:
        """Return the number.

        Raises:
            OSError: the file is not there, may not be read, its driver reports an error, or it holds no number.
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
        if not self._lock.acquire(timeout=BUSY_S):  # held by a read that hangs, or by one that a fork has cut off
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
    """Return what a file says, without the NUL or line end behind it; None where it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\0\n ")
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """Return a file's number; None where it cannot be read or holds none."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def list_numbered(pattern: str, root: Path) -> list[Path]:
    """Return the paths that match a pattern below the root, ordered by length first, so that `cpu10` follows `cpu9`."""
    return sorted(root.glob(pattern), key=lambda path: (len(str(path)), str(path)))


def hwmon_chips(root: Path) -> Iterator[tuple[str, Path]]:
    """Give each hwmon chip's name and folder. The folders' numbers change from boot to boot: only names tell chips apart.

    Old drivers keep their files in the folder's `device`, as acpi_power_meter did before Linux 6.15.
    """
    for number in list_numbered("sys/class/hwmon/hwmon*", root):
        for folder in (number, number / "device"):
            if name := read_text(folder / "name"):
                yield name, folder
                break


def device_of(folder: Path) -> Path | None:
    """Return the device that a hwmon chip belongs to, which tells chips of one name apart; None where nothing tells it."""
    link = folder / "device"
    return link.resolve() if link.is_symlink() else None


def find_hwmon(root: Path, name: str, index: int, device: Path | None = None) -> Path:
    """Return the folder of the chip of a name and a device, or counted from 0 among those of the same name.

    Raises:
        OSError: it is not there.
    """
    folders = [folder for found, folder in hwmon_chips(root) if found == name]
    if device is not None:
        folders, index = [folder for folder in folders if device_of(folder) == device], 0
    if index >= len(folders):
        raise OSError(errno.ENODEV, f"the hwmon chip {name} is gone", str(root / "sys/class/hwmon"))
    return folders[index]
