"""The command that writes what was found as a page."""

import click

from .options import (
    as_json,
    devices_of,
    on_devices,
    variant_to_run,
    with_calibration,
    with_fallback,
    with_point,
    with_seed,
    with_threads,
    with_variant,
)
from .show import print_result, progress_bars


@click.command()
@click.argument("bundle")
@click.argument("data", required=False)
@click.option("-o", "--output", required=True, help="The HTML file to write.")
@on_devices
@with_fallback
@with_threads
@with_variant
@with_point
@with_calibration
@with_seed
@as_json
def report(
    bundle: str,
    data: str | None,
    output: str,
    device: str | None,
    place: str | None,
    fallback: str | None,
    threads: int,
    variant: str | None,
    point: str | None,
    calibration: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Write what BUNDLE's calibration found as one HTML page that works offline: recommendation, promise, frontier, exits.

    With labelled DATA that calibration never saw it also shows figures beside their predictions, the reliability of the exits'
    scores and, of images, examples.
    """
    from .bundle import open_bundle
    from .calibrate import report as write_report
    from .sources import labelled, load_samples

    opened = open_bundle(bundle)
    samples = None if data is None else labelled(load_samples(data, opened.manifest), data)
    with progress_bars() as progress:
        made = write_report(
            opened,
            samples,
            output=output,
            device=devices_of(opened, place and variant_to_run(opened, variant, calibration), device, place),
            threads=threads,
            fallback=fallback,
            variant=variant,
            point=point,
            calibration=calibration,
            seed=seed,
            progress=progress,
        )
    print_result(made, as_json, lambda: f"{made.calibration.points[made.point].verdict}\nreport: {output}")
