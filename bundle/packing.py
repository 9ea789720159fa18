"""A bundle made to one file: what `offramp pack` does."""

import io
import os
import zlib
from pathlib import Path

from ..errors import BundleError, UsageError
from ..files import (
    Folder,
    check_writable,
    lock_folder,
    new_name,
    os_errors_explained,
    read_pieces,
    sync,
    sync_descriptor,
)
from .packed import PackedMember, describe_member, end_of_members, is_member_name, is_packed
from .reading import Bundle, check_bundle, open_bundle

__all__ = ["pack"]


def pack(bundle: str | os.PathLike[str] | Bundle, output: str | os.PathLike[str]) -> Bundle:
    """Write a bundle as one file, which everything that reads bundles takes as it is.

    The file is a ZIP file whose members are not compressed and begin at multiples of 4096 bytes. Equal bundles make equal files.
    It holds what the manifest names, calibrations and what they remember of questions, builds, signatures, and what else lies in
    the folder, but nothing hidden.

    Args:
        bundle: the bundle or its folder.
        output: the file to write; another packed bundle there is replaced once the new one is whole.

    Returns:
        The packed bundle.

    Raises:
        UsageError: the bundle is packed already, something else lies at `output`, another process writes the bundle, a folder in
            it is a link, or a file has a name with other characters than letters, digits, dots, dashes and underscores.
        BundleError: the bundle is damaged.
        MissingError: a file cannot be read or written.

    Example:
        >>> from offramp.bundle import pack
        >>> packed = pack("digits.offramp", "digits.offramp.zip")
        >>> from offramp.runtime import load
        >>> load("digits.offramp.zip").exits == load("digits.offramp").exits
        True
    """
    root, output = bundle.path if isinstance(bundle, Bundle) else Path(bundle), Path(output)
    if open_bundle(root).packed is not None:
        raise UsageError(f"{root} is packed already.", path=root)
    _check_output(root, output)
    with os_errors_explained(root, "read"):
        try:
            lock = lock_folder(Path(os.path.realpath(root)))
        except BlockingIOError:
            raise UsageError(f"Another process is writing {root}. Wait until it has finished.", path=root) from None
    try:
        names = _list_names(open_bundle(root))
        temporary = new_name(output.parent)
        try:
            with os_errors_explained(output, "write"), temporary.open("xb") as file:
                _write(root, names, file)
                file.flush()
                sync_descriptor(file.fileno())
            check_bundle(temporary)
            with os_errors_explained(output, "write"):
                temporary.replace(output)
                sync(output.parent)
        finally:
            temporary.unlink(missing_ok=True)
    finally:
        if lock is not None:
            os.close(lock)
    return open_bundle(output)


def _check_output(root: Path, output: Path) -> None:
    """Check that the file can be written, and that nothing else is lost by it."""
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(root)):
        raise UsageError(f"{output} lies in the bundle. Name a file elsewhere.", path=output)
    check_writable(output)
    with os_errors_explained(output, "read"):
        if output.exists() and not is_packed(output):
            raise UsageError(
                f"{output} is there and is no packed bundle. Name another file, or remove it.", path=output
            )


def _list_names(bundle: Bundle) -> list[str]:
    """Return the names of all files that belong to a bundle, sorted.

    Raises:
        UsageError: one has a name that no packed bundle may hold, or a folder is a link.
    """
    names = {f"{variant.folder}/{name}" for variant in bundle.manifest.variants for name in variant.files}
    with os_errors_explained(bundle.path, "read"):
        for folder, folders, files in os.walk(bundle.path, onerror=_raise):
            inside = [Path(folder, name) for name in folders if not name.startswith(".")]
            inside = [path for path in inside if path != bundle.path / "variants"]
            folders[:] = [path.name for path in inside]
            for path in inside:
                if path.is_symlink():
                    raise UsageError(f"{path} is a link. Pack a copy with what its links lead to: cp -rL.", path=path)
            paths = [Path(folder, name).relative_to(bundle.path).as_posix() for name in files if name[0] != "."]
            names.update(path for path in paths if not path.endswith(".before"))
    for name in sorted(names):
        if not is_member_name(name):
            raise UsageError(
                f"{bundle.path / name} cannot be packed under this name. Rename it: letters, digits, dots, dashes and "
                "underscores.",
                path=bundle.path / name,
            )
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error


def _write(root: Path, names: list[str], output: io.BufferedWriter) -> None:
    """Write files of a folder; the header of each when its CRC is known."""
    directory, at, files = b"", 0, Folder(root)
    for name in names:
        with os_errors_explained(root / name, "read"):
            size = files.find_size(name)
            if size is None:
                raise BundleError(
                    f"{root / name} is missing. Copy the bundle again or export it anew.", path=root / name
                )
            source = files.open(name)
        header, _ = describe_member(at, PackedMember(name, size, 0))
        output.seek(at + len(header))
        crc = 0
        with source:
            for piece in read_pieces(source):
                crc = zlib.crc32(piece, crc)
                output.write(piece)
        if output.tell() != at + len(header) + size:
            raise BundleError(f"{root / name} changed while it was read. Try again.", path=root / name)
        header, entry = describe_member(at, PackedMember(name, size, crc))
        output.seek(at)
        output.write(header)
        directory, at = directory + entry, at + len(header) + size
    output.seek(at)
    output.write(directory + end_of_members(len(names), at, len(directory)))
