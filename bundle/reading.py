"""Bundles and calibrations read from disk. They come from strangers: everything is checked before it is used."""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ..errors import BundleError, MissingError, UsageError, explain_source, unknown_name
from ..files import Folder, copy_hashed, hash_open, os_errors_explained, read_file, read_open, sha256
from .across import find_across
from .calibration import Calibration
from .decoding import MANIFEST, MOST_BYTES, decode
from .manifest import Manifest, Variant

if TYPE_CHECKING:
    from .packed import PackedFile
    from .policies import Signed, Trust
    from .signatures import Signature

    Trusted = Trust | str | os.PathLike[str]

__all__ = ["Bundle", "check_bundle", "open_bundle", "open_unsigned", "opened", "read_calibration"]

POLICY = Path("/etc/offramp/trust.json")
"""The machine's policy: whose bundles are taken here. See `policies`."""

MOST_CALIBRATIONS, MOST_CALIBRATION_BYTES = 500, 64 << 20
"""No more calibrations of a bundle are looked through, and no more bytes of them."""
ReadHook = Callable[[Path], bytes]


class Bundle(Struct, frozen=True):
    """A bundle on disk. Its manifest has been read, and every file that it names is there with the right size.

    Attributes:
        path: the bundle's folder, or its file if it is packed.
        manifest: what it holds.
        packed: the open file of a packed bundle, from which all is read; None of a folder.
        hook: makes of a variant's file the content that is used; None if it is used as it is. See `open_bundle`.
        signed: what of it may be used by the policies in force; None if there are none.

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
    signed: "Signed | None" = None

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
        return _read_inside(self._files, self.path, path, most)

    def read_calibration(self, path: Path) -> Calibration:
        """Read a calibration in the bundle; `path` is one that `calibrations` returned.

        Raises:
            BundleError, MissingError: as for the function; TrustError if a policy demands a signature that it has not.
        """
        with os_errors_explained(path, "read"):
            return decode(path, self.read_file(path, most=MOST_BYTES), Calibration, self.signed)

    def calibrations(self) -> list[Path]:
        """Return the calibration files inside the bundle, sorted by name. Hidden files are left out: a Mac adds such on drives.

        Raises:
            BundleError: there are so many that somebody means to slow the reader down, or a link leads out of the bundle.
            MissingError: one may not be read.
        """
        files = sorted(file for file in self._files.glob("calibrations/*.json") if not file.name.startswith("."))
        if len(files) > MOST_CALIBRATIONS:
            raise BundleError(
                f"{self.path} has {len(files)} calibrations, and at most {MOST_CALIBRATIONS} are looked through. Remove those of "
                "other devices, or name the one to use (calibration=, --calibration).",
                path=self.path / "calibrations",
            )
        with os_errors_explained(self.path / "calibrations", "read"):
            real = cache(os.path.realpath)
            total = sum(self._files.find_size(self._name(file), real) or 0 for file in files)
        if total > MOST_CALIBRATION_BYTES:
            raise BundleError(
                f"The calibrations of {self.path} have {total >> 20} MiB, and at most {MOST_CALIBRATION_BYTES >> 20} MiB are "
                "looked through. Remove those of other devices, or name the one to use (calibration=, --calibration).",
                path=self.path / "calibrations",
            )
        return files

    def builds(self) -> dict[str, list[str]]:
        """Return the names of builds below `engines/`, by device and variant. No hash in the manifest covers them."""
        found: dict[str, list[str]] = {}
        for path in sorted(self._files.glob("engines/*/*/*.built"))[:MOST_CALIBRATIONS]:
            found.setdefault(f"{path.parent.parent.name}/{path.parent.name}", []).append(path.name)
        return found

    def claims(self) -> "dict[str, Signature]":
        """Return what the signatures of the bundle say, whoever made them, by file. Those that cannot be read are left out."""
        from .policies import SIGNATURES, list_claims

        return list_claims(self._files.glob(f"{SIGNATURES}/*.sig"), partial(_read_inside, self._files, self.path))

    def check_changeable(self, folder: str, advice: str = "") -> None:
        """Check that files can be put into a folder of the bundle.

        Raises:
            UsageError: the bundle is packed. `advice` is repeated.
            BundleError: a link leads outside the bundle.
        """
        if self.packed is not None:
            raise self.packed.refuse_change(advice)
        Folder(self.path).check_inside(folder)

    @property
    def _files(self) -> "Folder | PackedFile":
        return self.packed or Folder(self.path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _locate(self, variant: Variant, name: str, real: Callable[[str], str] = os.path.realpath) -> Path:
        """Return the path of a variant's file, which is there with the right size and inside the bundle.

        Raises:
            BundleError: it is not.
            MissingError: its folder may not be read.
        """
        path, expected = self.path / f"{variant.folder}/{name}", variant.files[name].bytes
        with os_errors_explained(path, "read"):
            size = self._files.find_size(f"{variant.folder}/{name}", real)
        if size is None:
            raise BundleError(f"{path} is missing. Copy the bundle again or export it anew.", path=path)
        if size != expected:
            raise BundleError(
                f"{path} has {size} bytes where manifest.json says {expected}. Copy the bundle again or export it anew.",
                path=path,
            )
        return path


def open_bundle(
    path: str | os.PathLike[str], *, read: ReadHook | None = None, trust: "Trusted | None" = None
) -> Bundle:
    """Read a bundle's manifest, and check that every file it names is there with the right size.

    Contents are compared later, when a file is used (`Bundle.read`), since weights may be large. A packed bundle is opened once.

    Args:
        path: the bundle's folder, or the file that `pack` made of it.
        read: called as `read(path)` for each file of a variant that is used, after its content was compared with the manifest;
            what it returns is used in its place, as for a network that is stored encrypted. `path.read_bytes()` returns the
            content that was compared.
        trust: whose bundles are taken: a `Trust`, its file, or the public key of releases. A policy of this machine
            (`/etc/offramp/trust.json`) is obeyed in any case.

    Raises:
        UsageError: there is nothing at this path.
        BundleError: it is no bundle, or the bundle is damaged, newer than this version, or names files outside itself;
            TrustError if it is not signed as a policy demands.
        MissingError: the bundle may not be read.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> open_bundle("digits.offramp").manifest.classes
        10
    """
    if read is not None and not callable(read):
        raise UsageError(f"read is a function that takes a path and returns bytes, not {read!r:.60}.")
    return _open(Path(path), read, trust, POLICY if _is_there(POLICY) else None)


def open_unsigned(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle that is being made, whatever policies say.

    Raises:
        UsageError, BundleError, MissingError: as for `open_bundle`.
    """
    return _open(Path(path), None, None, None)


