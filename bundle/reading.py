"""Bundles and calibrations read from disk. They come from strangers: everything is checked before it is used."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from .. import __version__
from ..errors import BundleError, MissingError, OutdatedError, UsageError, quoted, unknown_name
from ..files import copy_hashed, hash_file, open_file, os_errors_explained, read_file, sha256
from .across import find_across
from .calibration import CALIBRATION_SCHEMA, OLDEST_CALIBRATION_SCHEMA, Calibration
from .manifest import OLDEST_SCHEMA, SCHEMA, Manifest, Variant

__all__ = ["Bundle", "check_bundle", "open_bundle", "opened", "read_calibration"]

MOST_BYTES, MOST_CALIBRATIONS, MOST_CALIBRATION_BYTES = 32 << 20, 500, 64 << 20
"""A manifest or a calibration is no larger than 32 MiB, and no more calibrations of a bundle are looked through."""

MOST_REASON = 200
"""The most characters of a decoder's reason, which repeats what the file says."""


class Bundle(Struct, frozen=True):
    """A bundle on disk. Its manifest has been read, and every file that it names is there with the right size.

    Attributes:
        path: the bundle's folder.
        manifest: what it holds.

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
        path, file = _locate(self.path, variant, name), variant.files[name]
        with os_errors_explained(path, "read"):
            content = read_file(path, most=file.bytes)
        if len(content) != file.bytes or sha256(content) != file.sha256:
            raise _damaged(path)
        return content

    def copy(self, variant: Variant, name: str, target: Path) -> Path:
        """Copy a variant's file to `target`, which is new, and return `target`. It holds what the manifest says.

        For large files and for what reads files by their names; only a piece at a time is in memory.

        Raises:
            BundleError: the file is damaged, and there is no copy.
            MissingError: it cannot be read, or the copy cannot be written.
        """
        path, file = _locate(self.path, variant, name), variant.files[name]
        with os_errors_explained(path, "read"):
            source = open_file(path)
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
        path = _locate(self.path, variant, name)
        with os_errors_explained(path, "read"):
            digest = hash_file(path)
        if digest != variant.files[name].sha256:
            raise _damaged(path)
        return path

    def calibrations(self) -> list[Path]:
        """Return the calibration files inside the bundle, sorted by name. Hidden files are left out: a Mac adds such on drives.

        Raises:
            BundleError: there are so many that somebody means to slow the reader down, or a link leads out of the bundle.
            MissingError: one may not be read.
        """
        files = sorted(f for f in (self.path / "calibrations").glob("*.json") if not f.name.startswith("."))
        if len(files) > MOST_CALIBRATIONS:
            raise BundleError(
                f"{self.path} has {len(files)} calibrations, and at most {MOST_CALIBRATIONS} are looked through. Remove those of "
                "other devices, or name the one to use (calibration=, --calibration).",
                path=self.path / "calibrations",
            )
        with os_errors_explained(self.path / "calibrations", "read"):
            real_root = os.path.realpath(self.path)
            for file in files:
                _check_inside(file, real_root)
            total = sum(file.stat().st_size for file in files if file.is_file())
        if total > MOST_CALIBRATION_BYTES:
            raise BundleError(
                f"The calibrations of {self.path} have {total >> 20} MiB, and at most {MOST_CALIBRATION_BYTES >> 20} MiB are "
                "looked through. Remove those of other devices, or name the one to use (calibration=, --calibration).",
                path=self.path / "calibrations",
            )
        return files

    def builds(self) -> dict[str, list[str]]:
        """Return what was built ahead and lies in the bundle: the files' names below `engines/`, by device and variant.

        The manifest does not name them, so no hash of it covers them.
        """
        found: dict[str, list[str]] = {}
        for path in sorted((self.path / "engines").glob("*/*/*.built"))[:MOST_CALIBRATIONS]:
            found.setdefault(f"{path.parent.parent.name}/{path.parent.name}", []).append(path.name)
        return found


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle's manifest, and check that every file it names is there with the right size.

    Contents are compared later, when a file is used (`Bundle.file`), since weights may be large.

    Raises:
        UsageError: there is nothing at this path.
        BundleError: the folder is no bundle, or the bundle is damaged, newer than this version, or names files outside itself.
        MissingError: the bundle may not be read.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> open_bundle("digits.offramp").manifest.classes
        10
    """
    root = Path(path)
    with os_errors_explained(root, "read"):
        exists, is_bundle = root.exists(), root.is_dir() and (root / "manifest.json").is_file()
    if not exists:
        raise UsageError(f"There is no bundle at {root}.", path=root)
    if not is_bundle:
        raise BundleError(f"{root} is not an offramp bundle: a bundle is a folder with a manifest.json.", path=root)
    real_root = os.path.realpath(root)
    _check_inside(root / "manifest.json", real_root)
    bundle = Bundle(root, _decode(root / "manifest.json", Manifest))
    for variant, name in _distinct_files(bundle):
        _locate(root, variant, name, real_root)
    return bundle


