"""offramp fuse"""

import click

from ...errors import UsageError
from ..options import as_json, parse_numbers, with_calibration, with_point, with_variant
from ..output import print_result, spinner


@click.command()
@click.argument("bundle")
@click.option("-o", "--output", required=True, help="The ONNX file to write.")
@with_variant
@with_point
@with_calibration
@click.option(
    "--thresholds", help="One per exit but the last instead of a calibration's, such as 0.9,0.8; 2 means never."
)
@as_json
def fuse(
    bundle: str,
    output: str,
    variant: str | None,
    point: str | None,
    calibration: str | None,
    thresholds: str | None,
    as_json: bool,
) -> None:
    """Write BUNDLE as one ONNX file that exits early by itself, without offramp."""
    from ...export import fuse as fuse_bundle

    if thresholds and (point or calibration):
        raise UsageError("Give --thresholds, or a point or calibration, not both.")
    with spinner("fusing"):
        fused = fuse_bundle(
            bundle,
            output,
            variant=variant,
            point=point,
            calibration=calibration,
            thresholds=parse_numbers("--thresholds", thresholds),
        )
    print_result(fused, as_json, lambda: str(fused))
