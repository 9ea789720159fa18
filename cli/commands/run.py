"""The command `offramp run`: its options, one call, and what it prints."""

from typing import TYPE_CHECKING, Any

import click

from ..describe import describe_network, describe_results, describe_stats
from ..loading import Loading, with_loading
from ..meters import open_meter
from ..options import as_json, examples, with_meter
from ..output import advises, note, print_result, progress_bars

if TYPE_CHECKING:
    from ...runtime import Net
    from ...runtime.chain.stats import Stats


@click.command(
    epilog=examples(
        "offramp run digits.offramp samples.npz", "offramp run digits.offramp samples.npz --device cpu --json"
    )
)
@click.argument("bundle")
@click.argument("inputs")
@with_loading()
@click.option("--power", is_flag=True, help="Watch the board's power during the run, and show statistics.")
@with_meter
@as_json
@advises("No answer was printed: the same command starts again.")
def run(bundle: str, inputs: str, loading: Loading, power: bool, meter: str, as_json: bool) -> None:
    """Run BUNDLE on every sample of INPUTS and print label or answer, score, exit and latency of each, a line per sample.

    A note on stderr says what runs: which static network, or the chain, of which variant, on which devices, by which point.

    With --power the statistics of the run follow. In JSON, results, statistics and fingerprint are then fields of one document.
    """
    import msgspec
    import numpy as np

    from ...bundle import open_bundle
    from ...bundle.variant_names import describe_numbers
    from ...runtime import load
    from ...runtime.sample_scale import warn_of_scale
    from ..inputs import load_run_samples

    power = power or meter != "auto"
    opened = open_bundle(bundle)
    names = opened.manifest.class_names
    watching = open_meter(meter) if ".py:" in meter else meter
    with progress_bars() as progress:
        samples = load_run_samples(inputs, opened.manifest, progress=progress)
        warn_of_scale(opened, samples)
        net = load(opened, **loading.arguments(opened), meter=watching if power else None, progress=progress)
        results = []
        for i, sample in enumerate(samples):
            results.append(net(sample))
            progress("running", i + 1, len(samples))
    rows: list[dict[str, Any]] = [
        msgspec.to_builtins(result, enc_hook=np.ndarray.tolist) | ({"class": names[result.label]} if names else {})
        for result in (results if as_json else ())
    ]
    for row in rows:
        del row["reused"], row["fault"]  # of streams, and of networks loaded with on_fault=
        if opened.manifest.classes:
            del row["answer"]  # what a network that classifies has not
    numbers = describe_numbers(opened.manifest, [net.point.variant if net.point else loading.variant_to_run(opened)])
    note(" ".join([f"Note: {opened.path} runs {describe_network(net)}.", *numbers]))
    if not power:
        print_result(rows, as_json, lambda: describe_results(results, names))
        return
    stats = net.stats()
    document = {"results": rows, "stats": stats, "fingerprint": _fingerprint(net, stats, loading.threads)}
    print_result(document, as_json, lambda: f"{describe_results(results, names)}\n\n{describe_stats(stats)}")


def _fingerprint(net: "Net", stats: "Stats", threads: int) -> dict[str, str]:
    from ...devices import fingerprint
    from ...runtime.selection import packages_of

    meter = f"{stats.power.meter}: {stats.power.scope}" if stats.power and stats.power.meter else None
    return fingerprint(packages=packages_of(list(net.provenance.devices)), threads=threads, meter=meter)
