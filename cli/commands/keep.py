"""The command `offramp keep`: its options, one call, and what it prints."""

import click

from ..describe import describe_made
from ..options import as_json, examples, split_names
from ..output import advises, print_result, spinner


@click.command(epilog=examples("offramp keep digits.offramp --exits 0,-1"))
@click.argument("bundle")
@click.option("--exits", required=True, help="The exits to keep, by name or number: 0,2; -1 is the last.")
@click.option("--variant", help="The variant to start from. Default: the first.")
@click.option("--name", help="Name of the new variant. Default: made of the exits' names.")
@click.option("--replace", is_flag=True, help="Take the place of the variant that has this name.")
@as_json
@advises()
def keep(bundle: str, exits: str, variant: str | None, name: str | None, replace: bool, as_json: bool) -> None:
    """Add a variant to BUNDLE that has only some of its exits. Every exit costs time, also for inputs that do not leave there."""
    from ...export import keep as keep_exits

    with spinner("cutting and verifying"):
        smaller = keep_exits(bundle, split_names(exits) or (), variant=variant, name=name, replace=replace)
    print_result(smaller.manifest, as_json, lambda: describe_made(smaller, bundle))
