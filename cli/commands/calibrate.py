"""offramp calibrate"""

from typing import Any

import click

from ...errors import TargetError
from ..describe import describe_calibration
from ..meters import choose_energy_meter
from ..options import as_json, devices_of, on_devices, read_target, with_fallback, with_seed, with_target, with_threads
from ..output import print_result, progress_bars


@click.command()
@click.argument("bundle")
@click.argument("data")
@with_target
@click.option("--confidence", default=0.9, show_default=True, help="Probability with which all promises are kept.")
@click.option("--outside", help="Other data, such as training data, that chooses the thresholds; DATA then only tests.")
@click.option("--also", multiple=True, help="Another device or placement to try; may be repeated.")
@click.option("-o", "--output", help="Where to store the calibration; in the bundle by default.")
@on_devices
@with_fallback
@with_threads
@click.option("--variant", multiple=True, help="Name of a variant; may be repeated. All by default.")
@click.option(
    "--meter", help="Measure energy with this meter: auto, a name as offramp doctor lists them, or file.py:function."
)
@click.option("--power-w", type=float, help="State the board's power in watts, instead of measuring energy.")
@with_seed
@click.option("--measure-s", type=float, default=6.0, hidden=True)
@as_json
def calibrate(
    bundle: str,
    data: str,
    confidence: float,
    outside: str | None,
    also: tuple[str, ...],
    output: str | None,
    device: str | None,
    place: str | None,
    fallback: str | None,
    threads: int,
    variant: tuple[str, ...],
    meter: str | None,
    power_w: float | None,
    seed: int,
    measure_s: float,
    as_json: bool,
    **target: Any,
) -> None:
    """Find the best way to run BUNDLE on this device that keeps a target, by DATA it was not trained on.

    Without a target it makes the points balanced, accurate and eco, of an accuracy drop of at most 1, 0.5 and 2 %. Where DATA has
    no labels, the disagreement with the whole network stands for it.
    """
    from ...bundle import open_bundle
    from ...calibrate import calibrate as calibrate_bundle
    from ...runtime.placement import parse_placement
    from ..inputs import load_samples

    opened = open_bundle(bundle)
    named = variant[0] if len(variant) == 1 else None
    devices = devices_of(opened, named, device, place) or "cpu"
    stages = len(opened.variant(named).stages)
    targets = read_target(**target)
    found = choose_energy_meter(meter, power_w, [devices] if isinstance(devices, str) else devices, targets)
    samples = load_samples(data, opened.manifest)
    others = None if outside is None else load_samples(outside, opened.manifest)
    with progress_bars() as progress:
        calibration = calibrate_bundle(
            opened,
            samples,
            targets,
            device=devices,
            also=[parse_placement(one, stages) if "=" in one else one for one in also],
            threads=threads,
            fallback=fallback,
            variant=list(variant) or None,
            output=output,
            confidence=confidence,
            outside=others,
            meter=found,
            seed=seed,
            measure_s=measure_s,
            progress=progress,
        )
    print_result(calibration, as_json, lambda: describe_calibration(calibration))
    if missed := [name for name, point in calibration.asked_for.items() if not point.met]:
        raise TargetError(
            f"The samples that did not choose miss the target of {', '.join(missed)}. Give more samples or a wider limit."
        )
