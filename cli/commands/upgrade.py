"""The command `offramp upgrade`: its options, one call, and what it prints."""

from pathlib import Path

import click

from ..options import as_json, examples
from ..output import print_result


@click.command(epilog=examples("offramp upgrade digits.offramp"))
@click.argument("bundle")
@as_json
def upgrade(bundle: str, as_json: bool) -> None:
    """Rewrite manifest and calibrations of a BUNDLE that an older offramp wrote to the form that this one writes.

    What it computes, its thresholds, figures and promises stay. Older versions of offramp do not read the new form.
    """
    from ...bundle import upgrade as upgrade_bundle

    done = upgrade_bundle(bundle)

    def describe() -> str:
        lines = [f"{name}: rewritten, it had schema {schema}" for name, schema in done.rewritten.items()]
        lines += [f"{name}: left as it is. {why}" for name, why in done.left.items()]
        if done.rewritten and (Path(bundle) / "signatures").is_dir():
            lines.append("signatures: of the files as they were. Sign again: offramp sign")
        return "\n".join(lines) or f"{bundle} has the present form: nothing was rewritten."

    print_result(done, as_json, describe)
