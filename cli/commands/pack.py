"""The command `offramp pack`: its options, one call, and what it prints."""

import click

from ..options import as_json, examples
from ..output import advises, conclude, print_result, spinner


@click.command(epilog=examples("offramp pack digits.offramp -o digits.offramp.zip"))
@click.argument("bundle")
@click.option("-o", "--output", required=True, help="The file to write, such as digits.offramp.zip.")
@as_json
@advises()
def pack(bundle: str, output: str, as_json: bool) -> None:
    """Write BUNDLE as one file, which load, inspect, verify, run and bench take as it is.

    It is a ZIP file of one form, not compressed; equal bundles make equal files.
    """
    from ...bundle import pack as pack_bundle
    from ...files import hash_file

    with spinner("packing"):
        packed = pack_bundle(bundle, output)
    size, digest = packed.path.stat().st_size, hash_file(packed.path)
    document = {"path": output, "bytes": size, "sha256": digest, "manifest": packed.manifest}
    then = ["offramp", "verify", output]
    print_result(document, as_json, lambda: conclude(f"{size / 1e6:.2f} MB, sha256 {digest}", output, then))
