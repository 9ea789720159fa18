"""Bundles and calibrations read from disk. They come from strangers: everything is checked before it is used."""

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from .. import __version__
from ..errors import BundleError, MissingError, OutdatedError, UsageError, unknown_name
from ..files import hash_file, os_errors_explained
from .calibration import CALIBRATION_SCHEMA, OLDEST_CALIBRATION_SCHEMA, Calibration
from .manifest import OLDEST_SCHEMA, SCHEMA, Manifest, Variant

__all__ = ["Bundle", "check_bundle", "open_bundle", "opened", "read_calibration"]


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

    def file(self, variant: Variant, name: str) -> Path:
        """Return the path of a variant's file after comparing its content with the manifest.

        Raises:
            BundleError: the file is damaged.
        """
        path = _locate(self.path, variant, name)
        with os_errors_explained(path, "read"):
            digest = hash_file(path)
        if digest != variant.files[name].sha256:
            raise BundleError(
                f"{path} is damaged: its sha256 is not the one in manifest.json. Copy the bundle again or export it anew.",
                path=path,
            )
        return path

    def calibrations(self) -> list[Path]:
        """Return the calibration files inside the bundle, sorted by name."""
        return sorted((self.path / "calibrations").glob("*.json"))


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
    manifest = _decode(root / "manifest.json", Manifest)
    for variant in manifest.variants:
        for name in variant.files:
            _locate(root, variant, name)
    return Bundle(root, manifest)


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
    for variant in bundle.manifest.variants:
        for name in variant.files:
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
    variants: Any = None


def _decode(path: Path, kind: type[_Artefact]) -> _Artefact:
    """Decode a JSON file, its schema first.

    Raises:
        BundleError: the schema is newer, or the content does not fit it; OutdatedError if the schema is older.
        MissingError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
        header = msgspec.json.decode(content, type=_Header)
        if kind is Calibration and isinstance(header.variants, list):  # a calibration has them by name
            raise BundleError(f"{path} is a bundle's manifest, not a calibration.", path=path)
        oldest, newest = (
            (OLDEST_SCHEMA, SCHEMA) if kind is Manifest else (OLDEST_CALIBRATION_SCHEMA, CALIBRATION_SCHEMA)
        )
        if header.schema > newest:
            raise BundleError(
                f"{path} has schema {header.schema}, written by a newer offramp ({header.offramp}); this is offramp "
                f"{__version__}, which reads up to schema {newest}. Update offramp here.",
                path=path,
            )
        if header.schema < 1:
            raise BundleError(f"{path} has schema {header.schema}, which no offramp ever wrote.", path=path)
        if header.schema < oldest:
            remedy = "Export it again." if kind is Manifest else "Calibrate again, and remove it."
            raise OutdatedError(
                f"{path} has schema {header.schema}, written by offramp {header.offramp}; this is offramp {__version__}, "
                f"which reads schemas {oldest} to {newest}. {remedy}",
                path=path,
            )
        return msgspec.json.decode(content, type=kind)
    except OSError as error:
        raise MissingError(f"Cannot read {path}: {error.strerror}. Check its permissions.", path=path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, UsageError, RecursionError) as error:
        artefact = "manifest" if kind is Manifest else "calibration"
        raise BundleError(
            f"{path} is not a valid {artefact}: {error}. Copy it again or make it anew.", path=path
        ) from error


def _locate(root: Path, variant: Variant, name: str) -> Path:
    """Return the path of a variant's file, which is there with the right size and inside the bundle.

    Raises:
        BundleError: it is not.
        MissingError: its folder may not be read.
    """
    path = root / variant.folder / name
    with os_errors_explained(path, "read"):
        is_file = path.is_file()
        is_inside = is_file and path.resolve().is_relative_to(root.resolve())
        size = path.stat().st_size if is_file else 0
    if not is_file:
        raise BundleError(f"{path} is missing. Copy the bundle again or export it anew.", path=path)
    if not is_inside:
        raise BundleError(f"{path} leads outside the bundle through a link. Replace the link by the file.", path=path)
    if size != variant.files[name].bytes:
        raise BundleError(
            f"{path} has {size} bytes where manifest.json says {variant.files[name].bytes}. "
            "Copy the bundle again or export it anew.",
            path=path,
        )
    return path
