"""The command `offramp bench`: its options, one call, and what it prints."""

import click

from ...errors import require
from ..loading import Loading, with_loading
from ..options import (
    as_json,
    examples,
    parse_pace,
    with_groups,
    with_loss,
    with_metric,
    with_pace,
    with_plot,
    with_seed,
)
from ..output import advises, print_result, progress_bars


@click.command(
    epilog=examples(
        "offramp bench digits.offramp test.npz", "offramp bench digits.offramp test.npz --point eco --every 100ms"
    )
)
@click.argument("bundle")
@click.argument("data")
@with_loading()
@with_pace
@with_seed
@with_loss
@with_metric
@with_groups
@with_plot("latencies, accuracies and exit shares")
@as_json
@advises("Nothing was kept: the same command measures again.")
def bench(
    bundle: str,
    data: str,
    loading: Loading,
    every: str | None,
    seed: int,
    loss: str | None,
    disagreement: str | None,
    metric: str | None,
    groups: str | None,
    plot: str | None,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the whole static network and the best static network, on DATA that calibration never saw.

    DATA has labels, or the truth if the network does not classify.
    """
    from ...bundle import open_bundle
    from ...calibrate import bench as bench_bundle
    from ...pictures import check_picture
    from ..inputs import load_labelled

    if plot is not None:
        check_picture(plot)  # before samples are loaded, which may take long
    if groups is not None:
        require("scipy.special", extra="calibrate")
    opened, every_s = open_bundle(bundle), parse_pace(every)
    with progress_bars() as progress:
        samples, parts = load_labelled(data, opened.manifest, groups=groups, progress=progress)
        benchmark = bench_bundle(
            opened,
            samples,
            **loading.arguments(opened),
            every_s=every_s,
            seed=seed,
            loss=loss,
            disagreement=disagreement,
            metric=metric,
            groups=parts,
            plot=plot,
            progress=progress,
        )
    print_result(benchmark, as_json, lambda: str(benchmark))
