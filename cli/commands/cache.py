"""offramp cache"""

import time

import click

from ..options import as_json
from ..output import print_result, table


@click.group()
def cache() -> None:
    """Look after the stages that were compiled ahead, in $XDG_CACHE_HOME/offramp or ~/.cache/offramp.

    It is kept below 2 GiB, or below OFFRAMP_CACHE_MB megabytes; what was used least recently goes first.
    """


@cache.command("list")
@as_json
def list_entries(as_json: bool) -> None:
    """Show what the cache holds, used last first."""
    from ...cache import cache_folder, list_cache

    found = list_cache()
    lines = [("stage", "device", "engine", "MB", "used", "entry")]
    for kept in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.used_s))
        key = kept.entry.key
        lines.append(
            (
                kept.entry.label,
                key.get("device", ""),
                key.get("engine", ""),
                f"{kept.entry.bytes / 1e6:.2f}",
                used,
                kept.folder[:12],
            )
        )
    total = sum(kept.entry.bytes for kept in found) / 1e6
    print_result(
        {"path": str(cache_folder()), "entries": found},
        as_json,
        lambda: f"{table(lines)}\n{len(found)} entries, {total:.2f} MB in {cache_folder()}",
    )


@cache.command()
@click.option(
    "--to-mb", type=click.IntRange(min=0), default=0, help="Keep this much of what was used last; 0 by default."
)
@as_json
def clean(to_mb: int, as_json: bool) -> None:
    """Remove everything, or what was used least recently."""
    from ...cache import clean_cache

    count, freed = clean_cache(to_mb * 1_000_000)
    print_result({"removed": count, "bytes": freed}, as_json, lambda: f"{count} entries removed, {freed / 1e6:.2f} MB")
