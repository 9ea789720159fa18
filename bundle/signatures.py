"""Signatures of the OpenSSF's model-signing, read: a sigstore bundle with a DSSE envelope around an in-toto statement.

It is done with `cryptography` alone, and of that with elliptic curves alone: keys are taken apart here, which saves importing all
other forms of keys. `signing` writes signatures.
"""

import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from ..errors import TrustError, quoted, require
from ..files import sha256

__all__ = [
    "MEDIA_TYPE",
    "PAYLOAD_TYPE",
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "Digest",
    "PublicKey",
    "Release",
    "Signature",
    "join_signed",
    "parse_key",
    "read_claims",
    "read_json",
    "read_signature",
]

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

CURVES = {
    "SECP256R1": ("SHA256", "3059301306072a8648ce3d020106082a8648ce3d030107034200", 65),
    "SECP384R1": ("SHA384", "3076301006072a8648ce3d020106052b81040022036200", 97),
    "SECP521R1": ("SHA512", "30819b301006072a8648ce3d020106052b8104002303818600", 133),
}
"""By curve the hash that goes with it, what a public key (SubjectPublicKeyInfo) begins with, and the bytes of its point."""

BEGIN, END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Release = Annotated[int, Meta(ge=0, lt=2**53)]
MOST_FILES, MOST_NAME = 20_000, 500


class PublicKey(Struct, frozen=True):
    """A public key on an elliptic curve.

    Attributes:
        fingerprint: the sha256 of the key as a PEM file in hexadecimal, which `sha256sum key.pub` shows.
        curve: the curve's name in `cryptography`.
        point: the point on it, uncompressed.
    """

    fingerprint: str
    curve: str
    point: bytes


class _Hint(Struct, frozen=True, forbid_unknown_fields=True):
    hint: Digest


class _Material(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    public_key: _Hint
    tlog_entries: Annotated[tuple[Any, ...], Meta(max_length=0)] = ()


class _Signed(Struct, frozen=True, forbid_unknown_fields=True):
    sig: Annotated[str, Meta(max_length=500)]
    keyid: Annotated[str, Meta(max_length=MOST_NAME)] = ""


class _Envelope(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[tuple[_Signed, ...], Meta(min_length=1, max_length=1)]


class _File(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Named(Struct, frozen=True):
    name: Annotated[str, Meta(max_length=MOST_NAME)]


class _Resource(Struct, frozen=True):
    name: Annotated[str, Meta(max_length=MOST_NAME)]
    algorithm: Literal["sha256"]
    digest: Digest


class _Numbers(Struct, frozen=True):
    release: Release


class _Predicate(Struct, frozen=True):
    resources: Annotated[tuple[_Resource, ...], Meta(max_length=MOST_FILES)]
    offramp: _Numbers | None = None


class _Statement(Struct, frozen=True, rename={"type": "_type", "predicate_type": "predicateType"}):
    type: Literal["https://in-toto.io/Statement/v1"]
    subject: Annotated[tuple[_Named, ...], Meta(min_length=1, max_length=1)]
    predicate_type: Literal["https://model_signing/signature/v1.0"]
    predicate: _Predicate


class Signature(Struct, frozen=True):
    """What somebody signed.

    Attributes:
        key: the fingerprint of the key.
        name: the name of the bundle when it was signed.
        release: the number of the release; None if no release was signed, or by model-signing, which has no numbers.
        files: the sha256 of each file, by its path in the bundle.
    """

    key: str
    name: str
    release: int | None
    files: dict[str, str]


def parse_key(text: str) -> PublicKey | None:
    """Return the public key in a PEM file; None if it holds none on the curves P-256, P-384 or P-521."""
    lines = text.strip().splitlines()
    content = _decode_base64("".join(lines[1:-1])) if [*lines[:1], *lines[-1:]] == [BEGIN, END] else None
    for curve, (_, start, size) in CURVES.items():
        head = bytes.fromhex(start)
        if content is not None and content.startswith(head + b"\4") and len(content) == len(head) + size:
            base64 = _encode_base64(content)
            pieces = [base64[i : i + 64] for i in range(0, len(base64), 64)]
            pem = "\n".join([BEGIN, *pieces, END, ""])  # as openssl writes it
            return PublicKey(sha256(pem.encode()), curve, content[len(head) :])
    return None


def read_signature(content: bytes, keys: Mapping[str, PublicKey], *, revoked: Mapping[str, str]) -> Signature:
    """Return what was signed, if one of some keys signed it.

    Args:
        content: the file with the signature.
        keys: the keys by fingerprint.
        revoked: by fingerprint, why a key counts no more.

    Raises:
        TrustError: it is signed with another key, was altered, or is no signature. The message lacks its subject, the file.
        MissingError: `cryptography` is not installed.
    """
    file = read_json(content, _File)
    key = file.verification_material.public_key.hint
    if key in revoked:
        raise TrustError(f"is signed with the key {key[:16]}, which is revoked: {quoted(revoked[key])}")
    if key not in keys:
        raise TrustError(f"is signed with the key {key[:16]}, which is not trusted")
    envelope = file.dsse_envelope
    payload, signature = _decode_base64(envelope.payload), _decode_base64(envelope.signatures[0].sig)
    if payload is None or signature is None or not _is_signed(keys[key], signature, join_signed(payload)):
        raise TrustError(f"was altered, or not made with the key {key[:16]} that it names")
    return _read_statement(key, payload)


def read_claims(content: bytes) -> Signature:
    """Return what a signature says, whoever made it: nothing of it was checked.

    Raises:
        TrustError: it is no signature. The message lacks its subject, the file.
    """
    file = read_json(content, _File)
    return _read_statement(
        file.verification_material.public_key.hint, _decode_base64(file.dsse_envelope.payload) or b""
    )


def _read_statement(key: str, payload: bytes) -> Signature:
    statement = read_json(payload, _Statement)
    numbers, resources = statement.predicate.offramp, statement.predicate.resources
    files = {resource.name: resource.digest for resource in resources}
    if len(files) < len(resources):
        raise TrustError("names a file twice")
    return Signature(key, statement.subject[0].name, None if numbers is None else numbers.release, files)


def join_signed(payload: bytes) -> bytes:
    """Return the bytes that are signed: DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def _is_signed(key: PublicKey, signature: bytes, content: bytes) -> bool:
    ec, hashes, exceptions = (
        require(f"cryptography.{name}", extra="trust")
        for name in ("hazmat.primitives.asymmetric.ec", "hazmat.primitives.hashes", "exceptions")
    )
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(getattr(ec, key.curve)(), key.point)
        public.verify(signature, content, ec.ECDSA(getattr(hashes, CURVES[key.curve][0])()))
    except (exceptions.InvalidSignature, ValueError):  # or the point is not on the curve
        return False
    return True


def _encode_base64(content: bytes) -> str:
    return b2a_base64(content, newline=False).decode()


def _decode_base64(text: str) -> bytes | None:
    """Return the bytes of a base64 text that is written in the one way there is, else None."""
    try:
        content = a2b_base64(text)
    except ValueError:
        return None
    return content if _encode_base64(content) == text else None


_Kind = TypeVar("_Kind", bound=Struct)


def read_json(content: bytes, kind: type[_Kind]) -> _Kind:
    """Decode a JSON document in which no object has a name twice: readers differ in which of the two they take.

    Raises:
        TrustError: it is something else. The message lacks its subject, the file.
    """
    try:
        return msgspec.convert(json.loads(content.decode(), object_pairs_hook=_read_once), kind)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise TrustError(f"is not of its form: {quoted(error)}") from error


def _read_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a name is there twice in one object")
    return record
