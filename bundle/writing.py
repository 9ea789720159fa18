"""Bundles and calibrations written to disk. A kill at any moment leaves the old one or the new one."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from .. import __version__
from ..errors import BundleError, OfframpError, UsageError, printable
from ..files import (
    NEW,
    Folder,
    check_writable,
    hash_file,
    new_name,
    os_errors_explained,
    remove_tree,
    sync,
    write_atomically,
)
from .across import find_measured
from .calibration import Calibration
from .manifest import SCHEMA, File, Manifest, Variant
from .packed import is_packed, unpack_advice
from .reading import Bundle, open_bundle, open_unsigned
from .record import encode_number

__all__ = [
    "check_replaceable",
    "commit",
    "list_files",
    "new_variant",
    "open_unless_new",
    "remove_variant",
    "write_calibration",
    "write_manifest",
]

_OURS = re.compile(r"weights\.bin|([\w.-]+\.)?(golden\.npz|(whole|probe|stage\d+(\.guarded)?|static\d+)\.onnx)")
"""The names of the files in a variant's folder."""


def check_replaceable(path: str | os.PathLike[str]) -> Path:
    """Check that a calibration can be written to a path without destroying something else; return the path.

    Raises:
        UsageError: the file there is no calibration.
        MissingError: the file cannot be written.
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
            raise UsageError(
                f"{path} is there and is no calibration. Name another file, or remove it.", path=path
            ) from None
    return path


def write_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Write a calibration atomically; its folder is made if it is missing.

    Raises:
        UsageError: what is there is no file.
        MissingError: the file cannot be written.

    Example:
        >>> from offramp.bundle import open_bundle, read_calibration, write_calibration
        >>> calibration = read_calibration(open_bundle("digits.offramp").calibrations()[0])
        >>> write_calibration("boards/board1.json", calibration)
        >>> read_calibration("boards/board1.json") == calibration
        True
    """
    path = Path(path)
    check_writable(path)
    write_atomically(path, _encode(calibration))


