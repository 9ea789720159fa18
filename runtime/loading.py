"""From a bundle on disk to a network that runs."""

import os
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import Bundle, Calibration, OperatingPoint, Variant, opened
from ..devices import describe_differences
from ..devices.fingerprints import Difference
from ..errors import UncalibratedWarning, UsageError
from ..progress import Progress
from .chain.net import Net
from .notices import warn_caller
from .opening import let_go, open_network
from .placement import refuse_servers
from .request import LoadOptions, OnFault, chain_parts, static_parts
from .selection import choose_point, differs_here, most_careful, variant_of

if TYPE_CHECKING:
    from ..bundle import Trust
    from ..devices.meter import Meter
    from .audit.keeping import Alarm
    from .audit.options import Audit

__all__ = ["load", "load_static", "load_uncalibrated"]


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
    meter: "str | Meter | None" = None,
    progress: Progress | None = None,
    lazy: int = False,
    release_after_s: float | None = None,
    on_fault: OnFault = "raise",
    stage_limit_s: float | None = None,
    audit: "float | Audit | None" = None,
    on_alarm: "Callable[[Alarm], object] | None" = None,
    trust: "Trust | str | os.PathLike[str] | None" = None,
    read: Callable[[Path], bytes] | None = None,
) -> Net:
    """Load a bundle to run on a device.

    Args:
        path: the bundle's folder, the file that `bundle.pack` made of it, or a bundle already opened.
        device: where to run: `cpu` (ONNX Runtime), `cuda:0`, `openvino:CPU`, `openvino:NPU`, ...; or a device for each stage; or
            `auto`, which measures the devices of this machine for a moment and takes the fastest. By default the devices that
            the calibration was made on, or `cpu`.
        variant: name of a variant, or of a chain across two, such as `int8:0+fp32` (see `bundle.across`). By default the one that
            the calibration was made for, or the first.
        point: name of an operating point in the calibration; its first one by default.
        threads: threads that the engine may use within a stage.
        logits: True if results shall carry the logits of the exit taken.
        calibration: a calibration outside the bundle, or one already read. By default the one in the bundle that fits.
        fallback: a device such as `cpu` that takes the stages which their own device cannot run, or all of a device that is
            missing; `Net.provenance` shows where it was taken.
        meter: what watches the board's power while the network lives, for `Net.stats()`: `auto`, a name that `offramp doctor`
            lists, or a `devices.Meter` of your own. The network runs on if the meter is missing or stops.
        progress: called with what is being done, how much is done, and how much there is.
        lazy: the number of the first stage that is loaded when it is first used, it and all later ones; True is 1, all behind the
            first exit. They are tried and checked here, and let go. A static network has one stage, which stays.
        release_after_s: a time without use, after which such a stage is let go again; None keeps it.
        on_fault: what a call does if an engine fails, if a stage gives what no exit can (NaN), or if it hangs. `raise` raises an
            error; `last_exit` answers with the last exit before the fault, if there is one; `fallback` answers on the device that
            `fallback` names, and tries the first devices again later. Such answers are marked: `Result.fault`.
        stage_limit_s: a stage that runs for longer hangs. It runs in a thread, which takes some ten microseconds. None has no
            limit.
        audit: the share of inputs that is compared with the last exit after it was answered, 0.01 say; or an `Audit`, which says
            more. `Net.stats().audit` shows what the field shows. None audits nothing.
        on_alarm: called with an `Alarm`, from another thread, when inputs are others than those of the calibration.
        trust: whose bundles are taken: a `bundle.Trust`, its file, or the public key of releases. A policy of this machine
            (`/etc/offramp/trust.json`) is obeyed in any case. None demands nothing more.
        read: called for each file that is used, as for a network that is stored encrypted; see `bundle.open_bundle`. Only devices
            that run stages from memory take what it returns: `cpu`.

    Returns:
        The network. Without a calibration every input runs to the last exit, and an `UncalibratedWarning` says so.

    Raises:
        UsageError: nothing lies at a path, the point does not exist, or several calibrations fit equally well.
        BundleError: the bundle or calibration is damaged or newer than this offramp, they do not belong together, or stages
            built in the bundle do not give the golden answers; TrustError if they are not signed as a policy demands.
        MissingError: a device or its engine's package is missing, or the device cannot run a stage.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime import load
        >>> net = load("digits.offramp")
        >>> result = net(np.load("test.npz")["x"][0])
        >>> result.label in range(10)
        True
    """
    if on_alarm is not None and (audit is None or not callable(on_alarm)):
        raise UsageError("on_alarm is a function that an audit calls: give audit=0.01, say.")
    bundle = opened(path, read=read, trust=trust)
    options = LoadOptions(
        threads,
        logits,
        fallback,
        meter,
        progress,
        lazy=lazy,
        release_after_s=release_after_s,
        on_fault=on_fault,
        stage_limit_s=stage_limit_s,
    )
    chosen, calibration, best = choose_point(bundle, calibration, variant=variant, point=point, threads=threads)
    if calibration is None or best is None:
        net = open_network(chain_parts(bundle, chosen), "cpu" if device is None else device, options)
        which = f" of variant {variant}" if variant else ""
        warn_caller(
            f"{bundle.path} has no calibration{which}: every input runs to the last exit. Run: offramp calibrate",
            UncalibratedWarning,
        )
        return net if audit is None else _audit(net, audit, on_alarm, bundle, chosen, None)
    differing = differs_here(calibration, threads)
    if differing and point is None:  # the latencies by which points were chosen do not hold here
        best = most_careful(calibration, best.variant if variant else None)
        chosen = variant_of(bundle, calibration, best) or chosen
    parts = chain_parts(bundle, chosen) if best.static is None else static_parts(bundle, chosen, best.static)
    where, points = _device_of(best, device, len(chosen.stages)), calibration.points
    net = open_network(parts, where, options, point=best, points=points, lets_go=audit is None)
    net.know_latencies(calibration.chains)
    _warn_where_it_differs(net, calibration, best, differing)
    return net if audit is None else _audit(net, audit, on_alarm, bundle, chosen, calibration)


