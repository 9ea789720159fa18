"""The command that writes what was found as a page."""

from typing import Any

import click

from ..options import as_json, read_loading, with_loading, with_seed
from ..output import print_result, progress_bars


@click.command()
@click.argument("bundle")
@click.argument("data", required=False)
@click.option("-o", "--output", required=True, help="The HTML file to write.")
@with_loading
@with_seed
@as_json
def report(bundle: str, data: str | None, output: str, seed: int, as_json: bool, **loading: Any) -> None:
    """Write what BUNDLE's calibration found as one HTML page that works offline: recommendation, promise, frontier, exits.

    With labelled DATA that calibration never saw it also shows figures beside their predictions, the reliability of the exits'
    scores and, of images, examples.
    """
    from ...bundle import open_bundle
    from ...calibrate import report as write_report
    from ...calibrate.sample_files import labelled
    from ..inputs import load_samples

    opened = open_bundle(bundle)
    samples = None if data is None else labelled(load_samples(data, opened.manifest), data)
    with progress_bars() as progress:
        made = write_report(
            opened, samples, output=output, **read_loading(opened, **loading), seed=seed, progress=progress
        )
    print_result(made, as_json, lambda: f"{made.calibration.points[made.point].verdict}\nreport: {output}")
