"""The command `offramp inspect`: its options, one call, and what it prints."""

import click

from ..describe import describe_bundle, describe_calibration, describe_loads
from ..options import as_json
from ..output import print_result


@click.command()
@click.argument("bundle")
@as_json
def inspect(bundle: str, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest, and show variants and calibrations."""
    from ...bundle import check_bundle
    from ...runtime.selection import count_loaded_by

    opened = check_bundle(bundle)
    calibrations = {path.stem: opened.read_calibration(path) for path in opened.calibrations()}
    loads = {name: count_loaded_by(opened, each) for name, each in calibrations.items()}

    def describe() -> str:
        parts = [
            f"calibration {name}\n{describe_calibration(each)}\n{describe_loads(loads[name])}".rstrip()
            for name, each in calibrations.items()
        ]
        return "\n\n".join([describe_bundle(opened), *parts])

    document = {
        "path": bundle,
        "manifest": opened.manifest,
        "calibrations": calibrations,
        "builds": opened.builds(),
        "loads": loads,
    }
    print_result(document, as_json, describe)
