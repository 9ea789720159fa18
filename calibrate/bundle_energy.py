"""The energy of leaving at each exit of a bundle: the bundle is loaded, and its exits are measured or modelled."""

import os
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from ..bundle import Bundle, opened
from ..devices import Meter, fingerprint
from ..progress import Progress, no_progress
from ..runtime.chain.samples import check_samples
from ..runtime.loading import load_uncalibrated
from ..runtime.selection import packages_of
from .measure.energy import LEAST_ENERGY_ROUNDS, ExitEnergies, measure_energy, model_energy, stated_power
from .measure.latency import forced_latencies
from .pace import Pace

__all__ = ["measure_bundle_energy"]


def measure_bundle_energy(
    bundle: str | os.PathLike[str] | Bundle,
    x: Any,
    meter: Meter,
    *,
    device: str | Sequence[str] = "cpu",
    variant: str | None = None,
    threads: int = 1,
    fallback: str | None = None,
    trials: int = LEAST_ENERGY_ROUNDS,
    window_s: float | None = None,
    every_s: float | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> ExitEnergies:
    """Measure the energy of leaving at each exit of a bundle.

    Args:
        bundle: the bundle or its folder.
        x: samples as `Net.batch` takes them; labels are not needed.
        meter: the meter to measure with. With `devices.meters.modelled(power_w)` latencies are measured, and joules are latency
            times that power.
        device, threads, fallback, progress: as for `runtime.load`.
        variant: name of a variant; the first by default.
        trials: rounds, each with a window for every exit.
        window_s: length of a window; by default as long as the sensor needs.
        every_s: the pace, from the start of one inference to the start of the next; by default they are made back to back. Joules
            that are measured then hold the board's rest until the next one.
        seed: seed for the order of measurement.

    Raises:
        DataError: the samples do not fit the network.
        UsageError, MeasurementError: as for `measure_energy`.
        BundleError, MissingError: as for `runtime.load`.

    Example:
        >>> from offramp.calibrate import load_samples, measure_bundle_energy
        >>> from offramp.devices.meters import modelled
        >>> x, _ = load_samples("test.npz", "digits.offramp")
        >>> energies = measure_bundle_energy("digits.offramp", x, modelled(5.0))
        >>> energies.grade, len(energies.exits)
        ('modelled', 3)
    """
    bundle = opened(bundle)
    samples = check_samples(x, bundle.manifest.inputs)
    with load_uncalibrated(
        bundle, device, variant=variant, threads=threads, fallback=fallback, progress=progress
    ) as net:
        packages = packages_of(list(net.provenance.devices))
        fields = fingerprint(packages=packages, threads=threads, meter=f"{meter.name}: {meter.scope}")
        if meter.grade == "modelled":
            power_w = stated_power(meter)
            latency_s = forced_latencies(net, samples, seed=seed, pace=Pace(every_s), progress=progress)
            energies = replace(model_energy(latency_s, power_w), every_s=every_s)
        else:
            energies = measure_energy(
                net, samples, meter, trials=trials, window_s=window_s, every_s=every_s, seed=seed, progress=progress
            )
    return replace(energies, fingerprint=fields)