def opened(bundle: "str | os.PathLike[str] | Bundle") -> Bundle:
    """Return a bundle as it is, or open the one at a path.

    Raises:
        UsageError, BundleError, MissingError: as for `open_bundle`.

    Example:
        >>> from offramp.bundle import opened
        >>> bundle = opened("digits.offramp")
        >>> opened(bundle) is bundle
        True
    """
    return bundle if isinstance(bundle, Bundle) else open_bundle(bundle)


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
    with os_errors_explained(Path(path), "read"):
        if not Path(path).is_file():
            raise UsageError(f"There is no calibration at {path}.", path=path)
    return _decode(Path(path), Calibration)


_Artefact = TypeVar("_Artefact", Manifest, Calibration)


class _Header(Struct):
    """The fields that keep their place and meaning in every schema."""

    schema: int
    offramp: str = "unknown"
    variants: msgspec.Raw = msgspec.Raw()


def _decode(path: Path, kind: type[_Artefact]) -> _Artefact:
    """Decode a JSON file, its schema first.

    Raises:
        BundleError: the schema is newer, or the content does not fit it; OutdatedError if the schema is older.
        MissingError: the file cannot be read.
    """
    artefact, header = "manifest" if kind is Manifest else "calibration", None
    try:
        content = read_file(path, most=MOST_BYTES)
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
    except OSError as error:
        raise MissingError(f"Cannot read {path}: {error.strerror}. Check its permissions.", path=path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, UsageError, RecursionError) as error:
        if header is not None and _is_newer(header.offramp):
            raise BundleError(
                f"{path} was written by a newer offramp ({quoted(header.offramp)}) than this {__version__}, which does not read "
                f"all of it: {quoted(error, MOST_REASON)}. Update offramp here.",
                path=path,
            ) from error
        raise BundleError(
            f"{path} is not a valid {artefact}: {quoted(error, MOST_REASON)}. Copy it again or make it anew.", path=path
        ) from error


def _is_newer(version: str) -> bool:
    """Return True if a version of offramp is surely newer than this one, by its first numbers."""
    found, ours = (re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", text) for text in (version, __version__))
    if found is None or ours is None:
        return False
    return [int(number or 0) for number in found.groups()] > [int(number or 0) for number in ours.groups()]


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


def _check_inside(path: Path, real_root: str) -> None:
    """See that no link leads from a path in a bundle to the outside. `real_root` is the bundle's folder without links.

    Raises:
        BundleError: one does.
    """
    if not Path(os.path.realpath(path)).is_relative_to(real_root):
        raise BundleError(
            f"{path} leads outside the bundle through a link. Copy the bundle with what its links lead to: cp -rL.",
            path=path,
        )


def _locate(root: Path, variant: Variant, name: str, real_root: str | None = None) -> Path:
    """Return the path of a variant's file, which is there with the right size and inside the bundle.

    `real_root` is the root without links, if it is known already.

    Raises:
        BundleError: it is not.
        MissingError: its folder may not be read.
    """
    path = root / variant.folder / name
    with os_errors_explained(path, "read"):
        is_file = path.is_file()
        if is_file:
            _check_inside(path, real_root or os.path.realpath(root))
        size = path.stat().st_size if is_file else 0
    if not is_file:
        raise BundleError(f"{path} is missing. Copy the bundle again or export it anew.", path=path)
    if size != variant.files[name].bytes:
        raise BundleError(
            f"{path} has {size} bytes where manifest.json says {variant.files[name].bytes}. "
            "Copy the bundle again or export it anew.",
            path=path,
        )
    return path
