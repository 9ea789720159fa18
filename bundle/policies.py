"""Whose bundles are taken: policies, and what the signatures of a bundle are worth by them.

A release key signs a bundle as a whole. A board key signs calibrations and builds alone, which were made later on the board. Each
signature names the manifest that it belongs to, so nothing of one release can be put into another.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from ..errors import BundleError, TrustError, UsageError, quoted
from ..files import os_errors_explained, read_file, sha256, write_atomically
from .signatures import Digest, PublicKey, Release, Signature, parse_key, read_claims, read_json, read_signature

__all__ = ["Signed", "Trust", "check_signatures", "list_claims", "read_trust", "remember_release"]

SIGNATURES = "signatures"
"""The folder of a bundle in which they lie."""

LATER = ("calibrations/", "engines/")
"""What a board key may sign."""

MOST_SIGNATURES, MOST_SIGNATURE_BYTES, MOST_POLICY_BYTES, MOST_KEYS = 64, 1 << 20, 1 << 20, 1000
"""A bundle has no more signatures, a signature and a policy are no longer, and a policy names no more keys."""

PROBLEMS_SHOWN = 3

Keys = Annotated[tuple[str, ...], Meta(max_length=MOST_KEYS)]


class Trust(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose bundles are taken: a policy, as `load(trust=)` takes it. As a file it is a JSON object with these fields.

    Attributes:
        release_keys: public keys that may sign releases: PEM files or their texts, on the curves P-256, P-384 or P-521.
        board_keys: public keys that may sign calibrations and builds, which were made later.
        revoked: by the fingerprint of a key, why it counts no more. The fingerprint is the sha256 of its PEM file.
        releases: by the name of a bundle when it was signed, the smallest number that a release of it may have. Bundles of
            other names are refused. If empty, all names and numbers are taken.
        state: a file that remembers the last release of each name that was loaded. Earlier ones are refused.

    Example:
        >>> from offramp.bundle import Trust, sign_bundle
        >>> from offramp.runtime import load
        >>> signed = sign_bundle("digits.offramp", "release.pem", release=7)
        >>> load("digits.offramp", trust=Trust(release_keys=("release.pub",))).point.name
        'default'
    """

    release_keys: Annotated[Keys, Meta(min_length=1)]
    board_keys: Keys = ()
    revoked: Annotated[dict[Digest, str], Meta(max_length=MOST_KEYS)] = msgspec.field(default_factory=dict)
    releases: Annotated[dict[str, Release], Meta(max_length=MOST_KEYS)] = msgspec.field(default_factory=dict)
    state: str | None = None

    def __post_init__(self) -> None:
        for keys in (self.release_keys, self.board_keys):
            if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
                raise UsageError(f"release_keys and board_keys are tuples of the names of PEM files, not {keys!r:.60}.")


class Signed(Struct, frozen=True):
    """What of a bundle may be used by the policies in force.

    Attributes:
        root: the bundle's path.
        name, release: of the release that was signed; the number is 0 if it was signed without one.
        files: by path in the bundle and by sha256, who signed it.
        states: the files that remember a release once it is in use, with its name and number.
        problems: what is wrong with other signatures.
    """

    root: Path
    name: str
    release: int
    files: dict[str, dict[str, str]]
    states: tuple[tuple[Path, str, int], ...] = ()
    problems: tuple[str, ...] = ()

    def check(self, path: Path, content: bytes) -> None:
        """See that a file's content was signed.

        Raises:
            TrustError: it was not.
        """
        real, root = (Path(os.path.realpath(each)) for each in (path, self.root))
        name = real.relative_to(root).as_posix() if real.is_relative_to(root) else None
        signers = self.files.get(name or "", {})
        if sha256(content) in signers:
            return
        if name is None:
            reason = "it lies outside the bundle. Put it inside, and sign it"
        else:
            problem = "was altered after it was signed" if signers else "is not signed by a trusted key"
            reason = f"it {problem}{_list(self.problems)}. Remove it, or bring back or sign what shall be used"
        raise TrustError(f"{path} is refused: {reason}: {_name_command(self.root)}.", path=path)