@contextlib.contextmanager
def new_variant(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder inside the bundle for the files of a new variant; `commit` makes them part of the bundle.

    One process at a time may write a bundle. Files that are not committed are removed when the block ends, and files of a killed
    process by the next writer. An existing bundle stays as it was until `commit`.

    Raises:
        UsageError: something that is not a bundle lies at `path`, or another process is writing it.
        MissingError: the folder cannot be written.
    """
    root = Path(path)
    with os_errors_explained(root, "write"):
        if root.exists() and not root.is_dir():
            advice = unpack_advice(root) if is_packed(root) else "Name a new folder or a bundle to replace."
            raise UsageError(f"{root} is a file. {advice}", path=root)
        for name in ("variants", "calibrations", "manifest.json"):
            Folder(root).check_inside(name)
        if root.is_dir() and (strange := _not_ours(root)):
            raise UsageError(f"{root} is a folder that holds other things ({strange}). Name a new folder.", path=root)
        new_folders = [folder for folder in (root / "variants", root) if not folder.exists()]
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
            for folder in new_folders:  # those that are still empty
                folder.rmdir()


def list_files(folder: Path) -> dict[str, File]:
    """Return size and sha256 of every file in a folder, by name."""
    contents = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: File(bytes=path.stat().st_size, sha256=hash_file(path)) for path in contents}


def commit(
    path: str | os.PathLike[str], folder: Path, manifest: Manifest, *, shares: bool = False, may_lose: bool = True
) -> Bundle:
    """Make a filled folder the last variant of the bundle: put its files on disk, move them in place, replace the manifest.

    Variants that the new manifest does not name are removed, with a warning that names them and the calibrations that were made
    for them; who had opened one of them must open the bundle again. They stay if the network that replaces theirs is the same.

    Args:
        path: the bundle.
        folder: the folder from `new_variant`, with the new files in it.
        manifest: its last variant is the new one, the others are as they were.
        shares: True if the new variant shares the `folder` and the weights of another one; its files have names that are not
            there yet. False if it gets a folder of its own, whose name is filled in here.
        may_lose: False refuses to remove variants, or to leave calibrations behind that nothing uses any more.

    Raises:
        UsageError: something would be lost that may not be; the bundle is left as it was.
        BundleError: the manifest could not be read back; the bundle is left as it was.
        MissingError: the bundle cannot be written.
    """
    root, (*others, variant) = Path(path), manifest.variants
    before = _open_if_there(root)
    with os_errors_explained(root, "write"):
        final = root / variant.folder if shares else _free_name(root / "variants" / variant.name)
        variant = msgspec.structs.replace(variant, folder=f"variants/{final.name}")
        kept = () if before is None else _kept(before.manifest, manifest)
        manifest = msgspec.structs.replace(
            manifest, schema=SCHEMA, offramp=__version__, variants=(*others, variant, *kept)
        )  # the bundle may be an older one
        content = _encode_checked(manifest, root)
        lost = "" if before is None else _describe_loss(before, manifest)
        if lost and not may_lose:
            raise UsageError(
                printable(
                    f"{root} holds another network, and to replace it loses what was made of that: {lost}. Name another bundle, "
                    "add the network to this one (--beside), or say that this may go: --replace (replace=True)."
                ),
                path=root,
            )
        files = sorted(folder.iterdir())
        for file in files:
            sync(file)
        if shares:
            # A process was killed before it wrote its manifest. What a variant has that is replaced, goes after that.
            _remove_files(final, (*others, *(() if before is None else before.manifest.variants)))
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
        if lost:
            warnings.warn(printable(f"{root} is replaced: {lost}."), stacklevel=2)
        if shares:
            _remove_files(final, manifest.variants)
        _remove_unlisted(root, manifest)
    return open_unsigned(root)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Replace a bundle's manifest, which names the same files as before, by one that decodes again.

    Raises:
        BundleError: it does not.
        MissingError: the file cannot be written.
    """
    write_atomically(root / "manifest.json", _encode_checked(manifest, root))


def remove_variant(path: str | os.PathLike[str], name: str) -> Bundle:
    """Remove a variant from a bundle, with the files that no other variant names.

    Raises:
        UsageError: there is no such variant, it is the only one, another was made from it, or another process writes the bundle.
        BundleError, MissingError: as for `open_bundle`; MissingError too if the bundle cannot be written.
    """
    root = Path(path)
    open_unsigned(root).variant(name)
    with new_variant(root):  # it holds the bundle's lock
        bundle = open_unsigned(root)
        removed = bundle.variant(name)
        others = tuple(variant for variant in bundle.manifest.variants if variant is not removed)
        made_from = [other.name for other in others if other.origin is not None and other.origin.parent == name]
        if not others or made_from:
            why = f"{made_from[0]} was made from it" if made_from else "it is the only one"
            raise UsageError(f"The variant {name} of {root} cannot be removed: {why}.", path=root)
        manifest = msgspec.structs.replace(bundle.manifest, variants=others)
        listed = {f"{other.folder}/{file}" for other in others for file in other.files}
        with os_errors_explained(root, "write"):
            write_atomically(root / "manifest.json", _encode_checked(manifest, root))
            for path_in_bundle in {f"{removed.folder}/{file}" for file in removed.files} - listed:
                (root / path_in_bundle).unlink(missing_ok=True)
            _remove_unlisted(root, manifest)
    return open_unsigned(root)


def open_unless_new(path: str | os.PathLike[str]) -> Bundle | None:
    """Return the bundle at a path; None if nothing is there, or only what a first export left that was killed.

    Raises:
        BundleError, MissingError: as for `open_bundle`.
    """
    root = Path(path)
    with os_errors_explained(root, "read"):
        is_folder, has_manifest = root.is_dir(), (root / "manifest.json").exists()
        is_new = not root.exists() or (is_folder and not has_manifest and _not_ours(root) is None)
    return None if is_new else open_bundle(root)


def _open_if_there(root: Path) -> Bundle | None:
    """Return the bundle that is about to be changed; None if there is none, or none that can be read."""
    try:
        return open_unsigned(root)
    except OfframpError:
        return None


def _kept(old: Manifest, new: Manifest) -> tuple[Variant, ...]:
    """Return variants that stay though a new manifest does not name them, since the network they were made from is unchanged."""
    exported = {variant.name: variant.digest for variant in new.variants}
    reference = old.variants[0]
    if exported.get(reference.name) != reference.digest or (old.inputs, old.classes) != (new.inputs, new.classes):
        return ()
    return tuple(variant for variant in old.variants if variant.name not in exported)


def _describe_loss(before: Bundle, manifest: Manifest) -> str:
    """Return which variants and calibrations a new manifest leaves behind; empty if none."""
    names = {variant.name for variant in manifest.variants}
    lost = [variant.name for variant in before.manifest.variants if variant.name not in names]
    orphans = []
    with contextlib.suppress(BundleError):  # there are too many
        for path in before.calibrations():
            with contextlib.suppress(OfframpError):
                calibration = before.read_calibration(path)
                old, new = (
                    all(find_measured(each, calibration, point) for point in calibration.points.values())
                    for each in (before.manifest, manifest)
                )
                if old and not new:
                    orphans.append(path.name)
    parts = [f"variants {', '.join(lost)} are removed with the network that was there"] if lost else []
    if orphans:
        parts.append(f"{', '.join(orphans)} was calibrated for what is gone and is not used: run offramp calibrate")
    return "; ".join(parts)


class _AnyCalibration(Struct):
    """The fields that calibrations of every schema have."""

    schema: int
    points: dict[str, Any]


def _encode(artefact: Manifest | Calibration) -> bytes:
    return msgspec.json.format(msgspec.json.encode(artefact, enc_hook=encode_number), indent=1) + b"\n"


def _encode_checked(manifest: Manifest, root: Path) -> bytes:
    """Encode a manifest that decodes again.

    Raises:
        BundleError: it does not.
    """
    content = _encode(manifest)
    try:
        msgspec.json.decode(content, type=Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"The network does not fit into a bundle: {error}.", path=root) from error
    return content


def _free_name(path: Path) -> Path:
    """Return the path, or the first of `path-2`, `path-3`, ... that does not exist."""
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


def _remove_files(folder: Path, variants: Iterable[Variant]) -> None:
    """Remove the files in a folder of variants that none of them names."""
    listed = {file for variant in variants if Path(variant.folder).name == folder.name for file in variant.files}
    for leftover in folder.iterdir():
        if leftover.name not in listed and _OURS.fullmatch(leftover.name):
            leftover.unlink()


def _is_variant(folder: Path) -> bool:
    """Return True if a folder holds a variant's files and nothing else, so that no file of the user is removed with it."""
    return folder.is_dir() and all(_OURS.fullmatch(entry.name) for entry in folder.iterdir())


def _not_ours(root: Path) -> str | None:
    """Return the name of something in a folder that no bundle holds; None if there is nothing else."""
    ours = {"manifest.json", "variants", "calibrations", "engines", "signatures"}
    harmless = (NEW, "._", ".DS_Store")  # unfinished, or what a Mac adds
    strange = [entry.name for entry in root.iterdir() if entry.name not in ours and not entry.name.startswith(harmless)]
    Folder(root).check_inside("variants")
    if (root / "variants").is_dir() and not (root / "manifest.json").exists():
        strange += [f"variants/{entry.name}" for entry in (root / "variants").iterdir() if not _is_variant(entry)]
    return strange[0] if strange else None


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the exclusive lock of a bundle's folder; warn where its drive has no locks.

    Raises:
        UsageError: another process holds it.
    """
    import fcntl  # not on Windows, where bundles run but are not written

    with os_errors_explained(root, "write"):
        descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"Another process is writing {root}. Wait until it has finished.", path=root) from None
        except OSError as error:  # some network and USB drives have no locks
            warnings.warn(
                printable(
                    f"{root} lies on a drive without locks ({error.strerror}): let one process at a time write it."
                ),
                stacklevel=4,
            )
        yield
    finally:
        with contextlib.suppress(OSError):  # a child that was forked meanwhile has the lock, too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
