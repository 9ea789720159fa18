"""The command `offramp cache`: its options, one call, and what it prints."""

import click

from ..describe import describe_cache
from ..options import as_json, examples
from ..output import print_result


@click.group(epilog=examples("offramp cache list", "offramp cache clean --to-mb 500"))
def cache() -> None:
    """List or remove what is kept in $XDG_CACHE_HOME/offramp or ~/.cache/offramp: stages compiled ahead, unfinished calibrations.

    The cache is kept below 2 GiB, or below OFFRAMP_CACHE_MB megabytes; entries unused for longest are removed first.
    """


@cache.command("list", epilog=examples("offramp cache list"))
@as_json
def list_entries(as_json: bool) -> None:
    """List the entries of the cache, the one used last first."""
    from ...cache import cache_folder, list_cache

    folder, entries = cache_folder(), list_cache()
    print_result({"path": str(folder), "entries": entries}, as_json, lambda: describe_cache(folder, entries))


@cache.command(epilog=examples("offramp cache clean --to-mb 500"))
@click.option(
    "--to-mb",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Megabytes to keep, of the entries used last.",
)
@as_json
def clean(to_mb: int, as_json: bool) -> None:
    """Remove all entries, or those unused for longest."""
    from ...cache import clean_cache

    count, freed = clean_cache(to_mb * 1_000_000)
    print_result({"removed": count, "bytes": freed}, as_json, lambda: f"{count} entries removed, {freed / 1e6:.2f} MB")