def check_signatures(
    root: Path,
    manifest: bytes,
    signatures: Sequence[Path],
    read: Callable[[Path, int], bytes],
    *,
    trust: Trust | str | os.PathLike[str] | None,
    policy: Path | None,
) -> Signed:
    """Return what of a bundle may be used.

    Args:
        root: the bundle's path.
        manifest: the content of its manifest.
        signatures: the paths of its signatures.
        read: returns the content of one of them, or that many bytes of it and one more.
        trust: the caller's policy.
        policy: the file of the machine's policy. Where there are both, both must take the bundle.

    Raises:
        TrustError: the bundle is unsigned, altered, signed with other keys, or older than what was accepted; or the policy
            cannot be relied on.
        UsageError, MissingError: as for `read_trust`; MissingError also if `cryptography` is not installed.
    """
    policies = [] if policy is None else [(str(policy), read_trust(policy, is_owned=True))]
    if isinstance(trust, Trust):
        policies.append(("trust=", trust))
    elif isinstance(trust, (str, os.PathLike)):
        policies.append((str(trust), read_trust(Path(trust))))
    elif trust is not None:
        raise UsageError(f"trust is a Trust, its file, or a public key's file, not {trust!r:.60}.")
    if len(signatures) > MOST_SIGNATURES:
        raise TrustError(f"{root} has more than {MOST_SIGNATURES} signatures. Remove those of other keys.", path=root)
    contents: dict[str, bytes | OSError] = {}
    for path in signatures:
        try:
            contents[path.name] = read(path, MOST_SIGNATURE_BYTES)
        except OSError as error:
            contents[path.name] = error
    digest = sha256(manifest)
    first, *others = (_judge(root, digest, contents, source, each) for source, each in policies)
    for other in others:
        files = {
            name: {digest: who for digest, who in digests.items() if digest in other.files.get(name, {})}
            for name, digests in first.files.items()
        }
        first = replace(first, files=files, states=first.states + other.states)
    return first


def _judge(root: Path, manifest: str, contents: Mapping[str, bytes | OSError], source: str, trust: Trust) -> Signed:
    """Return what of a bundle may be used by one policy."""
    release_keys, board_keys = _read_keys(trust.release_keys), _read_keys(trust.board_keys)
    releases: list[Signature] = []
    later: list[Signature] = []
    problems = []
    for file, content in contents.items():
        try:
            if isinstance(content, OSError):
                raise TrustError(f"cannot be read: {content.strerror}")
            if len(content) > MOST_SIGNATURE_BYTES:
                raise TrustError("is larger than any signature")
            signature = read_signature(content, board_keys | release_keys, revoked=trust.revoked)
            if signature.files.get("manifest.json") != manifest:
                raise TrustError("is of another manifest.json than the one that is here")
            (releases if signature.key in release_keys else later).append(signature)
        except TrustError as error:
            problems.append(f"{quoted(file)} {error}")
    if not releases:
        if later:
            problems.append(f"the key {later[0].key[:16]} may sign calibrations and builds, but no release")
        raise TrustError(
            f"{root} is refused, as {source} demands a release that a trusted key signed: "
            f"{'; '.join(problems[:PROBLEMS_SHOWN]) or 'it is not signed'}. Bring a signed release: "
            f"{_name_command(root, ' --release NUMBER')}.",
            path=root,
        )
    best = max(releases, key=lambda signature: (signature.name in trust.releases, signature.release or 0))
    number = best.release or 0
    _check_number(root, best.name, number, source, trust)
    files = {name: {digest: f"release key {best.key[:16]}"} for name, digest in best.files.items()}
    for signature in (*releases, *later):
        role = "board key" if signature in later else "release key"
        for name, digest in signature.files.items():
            if name.startswith(LATER) and (signature in later or signature.release in (None, best.release)):
                files.setdefault(name, {}).setdefault(digest, f"{role} {signature.key[:16]}")
    states = () if trust.state is None else ((Path(trust.state), best.name, number),)
    return Signed(root, best.name, number, files, states, tuple(problems))


def _check_number(root: Path, name: str, number: int, source: str, trust: Trust) -> None:
    """See that a release may be used by its name and number.

    Raises:
        TrustError: it may not.
    """
    if trust.releases and name not in trust.releases:
        known = ", ".join(quoted(other) for other in list(trust.releases)[:PROBLEMS_SHOWN])
        raise TrustError(
            f"{root} is refused: it was signed as {quoted(name)}, and {source} takes {known}. Bring that one, or add the name to "
            "releases.",
            path=root,
        )
    least, why = trust.releases.get(name, 0), f"{source} takes releases from"
    if trust.state is not None and (last := _read_state(Path(trust.state)).get(name, 0)) > least:
        least, why = last, f"a later one was accepted here ({trust.state}):"
    if number < least:
        raise TrustError(
            f"{root} is refused: it is release {number} of {quoted(name)}, and {why} {least}. Bring that release or a later one.",
            path=root,
        )


