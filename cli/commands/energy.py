"""offramp energy"""

import click
from msgspec.structs import replace

from ...errors import UsageError
from ..describe import describe_energies
from ..meters import open_meter
from ..options import (
    as_json,
    calibrated_devices,
    devices_of,
    on_devices,
    parse_seconds,
    variant_to_run,
    with_fallback,
    with_meter,
    with_seed,
    with_threads,
    with_variant,
)
from ..output import print_result, progress_bars


@click.command()
@click.argument("bundle")
@click.argument("data")
@with_meter
@click.option("--power-w", type=float, help="Without a meter: the board's power at work; the joules are then modelled.")
@click.option("--trials", default=10, show_default=True, help="Rounds, each with a window for every exit.")
@click.option("--window", help="Length of a window: 5s; by default what the sensor needs.")
@on_devices
@with_fallback
@with_threads
@with_variant
@with_seed
@as_json
def energy(
    bundle: str,
    data: str,
    meter: str,
    power_w: float | None,
    trials: int,
    window: str | None,
    device: str | None,
    place: str | None,
    fallback: str | None,
    threads: int,
    variant: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure what leaving at each exit of BUNDLE costs in joules, by inputs like those of DATA."""
    from ...bundle import open_bundle
    from ...calibrate.measure.energy import measure_energy, model_energy
    from ...calibrate.measure.latency import forced_latencies
    from ...devices import fingerprint
    from ...devices.meters import modelled
    from ...runtime.chain.samples import check_samples
    from ...runtime.loading import load_uncalibrated
    from ...runtime.selection import packages_of
    from ..inputs import load_samples

    if power_w is not None and meter != "auto":
        raise UsageError("--power-w states the power that --meter would measure: give one of them.")
    opened = open_bundle(bundle)
    window_s = None if window is None else parse_seconds("--window", window)
    x, _ = load_samples(data, opened.manifest)
    samples = check_samples(x, opened.manifest.inputs)
    variant = variant_to_run(opened, variant)
    devices = devices_of(opened, variant, device, place) or calibrated_devices(opened, variant)
    where = [devices] if isinstance(devices, str) else devices
    found = open_meter(meter, where) if power_w is None else modelled(power_w)
    with (
        progress_bars() as progress,
        load_uncalibrated(
            opened, devices, variant=variant, threads=threads, fallback=fallback, progress=progress
        ) as net,
    ):
        packages = packages_of(list(net.provenance.devices))
        fields = fingerprint(packages=packages, threads=threads, meter=f"{found.name}: {found.scope}")
        if power_w is not None:
            latency_s = forced_latencies(net, samples, seed=seed, progress=progress)
            result = model_energy(latency_s, power_w)
        else:
            result = measure_energy(
                net,
                samples,
                found,
                trials=trials,
                window_s=window_s,
                seed=seed,
                progress=progress,
            )
        result = replace(result, fingerprint=fields)
    print_result(result, as_json, lambda: describe_energies(result))
