"""Manifests and calibrations decoded from bytes. They come from strangers: everything is checked before it is used."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from .. import __version__
from ..errors import BundleError, OutdatedError, UsageError, quoted
from .calibration import CALIBRATION_SCHEMA, OLDEST_CALIBRATION_SCHEMA, Calibration
from .manifest import OLDEST_SCHEMA, SCHEMA, Manifest

if TYPE_CHECKING:
    from .policies import Signed

__all__ = ["MANIFEST", "MOST_BYTES", "decode"]

MANIFEST = "manifest.json"

MOST_BYTES = 32 << 20
"""A manifest or a calibration is no larger than 32 MiB."""

MOST_REASON = 200
"""The most characters of a decoder's reason, which repeats what the file says."""

Artefact = TypeVar("Artefact", Manifest, Calibration)


class _Header(Struct):
    """The fields that keep their place and meaning in every schema."""

    schema: int
    offramp: str = "unknown"
    variants: msgspec.Raw = msgspec.Raw()


def decode(path: Path, content: bytes, kind: type[Artefact], signed: "Signed | None" = None) -> Artefact:
    """Decode the content of a JSON file, its schema first; before anything else the content is looked up in what is signed.

    Raises:
        BundleError: the schema is newer, or the content does not fit it; OutdatedError if the schema is older; TrustError if the
            content is not signed.
    """
    if signed is not None:
        signed.check(path, content)
    artefact, header = "manifest" if kind is Manifest else "calibration", None
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
    return [int(each or 0) for each in found.groups()] > [int(each or 0) for each in ours.groups()]
