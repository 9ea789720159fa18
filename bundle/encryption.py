"""A copy of a bundle whose files are encrypted, by a function of the user's."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from .. import __version__
from ..errors import UsageError
from ..files import new_name, os_errors_explained, remove_tree, sha256, sync, write_atomically
from .across import find_across
from .calibration import CALIBRATION_SCHEMA, Calibration
from .decoding import MANIFEST
from .manifest import SCHEMA, File, Manifest, Variant
from .read_hook import call_hook
from .reading import Bundle, open_unsigned, opened
from .writing import write_calibration

__all__ = ["encrypt"]


def encrypt(
    bundle: str | os.PathLike[str] | Bundle, output: str | os.PathLike[str], encrypt_file: Callable[[Path], bytes]
) -> Bundle:
    """Write a copy of a bundle in which every file of a variant is what a function makes of it.

    The manifest of the copy has the sizes and hashes of what was made, so that everything that checks a bundle needs no key. Its
    calibrations belong to it. They and the manifest stay readable, with names, shapes and figures. Builds are not copied: each
    holds a network.

    Args:
        bundle: the bundle, or its path.
        output: the folder to write, which is new.
        encrypt_file: called with a path for each file; `path.read_bytes()` returns what it holds. `load(read=)` takes the
            function that makes it again.

    Returns:
        The copy.

    Raises:
        UsageError: something lies at `output`, or the function returns no bytes.
        BundleError: the bundle is damaged, or the function fails.
        MissingError: a file cannot be read or written.

    Example:
        >>> from offramp.bundle import encrypt
        >>> from offramp.runtime import load
        >>> def turn(path):  # no encryption: see docs/how-to/update.md
        ...     return bytes(255 - byte for byte in path.read_bytes())
        >>> secret = encrypt("digits.offramp", "secret.offramp", turn)
        >>> load(secret, read=turn).exits == load("digits.offramp").exits
        True
    """
    bundle, output = opened(bundle), Path(output)
    with os_errors_explained(output, "write"):
        if os.path.lexists(output):
            raise UsageError(f"{output} is there. Name a new folder.", path=output)
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = new_name(output.parent)
        try:
            manifest = _write_variants(bundle, folder, encrypt_file)
            for path in bundle.calibrations():
                calibration = _fit(bundle.read_calibration(path), bundle.manifest, manifest)
                write_calibration(folder / "calibrations" / path.name, calibration)
            write_atomically(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
            folder.rename(output)
            sync(output.parent)
        finally:
            remove_tree(folder, ignore_errors=True)
    return open_unsigned(output)


def _write_variants(bundle: Bundle, folder: Path, encrypt_file: Callable[[Path], bytes]) -> Manifest:
    """Write what the function makes of each file; return the manifest with sizes and hashes of that."""
    made: dict[str, File] = {}
    for variant in bundle.manifest.variants:
        (folder / variant.folder).mkdir(parents=True, exist_ok=True)
        for name in variant.files:
            if (path := f"{variant.folder}/{name}") not in made:
                content = call_hook(encrypt_file, bundle.path / path, bundle.read(variant, name))
                write_atomically(folder / path, content)
                made[path] = File(bytes=len(content), sha256=sha256(content))
    variants = tuple(
        replace(variant, files={name: made[f"{variant.folder}/{name}"] for name in variant.files})
        for variant in bundle.manifest.variants
    )
    return replace(bundle.manifest, schema=SCHEMA, offramp=__version__, variants=variants)


def _fit(calibration: Calibration, before: Manifest, after: Manifest) -> Calibration:
    """Return a calibration of one manifest's variants for another's; what did not fit to the one fits to neither."""
    digests = dict(calibration.variants)
    for name, digest in digests.items():
        old, new = _find_chain(before, name), _find_chain(after, name)
        if old is not None and new is not None and old.digest == digest:
            digests[name] = new.digest
    return replace(calibration, schema=CALIBRATION_SCHEMA, variants=digests)


def _find_chain(manifest: Manifest, name: str) -> Variant | None:
    return next((each for each in manifest.variants if each.name == name), None) or find_across(manifest, name)