def _read_inside(files: "Folder | PackedFile", root: Path, path: Path, most: int) -> bytes:
    name = path.relative_to(root).as_posix()
    files.check_inside(name)
    return read_open(files.open(name), most=most)


def _is_there(path: Path) -> bool:
    """Return False if nothing lies at a path, and True too where that cannot be known."""
    try:
        path.lstat()
    except OSError as error:
        return not isinstance(error, (FileNotFoundError, NotADirectoryError))
    return True


def _open(root: Path, read: ReadHook | None, trust: "Trusted | None", policy: Path | None) -> Bundle:
    with os_errors_explained(root, "read"):
        exists, is_folder, is_file = root.exists(), root.is_dir(), root.is_file()
        has_manifest = is_folder and (root / MANIFEST).is_file()
    if not exists:
        raise UsageError(f"There is no bundle at {root}.{explain_source(root)}", path=root)
    packed, signed = None, None
    if is_file:
        from .packed import open_packed  # most bundles are folders

        with contextlib.suppress(*[BundleError] * bool(explain_source(root))):  # samples may be archives, too
            packed = open_packed(root)
        has_manifest = packed is not None and packed.find_size(MANIFEST) is not None
    if not has_manifest:
        raise BundleError(
            f"{root} is not an offramp bundle: a bundle is a folder with a manifest.json, or the file that offramp pack makes "
            f"of one.{explain_source(root)}",
            path=root,
        )
    files = packed or Folder(root)
    with os_errors_explained(root / MANIFEST, "read"):
        content = _read_inside(files, root, root / MANIFEST, MOST_BYTES)
    if trust is not None or policy is not None:
        from .policies import SIGNATURES, check_signatures  # most products demand no signatures

        paths = sorted(files.glob(f"{SIGNATURES}/*.sig"))
        signed = check_signatures(root, content, paths, partial(_read_inside, files, root), trust=trust, policy=policy)
    bundle = Bundle(root, decode(root / MANIFEST, content, Manifest), packed, read, signed)
    real = cache(os.path.realpath)
    for variant, name in _distinct_files(bundle):
        bundle._locate(variant, name, real)
    return bundle


def opened(
    bundle: "str | os.PathLike[str] | Bundle", *, read: ReadHook | None = None, trust: "Trusted | None" = None
) -> Bundle:
    """Return a bundle as it is, or open the one at a path. With `trust` it is read again: what was verified is what is used.

    Raises:
        UsageError, BundleError, MissingError: as for `open_bundle`.

    Example:
        >>> from offramp.bundle import opened
        >>> bundle = opened("digits.offramp")
        >>> opened(bundle) is bundle
        True
    """
    if not isinstance(bundle, Bundle):
        return open_bundle(bundle, read=read, trust=trust)
    if trust is not None:
        return open_bundle(bundle.path, read=read or bundle.hook, trust=trust)
    return bundle if read is None else msgspec.structs.replace(bundle, hook=read)


def check_bundle(path: "str | os.PathLike[str] | Bundle", *, trust: "Trusted | None" = None) -> Bundle:
    """Open a bundle, unless it is open, and compare every file's content with the manifest.

    Raises:
        UsageError, BundleError, MissingError: as for `open_bundle`; BundleError also if a content differs.

    Example:
        >>> from offramp.bundle import check_bundle
        >>> check_bundle("digits.offramp").path.name
        'digits.offramp'
    """
    bundle = opened(path, trust=trust)
    for variant, name in _distinct_files(bundle):
        bundle.file(variant, name)
    return bundle


def read_calibration(path: str | os.PathLike[str], *, signed: "Signed | None" = None) -> Calibration:
    """Read a calibration from inside a bundle or elsewhere. `signed` is what policies that are in force allow.

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
            return decode(path, read_file(path, most=MOST_BYTES), Calibration, signed)
        packed = next((above for above in path.parents if above.is_file()), None)
    if packed is not None and path in (bundle := open_bundle(packed)).calibrations():
        return msgspec.structs.replace(bundle, signed=signed or bundle.signed).read_calibration(path)
    raise UsageError(f"There is no calibration at {path}.", path=path)


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
