"""The command `offramp report`: its options, one call, and what it prints."""

import click

from ..loading import Loading, with_loading
from ..options import as_json, examples, with_groups, with_loss, with_metric, with_seed
from ..output import advises, conclude, print_result, progress_bars


@click.command(
    epilog=examples(
        "offramp report digits.offramp -o report.html", "offramp report digits.offramp test.npz -o report.html"
    )
)
@click.argument("bundle")
@click.argument("data", required=False)
@click.option("-o", "--output", required=True, help="The HTML file to write.")
@with_loading()
@with_loss
@with_metric
@with_groups
@with_seed
@as_json
@advises()
def report(
    bundle: str,
    data: str | None,
    output: str,
    loading: Loading,
    loss: str | None,
    disagreement: str | None,
    metric: str | None,
    groups: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Write BUNDLE's calibration as one HTML page that works offline: recommendation, promise, frontier, exits.

    With DATA that calibration never saw, and that has labels, or the truth if the network does not classify, the page also shows
    measured figures beside the predictions, how far the exits' scores can be trusted, and easy and hard examples.
    """
    from ...bundle import open_bundle
    from ...calibrate import report as write_report
    from ...calibrate.html_report.page import check_packages
    from ...errors import UsageError
    from ..inputs import load_labelled

    check_packages()  # before samples are loaded, which may take long
    if data is None and groups is not None:
        raise UsageError("--groups is of samples: give DATA too.")
    opened = open_bundle(bundle)
    with progress_bars() as progress:
        samples, parts = None, None
        if data is not None:
            samples, parts = load_labelled(data, opened.manifest, groups=groups, progress=progress)
        page = write_report(
            opened,
            samples,
            output=output,
            **loading.arguments(opened),
            seed=seed,
            loss=loss,
            disagreement=disagreement,
            metric=metric,
            groups=parts,
            progress=progress,
        )
    print_result(page, as_json, lambda: conclude(page.calibration.points[page.point].verdict, output))
