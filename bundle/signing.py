"""Bundles signed, in the form of the OpenSSF's model-signing: its `model_signing verify key` takes what is signed here."""

import json
import os
from binascii import b2a_base64
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..errors import UsageError, require
from ..files import hash_file, os_errors_explained, read_file, sha256, write_atomically
from .policies import LATER, SIGNATURES
from .reading import Bundle, check_bundle, open_unsigned
from .signatures import (
    CURVES,
    MEDIA_TYPE,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    PublicKey,
    join_signed,
    parse_key,
)

__all__ = ["SignedFiles", "sign_bundle"]

MOST_KEY_BYTES = 1 << 16


class SignedFiles(Struct, frozen=True):
    """What was signed.

    Attributes:
        path: the file with the signature.
        key: the fingerprint of the key, which is the sha256 of its public half as a PEM file.
        name: the bundle's name, which is signed, too.
        release: the number of the release; None if only what came later was signed.
        files: the paths in the bundle.

    Example:
        >>> from offramp.bundle import sign_bundle
        >>> signed = sign_bundle("digits.offramp", "release.pem", release=7)
        >>> signed.name, signed.release
        ('digits.offramp', 7)
    """

    path: str
    key: str
    name: str
    release: int | None
    files: tuple[str, ...]


def sign_bundle(
    bundle: str | os.PathLike[str], key: str | os.PathLike[str], *, release: int | None = None
) -> SignedFiles:
    """Sign a bundle.

    Args:
        bundle: the bundle's folder. Its name is signed, too.
        key: a private key on the curve P-256, P-384 or P-521: a PEM file that is not encrypted.
        release: the number of this release, greater than those before; all files are signed. Without it those calibrations and
            builds are signed that no other signature covers, as they are made on a board after the release.

    Returns:
        What was signed. The signature lies in the bundle's `signatures/`, where it replaces an earlier one of this key.

    Raises:
        UsageError: there is no bundle or no such key; it is packed, or holds links; or without `release` nothing is left to be
            signed.
        BundleError: the bundle is damaged.
        MissingError: `cryptography` is not installed, or the signature cannot be written.

    Example:
        >>> from offramp.bundle import sign_bundle
        >>> sign_bundle("digits.offramp", "release.pem", release=7).path
        'digits.offramp/signatures/release-...sig'
    """
    if release is not None and (not isinstance(release, int) or not 0 <= release < 2**53):
        raise UsageError(f"The number of a release is a whole number from 0 on, not {release!r:.30}.")
    private, public = _read_private(Path(key))
    opened = open_unsigned(bundle)
    opened.check_changeable(SIGNATURES, "It is signed before it is packed. ")
    files = _list_files(opened.path)
    if release is None:
        files = _select_later(opened, files, public)
    else:
        check_bundle(opened)
    name = opened.path.resolve().name
    with os_errors_explained(opened.path, "read"):
        digests = {file: hash_file(opened.path / file) for file in files}
    payload = _encode_statement(name, digests, release)
    content = _encode_signature(payload, private, public)
    path = opened.path / SIGNATURES / f"{'later' if release is None else 'release'}-{public.fingerprint[:16]}.sig"
    with os_errors_explained(path, "write"):
        path.parent.mkdir(exist_ok=True)
    write_atomically(path, content)
    return SignedFiles(str(path), public.fingerprint, name, release, tuple(files))


def _read_private(path: Path) -> tuple[Any, PublicKey]:
    """Return a private key and its public half.

    Raises:
        UsageError: the file is missing or holds no such key.
    """
    serialization = require("cryptography.hazmat.primitives.serialization", extra="trust")
    with os_errors_explained(path, "read"):
        if not path.exists():
            raise UsageError(f"There is no key at {path}.", path=path)
        content = read_file(path, most=MOST_KEY_BYTES)
    forms = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        private = serialization.load_pem_private_key(content, None)
        public = parse_key(private.public_key().public_bytes(*forms).decode())
    except TypeError as error:
        raise UsageError(
            f"The key {path} is encrypted. Sign with a copy that is not: openssl pkey -in {path.name} -out KEY.pem.",
            path=path,
        ) from error
    except Exception as error:  # a damaged key raises one of several types
        raise UsageError(f"{path} holds no private key in a PEM file.", path=path) from error
    if public is None:
        raise UsageError(
            f"The key {path} is not on the curve P-256, P-384 or P-521. Make one: openssl ecparam -name prime256v1 -genkey "
            "-noout -out KEY.pem.",
            path=path,
        )
    return private, public


def _list_files(root: Path) -> list[str]:
    """Return the paths of all files in a bundle but its signatures, sorted.

    Raises:
        UsageError: one is a link, which model-signing refuses.
    """
    files = []
    with os_errors_explained(root, "read"):
        for path in root.rglob("*"):
            if path.is_symlink():
                raise UsageError(
                    f"{path} is a link. Sign a copy of the bundle with what its links lead to: cp -rL.", path=path
                )
            if path.is_file() and path.relative_to(root).parts[0] != SIGNATURES:
                files.append(path.relative_to(root).as_posix())
    return sorted(files)


def _select_later(bundle: Bundle, files: list[str], public: PublicKey) -> list[str]:
    """Return the manifest, which says what a signature belongs to, and what came after the release.

    Raises:
        UsageError: nothing did.
    """
    manifest = hash_file(bundle.path / "manifest.json")
    own = f"later-{public.fingerprint[:16]}.sig"
    others = [claim.files for name, claim in bundle.claims().items() if name != own]
    covered = {item for other in others if other.get("manifest.json") == manifest for item in other.items()}
    later = [f for f in files if f.startswith(LATER) and (f, hash_file(bundle.path / f)) not in covered]
    if not later:
        raise UsageError(
            f"{bundle.path} has no calibration and no build that is not signed yet. To sign a release: --release NUMBER.",
            path=bundle.path,
        )
    return ["manifest.json", *later]


def _encode_statement(name: str, digests: dict[str, str], release: int | None) -> bytes:
    """Return the in-toto statement that model-signing makes of files; it leaves out what it does not know, the release."""
    joined = b"".join(bytes.fromhex(digest) for digest in digests.values())
    predicate: dict[str, Any] = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [SIGNATURES],
        },
        "resources": [{"algorithm": "sha256", "digest": digests[file], "name": file} for file in digests],
    }
    if release is not None:
        predicate["offramp"] = {"release": release}
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256(joined)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return json.dumps(statement).encode()


def _encode_signature(payload: bytes, private: Any, public: PublicKey) -> bytes:
    """Sign a statement, and return the file that holds both."""
    ec, hashes = (
        require(f"cryptography.hazmat.primitives.{name}", extra="trust") for name in ("asymmetric.ec", "hashes")
    )
    signature = private.sign(join_signed(payload), ec.ECDSA(getattr(hashes, CURVES[public.curve][0])()))
    payload64, signature64 = (b2a_base64(content, newline=False).decode() for content in (payload, signature))
    file = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": public.fingerprint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": payload64,
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": signature64, "keyid": ""}],
        },
    }
    return json.dumps(file).encode() + b"\n"
