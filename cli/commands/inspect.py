"""The command `offramp inspect`: its options, one call, and what it prints."""

import click

from ..describe import describe_bundle, describe_calibration, describe_loads
from ..options import as_json, examples
from ..output import print_result
from ..signatures import describe_signatures, with_trust


@click.command(epilog=examples("offramp inspect digits.offramp"))
@click.argument("bundle")
@with_trust
@as_json
def inspect(bundle: str, trust: str | None, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest, and show variants, calibrations and who signed them."""
    from ...bundle import check_bundle
    from ...runtime.selection import count_loaded_by

    opened = check_bundle(bundle, trust=trust)
    calibrations = {path.stem: opened.read_calibration(path) for path in opened.calibrations()}
    loads = {name: count_loaded_by(opened, each) for name, each in calibrations.items()}

    def describe() -> str:
        parts = [
            f"calibration {name}\n{describe_calibration(each)}\n{describe_loads(loads[name])}".rstrip()
            for name, each in calibrations.items()
        ]
        return "\n\n".join(filter(None, [describe_bundle(opened), describe_signatures(opened), *parts]))

    document = {
        "path": bundle,
        "manifest": opened.manifest,
        "calibrations": calibrations,
        "builds": opened.builds(),
        "signed": opened.signed and {field: getattr(opened.signed, field) for field in ("name", "release", "files")},
        "loads": loads,
    }
    print_result(document, as_json, describe)
