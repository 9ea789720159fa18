"""Update a product's network without ever having half of one: two slots, a link to the one in use, and a check between.

    python slots.py install /srv/net new.offramp.zip    the slot not in use gets the network; if it passes, the link turns to it
    python slots.py back /srv/net                       the link turns to the other slot again

The product runs `load("/srv/net/current")`. Power may fail at any moment: the link leads to the old network or to the new one,
and both are whole. Copy this file and change it: it needs nothing but offramp.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from offramp.bundle import check_bundle
from offramp.errors import OfframpError

SLOTS = "a.offramp.zip", "b.offramp.zip"
LINK = "current"
MOST_S = 600.0
"""A network that has not passed after this time does not pass."""


def verify(slot: Path) -> None:
    """Compare every file with its hash and every exit with what was exported, in a process that may crash or hang.

    Raises:
        OfframpError, subprocess.SubprocessError: the network is not the one that was exported, or does not run here.
    """
    check_bundle(slot)
    subprocess.run(
        [sys.executable, "-m", "offramp", "verify", slot], check=True, timeout=MOST_S, stdout=subprocess.DEVNULL
    )


def install(folder: Path, new: Path, check: Callable[[Path], object] = verify) -> Path:
    """Check a copy of a new packed bundle, move it into the slot that is not in use, and turn the link to it; return the slot.

    If the check fails, link and slots stay as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        slot = folder / other_slot(folder)
        part = slot.with_suffix(".part")
        with new.open("rb") as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        try:
            check(part)
        except BaseException:
            part.unlink()
            raise
        part.replace(slot)
        sync(folder)
        turn(folder, slot.name)
    return slot


def go_back(folder: Path, check: Callable[[Path], object] = verify) -> Path:
    """Turn the link to the slot that is not in use, if what it holds passes; return the slot."""
    with locked(folder):
        slot = folder / other_slot(folder)
        check(slot)
        turn(folder, slot.name)
    return slot


def other_slot(folder: Path) -> str:
    """Return the name of the slot that is not in use."""
    link = folder / LINK
    used = link.readlink().name if link.is_symlink() else SLOTS[1]
    return SLOTS[used == SLOTS[0]]


def turn(folder: Path, name: str) -> None:
    """Replace the link in one step: there is never none."""
    part = folder / f"{LINK}.part"
    part.unlink(missing_ok=True)
    part.symlink_to(name)
    part.replace(folder / LINK)
    sync(folder)


def sync(folder: Path) -> None:
    """Have the folder's names on the disk before anything else happens."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one update run at a time; the lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main() -> None:
    """Read the arguments and update."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("install", "back"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("new", type=Path, nargs="?", help="the packed bundle to install")
    options = parser.parse_args()
    if (options.what == "install") != (options.new is not None):
        parser.error("install takes a folder and a packed bundle, back a folder")
    try:
        slot = go_back(options.folder) if options.new is None else install(options.folder, options.new)
    except (OfframpError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"{error} {options.folder / LINK} stays as it was.")
    print(f"{options.folder / LINK} is {slot.name}")


if __name__ == "__main__":
    main()
