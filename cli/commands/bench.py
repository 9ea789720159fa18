"""The command `offramp bench`: its options, one call, and what it prints."""

import click

from ..loading import Loading, with_loading
from ..options import as_json, parse_pace, with_pace, with_seed
from ..output import print_result, progress_bars


@click.command()
@click.argument("bundle")
@click.argument("data")
@with_loading()
@with_pace
@with_seed
@click.option("--loss", help="For a network that does not classify, how wrong an answer is, as for calibrate.")
@click.option("--disagreement", help="How far an answer is from the whole network's, likewise.")
@as_json
def bench(
    bundle: str,
    data: str,
    loading: Loading,
    every: str | None,
    seed: int,
    loss: str | None,
    disagreement: str | None,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the whole static network and the best static network, on labelled DATA that calibration never saw."""
    from ...bundle import open_bundle
    from ...calibrate import bench as bench_bundle
    from ..inputs import load_labelled

    opened, every_s = open_bundle(bundle), parse_pace(every)
    with progress_bars() as progress:
        samples = load_labelled(data, opened.manifest, progress=progress)
        benchmark = bench_bundle(
            opened,
            samples,
            **loading.arguments(opened),
            every_s=every_s,
            seed=seed,
            loss=loss,
            disagreement=disagreement,
            progress=progress,
        )
    print_result(benchmark, as_json, lambda: str(benchmark))
