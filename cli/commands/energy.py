"""The command `offramp energy`: its options, one call, and what it prints."""

import click

from ...errors import UsageError
from ..describe import describe_energies
from ..loading import Loading, with_loading
from ..meters import POWER_STATED_TWICE, open_energy_meter
from ..options import as_json, examples, parse_pace, parse_seconds, with_meter, with_pace, with_seed
from ..output import advises, print_result, progress_bars


@click.command(
    epilog=examples(
        "offramp energy digits.offramp samples.npz", "offramp energy digits.offramp samples.npz --power-w 5"
    )
)
@click.argument("bundle")
@click.argument("data")
@with_meter
@click.option(
    "--power-w", type=float, help="The board's power at work in watts; the joules are then computed from latencies."
)
@click.option("--trials", default=10, show_default=True, help="Rounds, each with a window for every exit.")
@click.option("--window", help="Length of a window, such as 5s. Default: as long as the sensor needs.")
@with_loading("device", "place", "fallback", "threads", "variant")
@with_pace
@with_seed
@as_json
@advises("Nothing was kept: the same command measures again.")
def energy(
    bundle: str,
    data: str,
    meter: str,
    power_w: float | None,
    trials: int,
    window: str | None,
    loading: Loading,
    every: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure what leaving at each exit of BUNDLE costs in joules, with inputs like those of DATA."""
    from ...bundle import open_bundle
    from ...calibrate import measure_bundle_energy
    from ...runtime.chain.samples import check_samples
    from ..inputs import load_samples

    if power_w is not None and meter != "auto":
        raise UsageError(POWER_STATED_TWICE)
    opened = open_bundle(bundle)
    window_s = None if window is None else parse_seconds("--window", window)
    every_s = parse_pace(every)
    with progress_bars() as progress:
        x, _ = load_samples(data, opened.manifest, progress=progress)
    check_samples(x, opened.manifest.inputs)  # before a meter is looked for
    variant = loading.variant_to_run(opened)
    devices = loading.devices_or_calibrated(opened, variant)
    names = [devices] if isinstance(devices, str) else devices
    chosen = open_energy_meter(None if meter == "auto" else meter, power_w, names)
    with progress_bars() as progress:
        energies = measure_bundle_energy(
            opened,
            x,
            chosen,
            device=devices,
            variant=variant,
            threads=loading.threads,
            fallback=loading.fallback,
            trials=trials,
            window_s=window_s,
            every_s=every_s,
            seed=seed,
            progress=progress,
        )
    print_result(energies, as_json, lambda: describe_energies(energies))
