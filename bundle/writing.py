"""Bundles and calibrations are written so that a kill at any moment leaves the old one or the new one."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import BundleError, UsageError
from ..files import NEW, check_writable, hash_file, new_name, os_errors_explained, remove_tree, sync, write_atomically
from .calibration import Calibration
from .manifest import PLAIN_NAME, File, Manifest
from .reading import Bundle, open_bundle

_OURS = re.compile(r"weights\.bin|([\w.-]+\.)?(golden\.npz|(whole|probe|stage\d+(\.guarded)?|static\d+)\.onnx)")
"""The names of the files in a variant's folder."""


def check_replaceable(path: str | os.PathLike[str]) -> Path:
    """See that a calibration can be written to a path without destroying something else; return the path.

    Raises:
        UsageError: something is there that is no calibration.
        MissingError: the place cannot be written.
    """
    if not str(path):
        raise UsageError("The name of the file for the calibration is empty.")
    path = Path(path)
    check_writable(path)
    if path.exists():
        try:
            with os_errors_explained(path, "read"):
                msgspec.json.decode(path.read_bytes() if path.is_file() else b"", type=_AnyCalibration)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UsageError(f"{path} is there and is no calibration. Name another file, or remove it.") from None
    return path


def write_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Write a calibration atomically, making its folder where that is missing.

    Raises:
        MissingError: the place cannot be written.
    """
    path = Path(path)
    check_writable(path)
    write_atomically(path, _encode(calibration))


@contextlib.contextmanager
def new_variant(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder inside the bundle to fill with a variant's files; `commit` makes them count.

    One process at a time may write a bundle. What is not committed is removed on leaving; what a killed process left is
    removed by the next that commits. A bundle that was there stays as it was until `commit`.

    Raises:
        UsageError: something that is not a bundle lies at `path`, or another process is writing it.
        MissingError: the place cannot be written.
    """
    root = Path(path)
    with os_errors_explained(root, "write"):
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root} is a file. Name a new folder or a bundle to replace.")
        if root.is_dir() and (strange := _not_ours(root)):
            raise UsageError(f"{root} is a folder that holds other things ({strange}). Name a new folder.")
        made = [folder for folder in (root / "variants", root) if not folder.exists()]
        (root / "variants").mkdir(parents=True, exist_ok=True)
    try:
        with _locked(root):
            folder = new_name(root / "variants")
            with os_errors_explained(root, "write"):
                for leftover in [*root.glob(f"{NEW}*"), *(root / "variants").glob(f"{NEW}*")]:
                    remove_tree(leftover) if leftover.is_dir() else leftover.unlink()
                folder.mkdir()
            try:
                yield folder
            finally:
                remove_tree(folder, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def list_files(folder: Path) -> dict[str, File]:
    """Return size and sha256 of every file in a folder, by name."""
    contents = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: File(bytes=path.stat().st_size, sha256=hash_file(path)) for path in contents}


def commit(path: str | os.PathLike[str], folder: Path, manifest: Manifest, *, shares: bool = False) -> Bundle:
    """Make a filled folder the last variant of the bundle: put its files on disk, move them in place, replace the manifest.

    Variants that the manifest does not name any more are removed; whoever had opened such a one must open the bundle again.

    Args:
        path: the bundle.
        folder: what `new_variant` gave, with the new files in it.
        manifest: its last variant is the new one, the others are as they were.
        shares: whether the new variant's `folder` is that of another, whose weights it shares; none of its new files has a name
            that is there. Else it gets a folder of its own, which is filled in here.

    Raises:
        BundleError: the manifest is not one that could be read back; the bundle is left as it was.
        MissingError: the place cannot be written.
    """
    root, (*others, variant) = Path(path), manifest.variants
    with os_errors_explained(root, "write"):
        final = root / variant.folder if shares else _free_name(root / "variants" / variant.name)
        variant = msgspec.structs.replace(variant, folder=f"variants/{final.name}")
        manifest = msgspec.structs.replace(manifest, variants=(*others, variant))
        content = _encode_checked(manifest)
        files = sorted(folder.iterdir())
        for file in files:
            sync(file)
        if shares:
            listed = {name for one in others if one.folder == variant.folder for name in one.files}
            for leftover in final.iterdir():  # of a process that was killed before its manifest was written
                if leftover.name not in listed and _OURS.fullmatch(leftover.name):
                    leftover.unlink()
            for file in files:
                file.replace(final / file.name)
            sync(final)
        else:
            sync(folder)
            folder.rename(final)
            sync(root / "variants")
        write_atomically(root / "manifest.json", content)
        with contextlib.suppress(OSError):  # the folder above may be closed to us
            sync(root.parent)
        _remove_unlisted(root, manifest)
    return open_bundle(root)


def check_variant_name(name: str, bundle: Bundle) -> str:
    """See that a new variant can be called so; return the name.

    Raises:
        UsageError: it is taken, or no plain name.
    """
    if not re.fullmatch(PLAIN_NAME, name):
        raise UsageError(f"A variant's name is letters, digits, dots, dashes and underscores, not {name!r}.")
    if name in (known.name for known in bundle.manifest.variants):
        raise UsageError(
            f"{bundle.path} already has a variant {name}. Choose another name (--name, or --beside when exporting)."
        )
    return name


class _AnyCalibration(Struct):
    """What calibrations of every form have."""

    schema: int
    points: dict[str, Any]


def _encode(artefact: Manifest | Calibration) -> bytes:
    return msgspec.json.format(msgspec.json.encode(artefact), indent=1) + b"\n"


def _encode_checked(manifest: Manifest) -> bytes:
    content = _encode(manifest)
    try:
        msgspec.json.decode(content, type=Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"The network does not fit into a bundle: {error}.") from error
    return content


def _free_name(path: Path) -> Path:
    number = 2
    candidate = path
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def _remove_unlisted(root: Path, manifest: Manifest) -> None:
    """Remove the folders of variants that were replaced, or whose process was killed before they were committed."""
    listed = {Path(variant.folder).name for variant in manifest.variants}
    for old in (root / "variants").iterdir():
        if old.name not in listed and _is_variant(old):
            remove_tree(old, ignore_errors=True)


def _is_variant(folder: Path) -> bool:
    """Tell whether a folder holds a variant's files and nothing else, so that nothing of the user's is removed with it."""
    return folder.is_dir() and all(_OURS.fullmatch(entry.name) for entry in folder.iterdir())


def _not_ours(root: Path) -> str | None:
    """Return the name of something in a folder that no bundle has, or None."""
    known = {"manifest.json", "variants", "calibrations", "engines"}
    strange = [entry.name for entry in root.iterdir() if entry.name not in known and not entry.name.startswith(NEW)]
    if (root / "variants").is_dir() and not (root / "manifest.json").exists():
        strange += [f"variants/{entry.name}" for entry in (root / "variants").iterdir() if not _is_variant(entry)]
    return strange[0] if strange else None


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    import fcntl  # not on Windows, where bundles run but are not written

    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"Another process is writing {root}. Wait until it has finished.") from None
        yield
    finally:
        os.close(descriptor)
