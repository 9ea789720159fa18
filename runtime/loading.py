"""From a bundle on disk to a network that runs."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..bundle import Bundle, Calibration, Exit, OperatingPoint, Stage, Variant, open_bundle
from ..bundle.golden import read_golden
from ..devices import describe_differences
from ..devices.meter import Meter
from ..errors import EngineWarning, UncalibratedWarning, UsageError
from ..progress import Progress
from .auto import choose_devices
from .building import compile_stages, cut_static
from .chain.net import Net
from .chain.results import Provenance
from .chain.samples import check_samples
from .placement import AUTO, one_device_per_stage
from .power import watch_power
from .selection import choose_point, differs_here, most_careful, variant_of


def load(
    path: str | os.PathLike[str] | Bundle,
    device: str | Sequence[str] | None = None,
    *,
    variant: str | None = None,
    point: str | None = None,
    threads: int = 1,
    logits: bool = False,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    fallback: str | None = None,
    meter: str | Meter | None = None,
    progress: Progress | None = None,
) -> Net:
    """Load a bundle to run on a device.

    Args:
        path: the bundle's folder, or a bundle already opened.
        device: where to run: `cpu` (ONNX Runtime), `cuda:0`, `openvino:CPU`, `openvino:NPU`, ...; one for each stage to place
            them apart; or `auto`, which measures what is here for a moment and chooses. Where the calibration was made, or
            `cpu`, by default.
        variant: name of a variant; the one that the calibration was made for, or the first, by default.
        point: name of an operating point in the calibration; its only or first one by default.
        threads: threads that the engine may use within a stage.
        logits: whether results carry the logits of the exit taken.
        calibration: a calibration outside the bundle, or one already read; the bundle's only one by default.
        fallback: the device to take where another is missing or cannot run a stage, such as `cpu`; `Net.provenance` shows it.
        meter: what to watch the board's power with while the network lives: `auto`, a name that `offramp doctor` lists, or a
            `devices.Meter` of your own; `Net.stats()` tells. A meter that is not here, or dies, changes nothing but that.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        The network. Without a calibration every input runs to the last exit, and an `UncalibratedWarning` says so.

    Raises:
        UsageError: nothing lies at a path, there is no such point, or several calibrations to choose from.
        BundleError: the bundle or calibration is damaged, newer, or they do not belong together.
        MissingError: a device or its engine's package is not here, or it cannot run a stage.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    chosen, found, best = choose_point(bundle, calibration, variant=variant, point=point, threads=threads)
    said: list[str] = []
    differing = differs_here(found, threads) if found is not None and best is not None else []
    if found is not None and best is not None and differing:
        said.append(describe_differences(differing))
        if point is None:  # its latencies are unknown here
            best = most_careful(found, best.variant if variant else None)
            chosen = variant_of(bundle, found, best) or chosen
    if device is None:
        device = best.placement if best else "cpu"
    how: dict[str, Any] = {
        "threads": threads,
        "logits": logits,
        "fallback": fallback,
        "progress": progress,
        "meter": meter,
    }
    how["points"] = found.points if found else None
    stages, exits = chosen.stages, chosen.exits
    if best is not None and best.static is not None:
        stages, exits = cut_static(bundle, chosen, best.static)
        if not isinstance(device, str) and len(device) == len(chosen.stages):
            device = device[best.static]  # given for the chain
    net = _open(bundle, chosen, stages, exits, device, point=best, **how)
    if found is None or best is None:
        warnings.warn(
            f"{bundle.path} has no calibration{f' of variant {variant}' if variant else ''}: every input runs to the last exit. "
            "Run: offramp calibrate",
            UncalibratedWarning,
            stacklevel=2,
        )
        return net
    here = list(net.provenance.devices)
    if tuple(here) != best.placement:
        said.append(f"the stages run on {', '.join(here)} here and ran on {', '.join(best.placement)} there")
    if said:
        name = next(name for name, one in found.points.items() if one is best)
        where = "elsewhere" if differing else "with other devices"
        warnings.warn(
            f"The calibration was made {where} ({'. '.join(said)}): its latencies do not hold here. Point {name} is in use. "
            f"Calibrate {'on this device' if differing else 'with these'}.",
            UncalibratedWarning,
            stacklevel=2,
        )
    return net


def load_uncalibrated(
    bundle: Bundle, device: str | Sequence[str] = "cpu", *, variant: str | None = None, **how: Any
) -> Net:
    """Load a bundle without looking for a calibration; every threshold is 2.0, never. `how` is as for `load`."""
    chosen = bundle.variant(variant)
    return _open(bundle, chosen, chosen.stages, chosen.exits, device, **how)


def load_static(
    path: str | os.PathLike[str] | Bundle,
    device: str = "cpu",
    *,
    variant: str | None = None,
    exit: int = -1,
    threads: int = 1,
    logits: bool = False,
) -> Net:
    """Load the static network that ends at one exit, without the earlier heads: what a product without early exit runs.

    Args:
        path: the bundle's folder, or a bundle already opened.
        device, threads, logits: as for `load`.
        variant: name of a variant; the first by default.
        exit: which exit it ends at; the last by default.

    Raises:
        UsageError: there is no such exit, or `threads` is below 1.
        BundleError, MissingError: as for `load`.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    chosen = bundle.variant(variant)
    count = len(chosen.exits)
    if not -count <= exit < count:
        raise UsageError(f"There is no exit {exit}: {bundle.path} has exits 0 to {count - 1}.")
    stages, exits = cut_static(bundle, chosen, exit)
    return _open(bundle, chosen, stages, exits, device, threads=threads, logits=logits)


def _open(
    bundle: Bundle,
    variant: Variant,
    stages: Sequence[Stage],
    exits: Sequence[Exit],
    device: str | Sequence[str],
    *,
    threads: int = 1,
    logits: bool = False,
    point: OperatingPoint | None = None,
    points: Mapping[str, OperatingPoint] | None = None,
    fallback: str | None = None,
    progress: Progress | None = None,
    meter: str | Meter | None = None,
) -> Net:
    """Compile some stages of a variant, and chain them."""
    # A wrong name is said before anything is built for minutes; `auto` depends on what runs in the end.
    named = None if meter == "auto" else watch_power(meter, (), stacklevel=4)

    def open_on(devices: Sequence[str], why: str | None = None) -> Net:
        is_trial = device == AUTO and why is None
        compiled, provenance = compile_stages(
            bundle,
            variant,
            stages,
            exits,
            devices,
            threads=threads,
            logits=logits,
            fallback=None if device == AUTO else fallback,
            progress=progress,
        )
        return Net(
            compiled,
            stages,
            exits,
            inputs=bundle.manifest.inputs,
            classes=bundle.manifest.classes,
            logits=logits,
            point=point,
            points=points,
            provenance=Provenance(provenance, why),
            watch=None if is_trial else named or watch_power(meter, [one.device for one in provenance], stacklevel=5),
        )

    if device != AUTO:
        return open_on(one_device_per_stage(device, len(stages)))
    golden = read_golden(bundle, variant)
    columns = [[end.name for end in variant.exits].index(exit_.name) for exit_ in exits]
    shares = point.exit_shares if point else (0.0,) * (len(exits) - 1) + (1.0,)
    samples = check_samples(golden.inputs, bundle.manifest.inputs)
    devices, why = choose_devices(open_on, list(samples), golden.score[:, columns].tolist(), shares)
    warnings.warn(why, EngineWarning, stacklevel=3)
    return open_on(devices, why)
