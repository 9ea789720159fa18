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

import os
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from .. import __version__
from ..errors import BundleError, MissingError, OutdatedError, UsageError, unknown_name
from ..files import hash_file, os_errors_explained
from .calibration import CALIBRATION_SCHEMA, Calibration
from .manifest import SCHEMA, Manifest, Variant


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
        raise unknown_name("variant", str(name), [variant.name for variant in self.manifest.variants])

    def file(self, variant: Variant, name: str) -> Path:
        """Return the path of a variant's file after checking its content against the manifest.

        Raises:
            BundleError: its sha256 differs.
        """
        path = _locate(self.path, variant, name)
        with os_errors_explained(path, "read"):
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
    with os_errors_explained(root, "read"):
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


def opened(bundle: "str | os.PathLike[str] | Bundle") -> Bundle:
    """Return a bundle that is open already, or open the one at a path; raises what `open_bundle` raises."""
    return bundle if isinstance(bundle, Bundle) else open_bundle(bundle)


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
    with os_errors_explained(Path(path), "read"):
        if not Path(path).is_file():
            raise UsageError(f"There is no calibration at {path}.")
    return _decode(Path(path), Calibration)


_Artefact = TypeVar("_Artefact", Manifest, Calibration)


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


def _locate(root: Path, variant: Variant, name: str) -> Path:
    path = root / variant.folder / name
    with os_errors_explained(path, "read"):
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
