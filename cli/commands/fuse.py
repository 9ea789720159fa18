"""The command `offramp fuse`: its options, one call, and what it prints."""

import click

from ...errors import UsageError
from ..loading import Loading, with_loading
from ..options import as_json, examples, parse_numbers
from ..output import advises, conclude, print_result, spinner


@click.command(
    epilog=examples(
        "offramp fuse digits.offramp -o digits.onnx --thresholds 0.9,0.8", "offramp fuse digits.offramp -o digits.onnx"
    )
)
@click.argument("bundle")
@click.option("-o", "--output", required=True, help="The ONNX file to write.")
@with_loading("variant", "point", "calibration")
@click.option(
    "--thresholds",
    help="Thresholds in place of a calibration's, one per exit but the last, such as 0.9,0.8; 2 means never.",
)
@as_json
@advises()
def fuse(bundle: str, output: str, loading: Loading, thresholds: str | None, as_json: bool) -> None:
    """Write BUNDLE as one ONNX file that exits early by itself, without offramp."""
    from ...export import fuse as fuse_bundle

    if thresholds and (loading.point or loading.calibration):
        raise UsageError("Give --thresholds, or a point or calibration, not both.")
    with spinner("fusing"):
        fused = fuse_bundle(
            bundle,
            output,
            variant=loading.variant,
            point=loading.point,
            calibration=loading.calibration,
            thresholds=parse_numbers("--thresholds", thresholds),
        )
    print_result(fused, as_json, lambda: conclude(str(fused), output))
