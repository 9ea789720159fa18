"""offramp inspect"""

import click

from ..describe import describe_bundle, describe_calibration
from ..options import as_json
from ..output import print_result


@click.command()
@click.argument("bundle")
@as_json
def inspect(bundle: str, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest and show what it holds."""
    from ...bundle import check_bundle, read_calibration

    opened = check_bundle(bundle)
    calibrations = {path.stem: read_calibration(path) for path in opened.calibrations()}
    text = lambda: "\n\n".join(  # noqa: E731
        [describe_bundle(opened), *(f"calibration {n}\n{describe_calibration(c)}" for n, c in calibrations.items())]
    )
    print_result({"path": bundle, "manifest": opened.manifest, "calibrations": calibrations}, as_json, text)
