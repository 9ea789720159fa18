"""The command `offramp calibrate`: its options, one call, and what it prints."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from ...errors import TargetError, UsageError, require
from ..describe import describe_calibration
from ..fleet_view import check_missing, describe_fleet, refuse_with_fleet, with_tls
from ..loading import Loading, with_loading
from ..meters import choose_energy_meter
from ..options import as_json, examples, parse_pace, with_groups, with_pace, with_seed, with_target
from ..output import advises, conclude, print_result, progress_bars

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...bundle import Bundle, Calibration, Target
    from ...calibrate.requests import Keep
    from ...fleet import Tls

KEPT = "What was measured and stored is kept: the same command goes on from there."


@click.command(
    epilog=examples(
        "offramp calibrate digits.offramp samples.npz",
        "offramp calibrate digits.offramp samples.npz --max-drop 0.01",
        "offramp calibrate digits.offramp samples.npz --goal accuracy \\\n    --max-latency-ms 2 --device openvino:CPU",
    )
)
@click.argument("bundle")
@click.argument("data")
@with_target
@click.option(
    "--confidence", default=0.9, show_default=True, help="Probability that all promises of the calibration hold."
)
@click.option(
    "--least-gain", default=0.05, show_default=True, help="Share of the mean cost that early exit must surely save."
)
@click.option(
    "--outside", help="Other samples, such as training data, to choose the thresholds on; DATA then only tests them."
)
@click.option(
    "--ask",
    help="Write the samples whose labels can change a promise, and their images, into this table (.csv) or folder; then stop.",
)
@click.option("--labels", help="The table or COCO JSON that --ask wrote, with labels filled in.")
@click.option(
    "--fleet", help="Address of a scheduler: calibrate on all boards that run offramp worker for it, instead of here."
)
@with_tls
@click.option("--also", multiple=True, help="Another device or placement to try; may be repeated.")
@click.option("-o", "--output", help="The file to store the calibration in. Default: a file in the bundle.")
@click.option(
    "--replace",
    is_flag=True,
    help="Store this calibration even if it misses a target or promises less than the one before.",
)
@click.option(
    "--loss",
    help="For a network that does not classify, how wrong an answer is, from 0 to 1: absolute:90, iou, hamming, zero_one, "
    "word_errors, f1@0.5:file.py:decode, or file.py:function.",
)
@click.option("--disagreement", help="How far an answer is from the whole network's, written likewise.")
@with_groups
@with_loading("device", "place", "fallback", "threads")
@click.option("--variant", "variants", multiple=True, help="Name of a variant to try; may be repeated. Default: all.")
@click.option(
    "--meter", help="Measure energy with this meter: auto, a name that offramp doctor lists, or file.py:function."
)
@click.option(
    "--power-w", type=float, help="The board's power in watts, to compute energy from instead of measuring it."
)
@with_pace
@with_seed
@click.option(
    "--measure-s",
    type=float,
    default=6.0,
    show_default=True,
    help="Seconds spent on the latencies of each variant on each device.",
)
@as_json
def calibrate(
    bundle: str,
    data: str,
    read_targets: "Callable[[], Target | dict[str, Target] | None]",
    confidence: float,
    least_gain: float,
    outside: str | None,
    ask: str | None,
    labels: str | None,
    fleet: str | None,
    tls: "Tls | None",
    also: tuple[str, ...],
    output: str | None,
    replace: bool,
    loss: str | None,
    disagreement: str | None,
    groups: str | None,
    loading: Loading,
    variants: tuple[str, ...],
    meter: str | None,
    power_w: float | None,
    every: str | None,
    seed: int,
    measure_s: float,
    as_json: bool,
) -> None:
    """Find the operating points of BUNDLE that meet a target on this device at the least cost, on DATA that did not train it.

    Without a target three points are made: balanced, accurate and eco, with an accuracy drop of at most 1, 0.5 and 2 %. If DATA
    has no labels or truth, the limit is on the disagreement with the whole network instead.
    """
    from ...bundle import open_bundle
    from ...calibrate import ask_labels, read_labels
    from ...calibrate import calibrate as calibrate_bundle
    from ...runtime.placement import parse_placement
    from ..inputs import load_grouped, load_samples

    require("scipy.special", extra="calibrate")  # before samples are loaded, which may take long
    if ask is not None and labels is not None:
        raise UsageError("--ask writes what --labels reads: give one of them.")
    if fleet is None and tls is not None:
        raise UsageError("--tls-ca, --tls-cert and --tls-key are for --fleet.")
    if fleet is not None:
        refuse_with_fleet(ask=ask, output=output, loss=loss, disagreement=disagreement, meter=meter, power_w=power_w)
    opened = open_bundle(bundle)
    variant = variants[0] if len(variants) == 1 else None
    devices = loading.devices(opened, variant) or "cpu"
    stages = len(opened.variant(variant).stages)
    targets, every_s = read_targets(), parse_pace(every)
    chosen = choose_energy_meter(meter, power_w, [devices] if isinstance(devices, str) else devices, targets)
    with advises(KEPT), progress_bars() as progress:
        samples, parts = load_grouped(data, groups, opened.manifest, progress=progress)
        if labels is not None:
            samples = read_labels(labels, samples, opened)
        others = None if outside is None else load_samples(outside, opened.manifest, progress=progress)
        places: dict[str, Any] = {
            "device": devices,
            "also": [parse_placement(text, stages) if "=" in text.partition("?")[0] else text for text in also],
            "threads": loading.threads,
            "fallback": loading.fallback,
            "variant": list(variants) or None,
        }
        if ask is not None:
            asked = ask_labels(opened, samples, ask, **places, progress=progress)
            print_result(asked, as_json, lambda: str(asked))
            return
        settings = places | {
            "replace": replace,
            "confidence": confidence,
            "least_gain": least_gain,
            "outside": others,
            "seed": seed,
            "measure_s": measure_s,
            "every_s": every_s,
            "groups": parts,
            "progress": progress,
        }
        if fleet is not None:
            _calibrate_fleet(opened, samples, fleet, targets, settings | {"tls": tls}, as_json)
            return
        here: dict[str, Any] = {
            "output": output,
            "meter": chosen,
            "keep": _find_keep(),
            "loss": loss,
            "disagreement": disagreement,
        }
        calibration = calibrate_bundle(opened, samples, targets, **here, **settings)
    given = {"--calibration": output, "--loss": loss, "--disagreement": disagreement}
    _print_calibration(calibration, bundle, given, as_json)


def _calibrate_fleet(
    bundle: "Bundle", samples: Any, scheduler: str, targets: Any, settings: dict[str, Any], as_json: bool
) -> None:
    from ...fleet import calibrate_fleet

    found = calibrate_fleet(bundle, samples, scheduler, targets, **settings)
    print_result(found, as_json, lambda: describe_fleet(found))
    check_missing(found)
    for calibration in found.calibrations.values():
        _check_met(calibration)


def _print_calibration(calibration: "Calibration", bundle: str, given: "dict[str, str | None]", as_json: bool) -> None:
    then = ["offramp", "bench", bundle, "NEW_SAMPLES"]
    then += [word for name, text in given.items() if text for word in (name, text)]
    met = all(point.met for point in calibration.asked_for.values())
    print_result(calibration, as_json, lambda: conclude(describe_calibration(calibration), None, then if met else ()))
    _check_met(calibration)


def _find_keep() -> "Keep | None":
    """Return what makes a variant with fewer exits; None if its packages are not installed."""
    if find_spec("onnx_ir") is None:
        return None

    def keep(*arguments: "Any", **settings: "Any") -> "Bundle":
        from ...export import keep as keep_exits  # half a second, which most calibrations do without

        return keep_exits(*arguments, **settings)

    return keep


def _check_met(calibration: "Calibration") -> None:
    """Raise an error if the reporting samples miss a target."""
    if missed := [name for name, point in calibration.asked_for.items() if not point.met]:
        raise TargetError(
            f"The reporting samples miss the target of {', '.join(missed)}. Give more samples or a wider limit."
        )