def _audit(
    net: Net,
    audit: "float | Audit",
    on_alarm: "Callable[[Alarm], object] | None",
    bundle: Bundle,
    variant: Variant,
    calibration: Calibration | None,
) -> Net:
    """Return the network that audits itself."""
    from .audited import start_audit  # most products audit none

    audited = start_audit(net, audit, on_alarm, bundle=bundle, variant=variant, calibration=calibration)
    let_go(audited)  # not before: it clones them
    return audited


def load_uncalibrated(
    path: str | os.PathLike[str] | Bundle,
    device: str | Sequence[str] = "cpu",
    *,
    variant: str | None = None,
    threads: int = 1,
    logits: bool = False,
    fallback: str | None = None,
    meter: "str | Meter | None" = None,
    progress: Progress | None = None,
    lazy: int = False,
    release_after_s: float | None = None,
    on_fault: OnFault = "raise",
    stage_limit_s: float | None = None,
) -> Net:
    """Load a bundle without looking for a calibration: every sample runs to the last exit until you set `Net.thresholds`.

    Args:
        path: the bundle's folder, or a bundle already opened.
        variant: name of a variant; the first by default.
        device, threads, logits, fallback, meter, progress, lazy, release_after_s, on_fault, stage_limit_s: as for `load`.

    Raises:
        UsageError, BundleError, MissingError: as for `load`.

    Example:
        >>> from offramp.runtime import load_uncalibrated
        >>> net = load_uncalibrated("digits.offramp")
        >>> net.thresholds
        (2.0, 2.0)
    """
    bundle = opened(path)
    options = LoadOptions(
        threads,
        logits,
        fallback,
        meter,
        progress,
        lazy=lazy,
        release_after_s=release_after_s,
        on_fault=on_fault,
        stage_limit_s=stage_limit_s,
    )
    return open_network(chain_parts(bundle, bundle.chain(variant)), device, options)


def load_static(
    path: str | os.PathLike[str] | Bundle,
    device: str = "cpu",
    *,
    variant: str | None = None,
    exit: int = -1,
    threads: int = 1,
    logits: bool = False,
) -> Net:
    """Load the static network that ends at one exit: what a product without early exit would run.

    Args:
        path: the bundle's folder, or a bundle already opened.
        device, threads, logits: as for `load`.
        variant: name of a variant; the first by default.
        exit: the number of the exit at which the network ends, which its results report; -1 is the last.

    Raises:
        UsageError: the exit does not exist, or `threads` is out of range.
        BundleError, MissingError: as for `load`.

    Example:
        >>> from offramp.runtime import load_static
        >>> net = load_static("digits.offramp", exit=1)
        >>> len(net.exits), net.thresholds
        (1, ())
        >>> import numpy as np
        >>> net(np.load("test.npz")["x"][0]).exit
        1
    """
    bundle = opened(path)
    chosen = bundle.variant(variant)
    count = len(chosen.exits)
    if not isinstance(exit, Integral) or not -count <= exit < count:
        raise UsageError(f"There is no exit {exit!r:.30}: {bundle.path} has exits 0 to {count - 1}.", path=bundle.path)
    return open_network(
        static_parts(bundle, chosen, int(exit) % count), device, LoadOptions(threads=threads, logits=logits)
    )


def _device_of(point: OperatingPoint, device: str | Sequence[str] | None, stages: int) -> str | Sequence[str]:
    """Return where the network of a point runs: where the caller wants it, or where the point was calibrated.

    If the caller gives a device for each of the chain's `stages`, the static network to exit k takes the device of stage k.
    """
    if device is None:
        return refuse_servers(point.placement)
    if point.static is not None and not isinstance(device, str) and len(device) == stages:
        return device[point.static]
    return device


def _warn_where_it_differs(
    net: Net, calibration: Calibration, point: OperatingPoint, differing: Sequence[Difference]
) -> None:
    """Warn if the calibration's latencies do not hold: the board or its software differs, or the stages' devices do."""
    reasons = [describe_differences(differing)] if differing else []
    devices = net.provenance.devices
    if devices != point.placement:
        reasons.append(f"the stages run on {', '.join(devices)}, but were calibrated on {', '.join(point.placement)}")
    if reasons:
        where, what = ("elsewhere", "on this device") if differing else ("with other devices", "with these")
        warn_caller(
            f"The calibration was made {where} ({'. '.join(reasons)}): its latencies do not hold here. Point {point.name} is in "
            f"use. Calibrate {what}.",
            UncalibratedWarning,
        )
