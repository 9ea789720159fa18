"""The command `offramp sign`: its options, one call, and what it prints."""

import click

from ..options import as_json, examples
from ..output import print_result


@click.command(epilog=examples("offramp sign digits.offramp --key private.pem --release 3"))
@click.argument("bundle")
@click.option("--key", required=True, help="A private key on the curve P-256, P-384 or P-521: a PEM file.")
@click.option(
    "--release",
    type=int,
    help="Number of this release, and sign all files. Boards that remember it take no smaller one.",
)
@as_json
def sign(bundle: str, key: str, release: int | None, as_json: bool) -> None:
    """Sign BUNDLE, so that a board can tell who made it.

    Without --release those calibrations and builds are signed that nobody has signed yet, as they are made on a board.
    """
    from ...bundle import sign_bundle

    signed = sign_bundle(bundle, key, release=release)

    def describe() -> str:
        head = f"{signed.path}: {len(signed.files)} files of {signed.name}"
        number = "" if release is None else f", release {release}"
        listed = "" if release is not None else "".join(f"\n  {file}" for file in signed.files)
        return f"{head}{number}, key {signed.key}{listed}"

    print_result(signed, as_json, describe)
