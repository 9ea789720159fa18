"""Bundles and calibrations read from disk. They come from strangers: everything is checked before it is used."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from .. import __version__
from ..errors import BundleError, MissingError, OutdatedError, UsageError, quoted, unknown_name
from ..files import Folder, copy_hashed, hash_open, os_errors_explained, read_file, read_open, sha256
from .across import find_across
from .calibration import CALIBRATION_SCHEMA, OLDEST_CALIBRATION_SCHEMA, Calibration
from .manifest import OLDEST_SCHEMA, SCHEMA, Manifest, Variant

if TYPE_CHECKING:
    from .packed import PackedFile

__all__ = ["Bundle", "check_bundle", "open_bundle", "opened", "read_calibration"]

MOST_BYTES, MOST_CALIBRATIONS = 32 << 20, 500
"""A manifest or a calibration is no larger than 32 MiB, and no more calibrations of a bundle are looked through."""

MANIFEST = "manifest.json"

MOST_REASON = 500
"""The most characters of a decoder's reason, which repeats what the file says."""


ReadHook = Callable[[Path], bytes]
"""What makes of a file of a variant the content that is used."""


class Bundle(Struct, frozen=True):
    """A bundle on disk. Its manifest has been read, and every file that it names is there with the right size.

    Attributes:
        path: the bundle's folder, or its file if it is packed.
        manifest: what it holds.
        packed: the open file of a packed bundle, from which all is read; None of a folder.
        hook: makes of a variant's file the content that is used; None if it is used as it is. See `open_bundle`.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> bundle = open_bundle("digits.offramp")
        >>> [variant.name for variant in bundle.manifest.variants]
        ['fp32', 'int8']
        >>> len(bundle.variant("int8").exits)
        3
    """

    path: Path
    manifest: Manifest
    packed: "PackedFile | None" = None
    hook: ReadHook | None = None

    def variant(self, name: str | None = None) -> Variant:
        """Return a variant by its name, or the first one.

        Raises:
            UsageError: there is no variant of that name.
        """
        for variant in self.manifest.variants:
            if name in (None, variant.name):
                return variant
        names = [variant.name for variant in self.manifest.variants]
        raise unknown_name("variant", str(name), names, path=self.path)

    def chain(self, name: str | None = None) -> Variant:
        """Return what runs under this name: a variant, or a chain across two, such as `int8:0+fp32` (see `bundle.across`).

        Raises:
            UsageError: there is no such variant.
        """
        across = None if name is None else find_across(self.manifest, name)
        return self.variant(name) if across is None else across

    def read(self, variant: Variant, name: str) -> bytes:
        """Return the content of a variant's file, which is what the manifest says.

        What is run is made of these bytes, or of a `copy`: who opens the file again by its name may find another one there.

        Raises:
            BundleError: the file is damaged.
            MissingError: it cannot be read.
        """
        path, file = self._locate(variant, name), variant.files[name]
        with os_errors_explained(path, "read"):
            content = read_open(self._files.open(self._name(path)), most=file.bytes)
        if len(content) != file.bytes or sha256(content) != file.sha256:
            raise _damaged(path)
        if self.hook is None:
            return content
        from .read_hook import call_hook  # most products have none

        return call_hook(self.hook, path, content)

    def copy(self, variant: Variant, name: str, target: Path) -> Path:
        """Copy a variant's file to `target`, which is new, and return `target`. It holds what the manifest says.

        For large files and for what reads files by their names; only a piece at a time is in memory.

        Raises:
            BundleError: the file is damaged, and there is no copy.
            MissingError: it cannot be read, or the copy cannot be written; or what a hook makes of it would lie on the disk.
        """
        path, file = self._locate(variant, name), variant.files[name]
        if self.hook is not None:
            raise MissingError(
                f"{path} is needed as a file, and what read= makes of it is kept in memory alone. Run it on cpu, with ONNX "
                "Runtime 1.24 or newer; change a bundle before it is encrypted.",
                path=path,
            )
        with os_errors_explained(path, "read"):
            source = self._files.open(self._name(path))
        with source, os_errors_explained(target, "write"):
            if copy_hashed(source, target, most=file.bytes) != file.sha256:
                target.unlink()
                raise _damaged(path)
        return target

    def file(self, variant: Variant, name: str) -> Path:
        """Return the path of a variant's file after comparing its content with the manifest. To run it, take `read` or `copy`.

        Raises:
            BundleError: the file is damaged.
            MissingError: it cannot be read.
        """
        path = self._locate(variant, name)
        with os_errors_explained(path, "read"), self._files.open(self._name(path)) as file:
            digest = hash_open(file)
        if digest != variant.files[name].sha256:
            raise _damaged(path)
        return path

    def read_file(self, path: Path, *, most: int) -> bytes:
        """Return the content of any file at a path in the bundle, such as a build: at most `most` bytes and one more.

        Raises:
            BundleError: a link leads outside the bundle.
            OSError: it cannot be read.
        """
        self._files.check_inside(self._name(path))
        return read_open(self._files.open(self._name(path)), most=most)

    def read_calibration(self, path: Path) -> Calibration:
        """Read a calibration in the bundle; `path` is one that `calibrations` returned.

        Raises:
            BundleError, MissingError: as for the function.
        """
        with os_errors_explained(path, "read"):
            return _decode(path, self.read_file(path, most=MOST_BYTES), Calibration)

    def calibrations(self) -> list[Path]:
        """Return the calibration files inside the bundle, sorted by name. Hidden files are left out: a Mac adds such on drives.

        Raises:
            BundleError: there are so many that somebody means to slow the reader down.
        """
        files = sorted(file for file in self._files.glob("calibrations/*.json") if not file.name.startswith("."))
        if len(files) > MOST_CALIBRATIONS:
            raise BundleError(
                f"{self.path} has {len(files)} calibrations, and at most {MOST_CALIBRATIONS} are looked through. Remove those of "
                "other devices, or name the one to use (calibration=, --calibration).",
                path=self.path / "calibrations",
            )
        return files

    def builds(self) -> dict[str, list[str]]:
        """Return what was built ahead and lies in the bundle: the files' names below `engines/`, by device and variant.

        The manifest does not name them, so no hash of it covers them.
        """
        found: dict[str, list[str]] = {}
        for path in sorted(self._files.glob("engines/*/*/*.built"))[:MOST_CALIBRATIONS]:
            found.setdefault(f"{path.parent.parent.name}/{path.parent.name}", []).append(path.name)
        return found

    def check_changeable(self, folder: str, advice: str = "") -> None:
        """Check that files can be put into a folder of the bundle.

        Raises:
            UsageError: the bundle is packed. `advice` is repeated.
            BundleError: a link leads outside the bundle.
        """
        if self.packed is not None:
            raise UsageError(
                f"{self.path} is packed and stays as it is. {advice}{unpack_advice(self.path)}", path=self.path
            )
        Folder(self.path).check_inside(folder)

    @property
    def _files(self) -> "Folder | PackedFile":
        return self.packed or Folder(self.path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _locate(self, variant: Variant, name: str, real_root: str | None = None) -> Path:
        """Return the path of a variant's file, which is there with the right size and inside the bundle.

        Raises:
            BundleError: it is not.
            MissingError: its folder may not be read.
        """
        path, expected = self.path / f"{variant.folder}/{name}", variant.files[name].bytes
        with os_errors_explained(path, "read"):
            size = self._files.find_size(f"{variant.folder}/{name}", real_root)
        if size is None:
            raise BundleError(f"{path} is missing. Copy the bundle again or export it anew.", path=path)
        if size != expected:
            raise BundleError(
                f"{path} has {size} bytes where manifest.json says {expected}. Copy the bundle again or export it anew.",
                path=path,
            )
        return path


def unpack_advice(path: Path) -> str:
    """Say how a packed bundle becomes a folder again."""
    return f"Unpack it to change it: python -m zipfile -e {path} FOLDER"


def open_bundle(path: str | os.PathLike[str], *, read: ReadHook | None = None) -> Bundle:
    """Read a bundle's manifest, and check that every file it names is there with the right size.

    Contents are compared later, when a file is used (`Bundle.read`), since weights may be large. A packed bundle is opened once.

    Args:
        path: the bundle's folder, or the file that `pack` made of it.
        read: called as `read(path)` for each file of a variant that is used, after its content was compared with the manifest;
            what it returns is used in its place, as for a network that is stored encrypted. `path.read_bytes()` returns the
            content that was compared.

    Raises:
        UsageError: there is nothing at this path.
        BundleError: it is no bundle, or the bundle is damaged, newer than this version, or names files outside itself.
        MissingError: the bundle may not be read.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> open_bundle("digits.offramp").manifest.classes
        10
    """
    root = Path(path)
    if read is not None and not callable(read):
        raise UsageError(f"read is a function that takes a path and returns bytes, not {read!r:.60}.")
    with os_errors_explained(root, "read"):
        exists, is_folder, is_file = root.exists(), root.is_dir(), root.is_file()
        has_manifest = is_folder and (root / MANIFEST).is_file()
    if not exists:
        raise UsageError(f"There is no bundle at {root}.", path=root)
    packed = None
    if is_file:
        from .packed import open_packed  # most bundles are folders

        packed = open_packed(root)
        has_manifest = packed is not None and packed.find_size(MANIFEST) is not None
    if not has_manifest:
        raise BundleError(
            f"{root} is not an offramp bundle: a bundle is a folder with a manifest.json, or the file that offramp pack makes "
            "of one.",
            path=root,
        )
    files = packed or Folder(root)
    with os_errors_explained(root / MANIFEST, "read"):
        files.check_inside(MANIFEST)
        content = read_open(files.open(MANIFEST), most=MOST_BYTES)
    bundle = Bundle(root, _decode(root / MANIFEST, content, Manifest), packed, read)
    real_root = os.path.realpath(root)
    for variant, name in _distinct_files(bundle):
        bundle._locate(variant, name, real_root)
    return bundle


def opened(bundle: "str | os.PathLike[str] | Bundle", *, read: ReadHook | None = None) -> Bundle:
    """Return a bundle as it is, or open the one at a path. `read` is as for `open_bundle`.

    Raises:
        UsageError, BundleError, MissingError: as for `open_bundle`.

    Example:
        >>> from offramp.bundle import opened
        >>> bundle = opened("digits.offramp")
        >>> opened(bundle) is bundle
        True
    """
    if not isinstance(bundle, Bundle):
        return open_bundle(bundle, read=read)
    return bundle if read is None else msgspec.structs.replace(bundle, hook=read)


def check_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle and compare every file's content with the manifest.

    Raises:
        UsageError, BundleError, MissingError: as for `open_bundle`; BundleError also if a content differs.

    Example:
        >>> from offramp.bundle import check_bundle
        >>> check_bundle("digits.offramp").path.name
        'digits.offramp'
    """
    bundle = open_bundle(path)
    for variant, name in _distinct_files(bundle):
        bundle.file(variant, name)
    return bundle


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration from inside a bundle or elsewhere.

    Raises:
        UsageError: there is nothing at this path.
        BundleError: the file is no calibration, damaged, or newer than this version.
        MissingError: the file may not be read.

    Example:
        >>> from offramp.bundle import open_bundle, read_calibration
        >>> calibration = read_calibration(open_bundle("digits.offramp").calibrations()[0])
        >>> calibration.point.variant in calibration.variants
        True
    """
    path = Path(path)
    with os_errors_explained(path, "read"):
        if path.is_file():
            return _decode(path, read_file(path, most=MOST_BYTES), Calibration)
        packed = next((above for above in path.parents if above.is_file()), None)
    if packed is not None and path in (bundle := open_bundle(packed)).calibrations():
        return bundle.read_calibration(path)
    raise UsageError(f"There is no calibration at {path}.", path=path)


_Artefact = TypeVar("_Artefact", Manifest, Calibration)


class _Header(Struct):
    """The fields that keep their place and meaning in every schema."""

    schema: int
    offramp: str = "unknown"
    variants: msgspec.Raw = msgspec.Raw()


def _decode(path: Path, content: bytes, kind: type[_Artefact]) -> _Artefact:
    """Decode the content of a JSON file, its schema first.

    Raises:
        BundleError: the schema is newer, or the content does not fit it; OutdatedError if the schema is older.
    """
    artefact = "manifest" if kind is Manifest else "calibration"
    try:
        if len(content) > MOST_BYTES:
            raise BundleError(f"{path} is larger than {MOST_BYTES >> 20} MiB, which no {artefact} is.", path=path)
        header = msgspec.json.decode(content, type=_Header)
        if kind is Calibration and bytes(header.variants).startswith(b"["):  # a calibration has them by name
            raise BundleError(f"{path} is a bundle's manifest, not a calibration.", path=path)
        oldest, newest = (
            (OLDEST_SCHEMA, SCHEMA) if kind is Manifest else (OLDEST_CALIBRATION_SCHEMA, CALIBRATION_SCHEMA)
        )
        if header.schema > newest:
            raise BundleError(
                f"{path} has schema {header.schema}, written by a newer offramp ({quoted(header.offramp)}); this is offramp "
                f"{__version__}, which reads up to schema {newest}. Update offramp here.",
                path=path,
            )
        if header.schema < 1:
            raise BundleError(f"{path} has schema {header.schema}, which no offramp ever wrote.", path=path)
        if header.schema < oldest:
            remedy = "Export it again." if kind is Manifest else "Calibrate again, and remove it."
            raise OutdatedError(
                f"{path} has schema {header.schema}, written by offramp {quoted(header.offramp)}; this is offramp {__version__}, "
                f"which reads schemas {oldest} to {newest}. {remedy}",
                path=path,
            )
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, UsageError, RecursionError) as error:
        raise BundleError(
            f"{path} is not a valid {artefact}: {quoted(error, MOST_REASON)}. Copy it again or make it anew.", path=path
        ) from error


def _distinct_files(bundle: Bundle) -> Iterator[tuple[Variant, str]]:
    """Yield every file of a bundle, with a variant that names it: once, if several variants say the same of it."""
    seen = set()
    for variant in bundle.manifest.variants:
        for name, file in variant.files.items():
            if (variant.folder, name, file) not in seen:
                seen.add((variant.folder, name, file))
                yield variant, name


def _damaged(path: Path) -> BundleError:
    return BundleError(
        f"{path} is damaged: its sha256 is not the one in manifest.json. Copy the bundle again or export it anew.",
        path=path,
    )