def read_trust(path: Path, *, is_owned: bool = False) -> Trust:
    """Read a policy, or a PEM file with the one key whose releases are taken. Paths in a policy start at its folder.

    Args:
        path: the file.
        is_owned: True if it and the keys that it names must belong to root, or to this user, and nobody else may write them.

    Raises:
        UsageError: there is no such file.
        TrustError: it is no policy, or another user may have written it.
        MissingError: it cannot be read.
    """
    content = _read_text(path, is_owned=is_owned)
    if content.startswith("-----BEGIN"):
        _parse_key(content, path)
        return Trust(release_keys=(content,))
    try:
        trust = read_json(content.encode(), Trust)
    except TrustError as error:
        raise TrustError(f"The policy {path} {error}. See docs/how-to/sign.md.", path=path) from error
    texts = {
        field: tuple(
            key if _is_text(key) else _read_key(path.parent / key, is_owned=is_owned) for key in getattr(trust, field)
        )
        for field in ("release_keys", "board_keys")
    }
    state = None if trust.state is None else str(path.parent / trust.state)
    return replace(trust, state=state, **texts)


def _read_text(path: Path, *, is_owned: bool = False) -> str:
    with os_errors_explained(path, "read"):
        if not path.exists():
            raise UsageError(f"There is no policy and no public key at {path}.", path=path)
        for each in (path, path.parent) if is_owned and os.name == "posix" else ():
            facts = each.stat()
            if facts.st_uid not in (0, os.geteuid()) or stat.S_IMODE(facts.st_mode) & 0o022:
                raise TrustError(
                    f"{each} decides whose bundles are taken, and another user may write it: chown root and chmod go-w.",
                    path=each,
                )
        content = read_file(path, most=MOST_POLICY_BYTES)
    if len(content) > MOST_POLICY_BYTES:
        raise TrustError(f"{path} is larger than any policy or key.", path=path)
    return content.decode(errors="replace")


def _read_key(path: Path, *, is_owned: bool) -> str:
    text = _read_text(path, is_owned=is_owned)
    _parse_key(text, path)
    return text


def _is_text(key: str) -> bool:
    return key.startswith("-----BEGIN")


def _read_keys(keys: Sequence[str]) -> dict[str, PublicKey]:
    """Return public keys by their fingerprints.

    Raises:
        UsageError: a file is missing.
        TrustError: one is no key that model-signing takes.
    """
    found = {}
    for key in keys:
        parsed = _parse_key(key, None) if _is_text(key) else _parse_key(_read_text(Path(key)), key)
        found[parsed.fingerprint] = parsed
    return found


def _parse_key(text: str, path: str | Path | None) -> PublicKey:
    """Return the public key in a text, which a file holds or a policy."""
    parsed = parse_key(text)
    if parsed is None:
        raise TrustError(
            f"{path or 'A key of the policy'} is no public key on the curves P-256, P-384 or P-521 in a PEM file. Make one: "
            "openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem; openssl pkey -in KEY.pem -pubout -out KEY.pub.",
            path=path,
        )
    return parsed


def _name_command(root: Path, options: str = "") -> str:
    """Return the command that signs a bundle, which is packed after that."""
    if root.is_file():
        return f"offramp sign FOLDER --key KEY{options}, then offramp pack FOLDER"
    return f"offramp sign {root} --key KEY{options}"


def _list(problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:PROBLEMS_SHOWN])
    return f" ({shown})" if shown else ""


def remember_release(signed: Signed) -> None:
    """Remember the release that is in use, where a policy has a file for that, so that no earlier one is taken again.

    Raises:
        TrustError: the file is damaged.
        MissingError: it cannot be read or written.
    """
    for path, name, release in signed.states:
        with os_errors_explained(path, "write"):
            if _read_state(path).get(name, -1) >= release:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.parent):
                known = _read_state(path)  # another process may have written it
                if known.get(name, -1) < release:
                    known[name] = release
                    write_atomically(path, msgspec.json.format(msgspec.json.encode(known), indent=1) + b"\n")


def _read_state(path: Path) -> dict[str, int]:
    """Return the last release of each name that was accepted."""
    try:
        with os_errors_explained(path, "read"):
            if not path.exists():
                return {}
            return msgspec.json.decode(read_file(path, most=MOST_POLICY_BYTES), type=dict[str, Release])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError(
            f"{path}, which remembers the releases that were accepted, is damaged. Bring it back, or remove it: older releases "
            "are then taken, too.",
            path=path,
        ) from error


def list_claims(signatures: Iterable[Path], read: Callable[[Path, int], bytes]) -> dict[str, Signature]:
    """Return what signatures say, whoever made them, by file; `read` is as for `check_signatures`."""
    claims = {}
    for path in sorted(signatures)[:MOST_SIGNATURES]:
        with contextlib.suppress(OSError, BundleError):
            claims[path.name] = read_claims(read(path, MOST_SIGNATURE_BYTES))
    return claims


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process holds a folder's lock, and hold it."""
    import fcntl  # not on Windows

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some drives have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
