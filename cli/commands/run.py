"""offramp run"""

from typing import Any

import click

from ..describe import describe_results, describe_stats
from ..meters import open_meter
from ..options import as_json, read_loading, with_loading, with_meter
from ..output import print_result, progress_bars


@click.command()
@click.argument("bundle")
@click.argument("inputs")
@with_loading
@click.option("--power", is_flag=True, help="Watch the board's power meanwhile, and show the statistics.")
@with_meter
@as_json
def run(bundle: str, inputs: str, power: bool, meter: str, as_json: bool, **loading: Any) -> None:
    """Run BUNDLE on every sample of INPUTS: label, score, exit and latency, a line each.

    With --power the statistics of the run follow; in JSON, results, statistics and fingerprint are then fields of one document.
    """
    import msgspec
    import numpy as np

    from ...bundle import open_bundle
    from ...devices import fingerprint
    from ...runtime import load
    from ...runtime.chain.samples import convert_samples
    from ...runtime.selection import packages_of
    from ..inputs import load_samples

    power = power or meter != "auto"
    opened = open_bundle(bundle)
    tensors, names = opened.manifest.inputs, opened.manifest.class_names
    x, _ = load_samples(inputs, opened.manifest)
    if len(tensors) == 1 and isinstance(x, np.ndarray) and x.ndim == len(tensors[0].shape) - 1:
        x = np.expand_dims(x, tensors[0].shape.index(None))
    samples = convert_samples(x, tensors)
    results = []
    with progress_bars() as progress:
        net = load(
            opened,
            **read_loading(opened, **loading),
            meter=(open_meter(meter) if ".py:" in meter else meter) if power else None,
            progress=progress,
        )
        for i, sample in enumerate(samples):
            results.append(net(sample))
            progress("running", i + 1, len(samples))
    named = [msgspec.to_builtins(r) | ({"class": names[r.label]} if names else {}) for r in results]
    if not power:
        print_result(named, as_json, lambda: describe_results(results, names))
        return
    stats = net.stats()
    text = lambda: f"{describe_results(results, names)}\n\n{describe_stats(stats)}"  # noqa: E731
    packages = packages_of(list(net.provenance.devices))
    scope = f"{stats.power.meter}: {stats.power.scope}" if stats.power and stats.power.meter else None
    fields = fingerprint(packages=packages, threads=loading["threads"], meter=scope)
    print_result({"results": named, "stats": stats, "fingerprint": fields}, as_json, text)
