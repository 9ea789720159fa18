"""offramp bench"""

from typing import Any

import click

from ..options import as_json, read_loading, with_loading, with_seed
from ..output import print_result, progress_bars


@click.command()
@click.argument("bundle")
@click.argument("data")
@with_loading
@with_seed
@as_json
def bench(bundle: str, data: str, seed: int, as_json: bool, **loading: Any) -> None:
    """Compare BUNDLE with the whole static network and the best single exit, by labelled DATA that calibration never saw."""
    from ...bundle import open_bundle
    from ...calibrate import bench as bench_bundle
    from ...calibrate.sample_files import labelled
    from ..inputs import load_samples

    opened = open_bundle(bundle)
    samples = labelled(load_samples(data, opened.manifest), data)
    with progress_bars() as progress:
        result = bench_bundle(opened, samples, **read_loading(opened, **loading), seed=seed, progress=progress)
    print_result(result, as_json, lambda: str(result))
