"""The command line: parse, call one public function, print. Results go to stdout, messages to stderr.

Exit codes: 0 done, also when the answer is not to use early exit; 1 our fault; 2 usage; 3 the target is not met or a check
failed; 4 a package, device, permission or disk is missing; 5 a file that is not what it claims; 130 interrupted.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from . import __version__
from .cli_build import build, cache
from .cli_compress import prune, quantize
from .cli_export import export, fuse, keep
from .cli_power import choose_energy_meter, energy, open_meter, power
from .cli_report import report
from .errors import CheckError, MissingError, OfframpError, TargetError, UnsupportedError
from .options import (
    as_json,
    calibrated_devices,
    devices_of,
    on_devices,
    read_loading,
    read_target,
    with_fallback,
    with_loading,
    with_meter,
    with_seed,
    with_target,
    with_threads,
)
from .show import (
    describe_bundle,
    describe_calibration,
    describe_diagnosis,
    describe_results,
    describe_stats,
    note,
    print_result,
    progress_bars,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=__doc__.partition("\n\n")[2])
@click.version_option(__version__, prog_name="offramp")
def app() -> None:
    """Deploy early-exit classifiers on constrained hardware.

    Networks are named file.py:function or model.onnx. Samples are an .npz file (x, y), file.py:function returning (x, y), or,
    where a bundle says their size, a folder with one folder of images per class.
    """


@app.command()
@click.argument("bundle")
@on_devices
@with_fallback
@with_threads
@click.option("--variant", help="Name of a variant; all by default.")
@as_json
def verify(
    bundle: str,
    device: str | None,
    place: str | None,
    fallback: str | None,
    threads: int,
    variant: str | None,
    as_json: bool,
) -> None:
    """Replay BUNDLE's golden samples through every stage on this device and compare with what was exported."""
    from .bundle import open_bundle
    from .runtime import Verification
    from .runtime import verify as verify_bundle

    opened = open_bundle(bundle)
    names = [variant] if variant else [one.name for one in opened.manifest.variants]
    found: list[Verification] = []
    with progress_bars() as progress:
        for name in names:
            devices = devices_of(opened, name, device, place) or calibrated_devices(opened, name)
            try:
                found += verify_bundle(
                    opened, devices, variant=name, threads=threads, fallback=fallback, progress=progress
                )
            except UnsupportedError as error:
                if name == names[-1] and not found:
                    raise
                warnings.warn(f"{name} is left out: {error}", stacklevel=1)
    print_result(found, as_json, lambda: "\n\n".join(map(str, found)))
    if failed := [result.variant for result in found if not result.passed]:
        raise CheckError(
            f"{', '.join(failed)}: what runs on {found[0].device} is not what was exported. Do not deploy it here."
        )


@app.command()
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
    as_json: bool,
    **target: Any,
) -> None:
    """Find the best way to run BUNDLE on this device that keeps a target, by DATA it was not trained on.

    Without a target it makes the points balanced, accurate and eco, of an accuracy drop of at most 1, 0.5 and 2 %. Where DATA has
    no labels, the disagreement with the whole network stands for it.
    """
    from .bundle import open_bundle
    from .calibrate import calibrate as calibrate_bundle
    from .runtime.placing import parse_placement
    from .sources import load_samples

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
            progress=progress,
        )
    print_result(calibration, as_json, lambda: describe_calibration(calibration))
    if missed := [name for name, point in calibration.asked_for.items() if not point.met]:
        raise TargetError(
            f"The samples that did not choose miss the target of {', '.join(missed)}. Give more samples or a wider limit."
        )


@app.command()
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

    from .bundle import open_bundle
    from .devices import fingerprint
    from .runtime import load
    from .runtime.calibrations import packages_of
    from .runtime.samples import convert_samples
    from .sources import load_samples

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
    packages = packages_of([stage.device for stage in net.provenance.stages])
    scope = f"{stats.power.meter}: {stats.power.scope}" if stats.power and stats.power.meter else None
    fields = fingerprint(packages=packages, threads=loading["threads"], meter=scope)
    print_result({"results": named, "stats": stats, "fingerprint": fields}, as_json, text)


@app.command()
@click.argument("bundle")
@click.argument("data")
@with_loading
@with_seed
@as_json
def bench(bundle: str, data: str, seed: int, as_json: bool, **loading: Any) -> None:
    """Compare BUNDLE with the whole static network and the best single exit, by labelled DATA that calibration never saw."""
    from .bundle import open_bundle
    from .calibrate import bench as bench_bundle
    from .sources import labelled, load_samples

    opened = open_bundle(bundle)
    samples = labelled(load_samples(data, opened.manifest), data)
    with progress_bars() as progress:
        result = bench_bundle(opened, samples, **read_loading(opened, **loading), seed=seed, progress=progress)
    print_result(result, as_json, lambda: str(result))


@app.command()
@click.argument("bundle")
@as_json
def inspect(bundle: str, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest and show what it holds."""
    from .bundle import check_bundle, read_calibration

    opened = check_bundle(bundle)
    calibrations = {path.stem: read_calibration(path) for path in opened.calibrations()}
    text = lambda: "\n\n".join(  # noqa: E731
        [describe_bundle(opened), *(f"calibration {n}\n{describe_calibration(c)}" for n, c in calibrations.items())]
    )
    print_result({"path": bundle, "manifest": opened.manifest, "calibrations": calibrations}, as_json, text)


@app.command()
@as_json
def doctor(as_json: bool) -> None:
    """Say what this board is, which engines and meters work here, and how to get what is missing."""
    from .runtime import diagnose

    found = diagnose()
    print_result(found, as_json, lambda: describe_diagnosis(found))
    if not any(engine.version for engine in found.engines):
        raise MissingError("No engine runs here. Install one with: pip install 'offramp[onnxruntime]'")


for command in (export, keep, quantize, prune, fuse, build, cache, power, energy, report):
    app.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    warnings.showwarning = lambda message, *_: note(f"Note: {message}")
    try:
        app.main(arguments, prog_name="offramp", standalone_mode=False)
        sys.stdout.flush()
    except OfframpError as error:
        note(f"Error: {error}")
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        note("Interrupted.")
        return 130
    except OSError as error:
        note(f"Error: Cannot read or write {error.filename or 'the output'}: {error.strerror or error}.")
        return 4
    except Exception as error:
        if os.environ.get("OFFRAMP_TRACEBACK"):
            raise
        note(
            f"Error: a fault in offramp, please report it with what OFFRAMP_TRACEBACK=1 prints: "
            f"{type(error).__name__}: {error}"
        )
        return 1
    return 0
