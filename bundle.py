"""The bundle: the folder that holds an exported network, and the calibrations made for it.

    kws.offramp/
      manifest.json                     what schema.Manifest says; its replacement is the only commit point
      variants/<folder>/weights.bin     the weights, external data of every graph beside it
      variants/<folder>/whole.onnx      the whole graph with all exits
      variants/<folder>/stage<k>.onnx   what runs between exit k-1 and exit k
      variants/<folder>/static<k>.onnx  the plain network that ends at exit k, without the earlier heads: the baseline
      variants/<folder>/golden.npz      a few inputs and what every exit says of them
      variants/<folder>/<name>.*        the files of a variant that shares these weights
      engines/<device>/<variant>/*      stages built ahead for a device, each with a record of what it fits; may be removed
      calibrations/<name>.json          operating points; may also lie outside the bundle

A bundle comes from strangers: everything is validated while it is decoded, and every file that the manifest names is checked
against its size and sha256 before an engine sees it.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from . import __version__
from .errors import BundleError, MissingError, OutdatedError, UsageError, unknown
from .files import NEW, check_writable, explained, hash_file, new_name, remove_tree, sync, write_atomically
from .points import CALIBRATION_SCHEMA, Calibration
from .schema import PLAIN, SCHEMA, File, Manifest, Variant

_OURS = re.compile(r"weights\.bin|([\w.-]+\.)?(golden\.npz|(whole|probe|stage\d+(\.guarded)?|static\d+)\.onnx)")
"""The names of the files in a variant's folder."""


class Bundle(Struct, frozen=True):
    """A bundle on disk whose manifest has been read and whose files are there in full."""

    path: Path
    manifest: Manifest

    def variant(self, name: str | None = None) -> Variant:
        """Return a variant by name, or the first.

        Raises:
            UsageError: there is none of that name.
        """
        for variant in self.manifest.variants:
            if name in (None, variant.name):
                return variant
        raise unknown("variant", str(name), [variant.name for variant in self.manifest.variants])

    def file(self, variant: Variant, name: str) -> Path:
        """Return the path of a variant's file after checking its content against the manifest.

        Raises:
            BundleError: its sha256 differs.
        """
        path = _locate(self.path, variant, name)
        with explained(path, "read"):
            digest = hash_file(path)
        if digest != variant.files[name].sha256:
            raise BundleError(
                f"{path} is damaged: its sha256 is not the one in manifest.json. Copy the bundle again or export it anew."
            )
        return path

    def calibrations(self) -> list[Path]:
        """Return the calibration files inside the bundle, sorted by name."""
        return sorted((self.path / "calibrations").glob("*.json"))


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle's manifest and see that every file it names is there in full.

    Contents are hashed when they are used (`Bundle.file`), since weights may be large.

    Raises:
        UsageError: there is nothing at this path.
        BundleError: it is no bundle, or one that is damaged, newer than this version, or names files outside itself.
        MissingError: it may not be read.
    """
    root = Path(path)
    with explained(root, "read"):
        there, whole = root.exists(), root.is_dir() and (root / "manifest.json").is_file()
    if not there:
        raise UsageError(f"There is no bundle at {root}.")
    if not whole:
        raise BundleError(f"{root} is not an offramp bundle: a bundle is a folder with a manifest.json.")
    manifest = _decode(root / "manifest.json", Manifest)
    for variant in manifest.variants:
        for name in variant.files:
            _locate(root, variant, name)
    return Bundle(root, manifest)


def check_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle and compare every file's content with the manifest.

    Raises:
        UsageError, BundleError: as for `open_bundle`.
    """
    bundle = open_bundle(path)
    for variant in bundle.manifest.variants:
        for name in variant.files:
            bundle.file(variant, name)
    return bundle


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration from inside a bundle or elsewhere.

    Raises:
        UsageError: there is nothing at this path.
        BundleError: it is no calibration, damaged, or newer than this version.
    """
    with explained(Path(path), "read"):
        if not Path(path).is_file():
            raise UsageError(f"There is no calibration at {path}.")
    return _decode(Path(path), Calibration)


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
            with explained(path, "read"):
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
    with explained(root, "write"):
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root} is a file. Name a new folder or a bundle to replace.")
        if root.is_dir() and (strange := _not_ours(root)):
            raise UsageError(f"{root} is a folder that holds other things ({strange}). Name a new folder.")
        made = [folder for folder in (root / "variants", root) if not folder.exists()]
        (root / "variants").mkdir(parents=True, exist_ok=True)
    try:
        with _locked(root):
            folder = new_name(root / "variants")
            with explained(root, "write"):
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
    with explained(root, "write"):
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
    if not re.fullmatch(PLAIN, name):
        raise UsageError(f"A variant's name is letters, digits, dots, dashes and underscores, not {name!r}.")
    if name in (known.name for known in bundle.manifest.variants):
        raise UsageError(
            f"{bundle.path} already has a variant {name}. Choose another name (--name, or --beside when exporting)."
        )
    return name


_Artefact = TypeVar("_Artefact", Manifest, Calibration)


class _AnyCalibration(Struct):
    """What calibrations of every form have."""

    schema: int
    points: dict[str, Any]


class _Header(Struct):
    schema: int
    offramp: str = "unknown"


def _decode(path: Path, kind: type[_Artefact]) -> _Artefact:
    try:
        content = path.read_bytes()
        header = msgspec.json.decode(content, type=_Header)
        newest = SCHEMA if kind is Manifest else CALIBRATION_SCHEMA
        if header.schema > newest:
            raise BundleError(
                f"{path} has schema {header.schema}, written by offramp {header.offramp}; this is offramp {__version__}, "
                f"which reads up to schema {newest}. Update offramp here."
            )
        if header.schema < 1:
            raise BundleError(f"{path} has schema {header.schema}, which no offramp ever wrote.")
        if header.schema < newest:
            remedy = "Export it again." if kind is Manifest else "Calibrate again, and remove it."
            raise OutdatedError(
                f"{path} has schema {header.schema}, written by offramp {header.offramp}; this is offramp {__version__}, "
                f"which reads schema {newest} only. {remedy}"
            )
        return msgspec.json.decode(content, type=kind)
    except OSError as error:
        raise MissingError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, UsageError, RecursionError) as error:
        what = "manifest" if kind is Manifest else "calibration"
        raise BundleError(f"{path} is not a valid {what}: {error}. Copy it again or make it anew.") from error


def _encode(artefact: Manifest | Calibration) -> bytes:
    return msgspec.json.format(msgspec.json.encode(artefact), indent=1) + b"\n"


def _encode_checked(manifest: Manifest) -> bytes:
    content = _encode(manifest)
    try:
        msgspec.json.decode(content, type=Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"The network does not fit into a bundle: {error}.") from error
    return content


def _locate(root: Path, variant: Variant, name: str) -> Path:
    path = root / variant.folder / name
    with explained(path, "read"):
        there = path.is_file()
        inside = path.resolve().is_relative_to(root.resolve())
        size = path.stat().st_size if there else 0
    if not there:
        raise BundleError(f"{path} is missing. Copy the bundle again or export it anew.")
    if not inside:
        raise BundleError(f"{path} leads outside the bundle through a link. Replace the link by the file.")
    if size != variant.files[name].bytes:
        raise BundleError(
            f"{path} has {size} bytes where manifest.json says {variant.files[name].bytes}. "
            "Copy the bundle again or export it anew."
        )
    return path


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
