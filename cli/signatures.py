"""Signatures: the option that says whose are taken, and what the commands print of them."""

from typing import TYPE_CHECKING

import click

from ..errors import quoted

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["describe_signatures", "with_trust"]

with_trust = click.option(
    "--trust",
    help="A policy that says whose bundles are taken, or the public key of releases: see docs/how-to/sign.md.",
)


def describe_signatures(bundle: "Bundle") -> str:
    """Say who signed a bundle, or who claims to have; empty if nobody does."""
    if bundle.signed is None:
        claims = [
            f"  {quoted(claim.name)}{'' if claim.release is None else f' release {claim.release}'}, {len(claim.files)} files, "
            f"key {claim.key[:16]}"
            for claim in bundle.claims().values()
        ]
        return "\n".join(["signed, as it says itself (--trust KEYS checks that):", *claims]) if claims else ""
    signed, by_signer = bundle.signed, dict[str, list[str]]()
    for name, digests in signed.files.items():
        for signer in digests.values():
            by_signer.setdefault(signer, []).append(name)
    (release_key,) = signed.files["manifest.json"].values()
    lines = [f"signed: {quoted(signed.name)} release {signed.release}, {release_key}"]
    lines += [
        f"  {signer}: {quoted(', '.join(names), 500)}" for signer, names in by_signer.items() if signer != release_key
    ]
    return "\n".join(lines)
