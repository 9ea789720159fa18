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
from .errors import OfframpError, UsageError
from .show import describe_bundle, describe_calibration, print_result, progress_bars, spinner, table

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
on_device = click.option("--device", default="cpu", show_default=True, help="Where to run: cpu.")
with_threads = click.option("--threads", default=1, show_default=True, help="Threads per stage.")
with_seed = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draws the split and the order of measurement.",
)
with_variant = click.option("--variant", help="Name of a variant; the first, or the one that was calibrated, by default.")
with_point = click.option("--point", help="Operating point; the only or first one by default.")
with_calibration = click.option("--calibration", help="A calibration file outside the bundle.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=__doc__.partition("\n\n")[2])
@click.version_option(__version__, prog_name="offramp")
def app() -> None:
    """Deploy early-exit classifiers on constrained hardware.

    Networks are named file.py:function or model.onnx. Samples are an .npz file (x, y), a folder with one folder of images per
    class, or file.py:function returning (x, y).
    """


@app.command()
@click.argument("network")
@click.option("-o", "--output", required=True, help="The bundle to write, a folder such as digits.offramp.")
@click.option("--shape", help="Shape of one sample, such as 3x32x32 (or, for images as a camera gives them, 32x32x3), to make random examples of.")
@click.option("--data", help="Samples to take the examples from; real ones verify better than random ones.")
@click.option("--exits", help="The outputs that are exits, in order: early,middle,late. All by default.")
@click.option("--sort", is_flag=True, help="Put the exits in order by the work below them.")
@click.option(
    "--axes",
    multiple=True,
    help="Axes of an input: batch where the batch is, a name where the size differs from call to call, - where it is fixed: "
    "batch,time or, with several inputs, tokens=batch,time.",
)
@click.option(
    "--rule",
    default="max_softmax",
    show_default=True,
    help="How an exit's score is made: max_softmax, entropy, margin, ensemble, gate or gate_logit.",
)
@click.option("--gates", help="For the rules gate and gate_logit: the outputs that are gates, one per exit.")
@click.option("--temperatures", help="One per exit, such as 1.2,1.1,1; divides the logits before they are scored.")
@click.option("--mean", help="Take uint8 images; subtract this per channel of pixels from 0 to 1: 0.485,0.456,0.406.")
@click.option("--std", help="Take uint8 images; then divide by this per channel: 0.229,0.224,0.225.")
@click.option("--resize", default="stretch", show_default=True, help="How images are resized: stretch, crop or pad.")
@click.option("--crop", default=1.0, show_default=True, help="With --resize crop: what stays of each side, 0.875 is 224 of 256.")
@click.option("--interpolation", default="bilinear", show_default=True, help="bilinear, bicubic or nearest.")
@click.option("--classes", help="A text file with the name of a class on each line.")
@as_json
def export(
    network: str,
    output: str,
    shape: str | None,
    data: str | None,
    exits: str | None,
    sort: bool,
    axes: Sequence[str],
    rule: str,
    gates: str | None,
    temperatures: str | None,
    mean: str | None,
    std: str | None,
    resize: str,
    crop: float,
    interpolation: str,
    classes: str | None,
    as_json: bool,
) -> None:
    """Cut NETWORK into stages, verify them and write a bundle."""
    from .schema import Preprocess
    from .sources import load_lines, load_network, load_samples

    if shape and data:
        raise UsageError("Give --shape or --data, not both.")
    preprocess = None
    if mean or std:
        means, stds = _numbers("--mean", mean), _numbers("--std", std)
        preprocess = Preprocess(
            mean=means or (0.0,) * len(stds or ()),
            std=stds or (1.0,) * len(means or ()),
            resize=resize,  # type: ignore[arg-type]
            crop=crop,
            interpolation=interpolation,  # type: ignore[arg-type]
        )
    names = None if classes is None else load_lines(classes)
    model = load_network(network)
    example = None
    if data:
        example = load_samples(data)[0]
    elif shape:
        example = _random_example(_parse_shape(shape), images=preprocess is not None)
    elif not network.endswith(".onnx"):
        raise UsageError("A network from Python needs --shape (such as 3x32x32) or --data to make examples of.")
    from .export import export as export_network

    with spinner("capturing, cutting and verifying"):
        bundle = export_network(
            model,
            example,
            output,
            exits=_names(exits),
            sort=sort,
            axes=_parse_axes(axes),
            rule=rule,
            gates=_names(gates) or (),
            temperatures=_numbers("--temperatures", temperatures),
            preprocess=preprocess,
            class_names=names,
        )
    print_result(bundle.manifest, as_json, lambda: describe_bundle(bundle))


@app.command()
@click.argument("bundle")
@click.option("--exits", required=True, help="The exits to keep, by name or number: 0,2.")
@with_variant
@click.option("--name", help="What the new variant is called; after the exits by default.")
@as_json
def keep(bundle: str, exits: str, variant: str | None, name: str | None, as_json: bool) -> None:
    """Add a variant to BUNDLE that has only some of its exits, since every exit costs."""
    from .export import keep as keep_exits

    chosen = [int(part) if part.lstrip("-").isdigit() else part for part in _names(exits) or ()]
    with spinner("cutting and verifying"):
        made = keep_exits(bundle, chosen, variant=variant, name=name)
    print_result(made.manifest, as_json, lambda: describe_bundle(made))


@app.command()
@click.argument("bundle")
@click.option("-o", "--output", required=True, help="The ONNX file to write.")
@with_variant
@with_point
@with_calibration
@click.option("--thresholds", help="One per exit but the last instead of a calibration's, such as 0.9,0.8; 2 means never.")
@as_json
def fuse(
    bundle: str,
    output: str,
    variant: str | None,
    point: str | None,
    calibration: str | None,
    thresholds: str | None,
    as_json: bool,
) -> None:
    """Write BUNDLE as one ONNX file that exits early by itself, without offramp."""
    from .export import fuse as fuse_bundle

    if thresholds and (point or calibration):
        raise UsageError("Give --thresholds, or a point or calibration, not both.")
    with spinner("fusing"):
        fused = fuse_bundle(
            bundle,
            output,
            variant=variant,
            point=point,
            calibration=calibration,
            thresholds=_numbers("--thresholds", thresholds),
        )
    print_result(fused, as_json, lambda: str(fused))


@app.command()
@click.argument("bundle")
@on_device
@with_threads
@with_variant
@as_json
def verify(bundle: str, device: str, threads: int, variant: str | None, as_json: bool) -> None:
    """Replay BUNDLE's golden samples through every stage on this device and compare with what was exported."""
    from .errors import CheckError
    from .runtime import verify as verify_bundle

    found = verify_bundle(bundle, device, variant=variant, threads=threads)
    print_result(found, as_json, lambda: "\n\n".join(map(str, found)))
    if failed := [result.variant for result in found if not result.passed]:
        raise CheckError(f"{', '.join(failed)}: what runs on {device} is not what was exported. Do not deploy it here.")


@app.command()
@click.argument("bundle")
@click.argument("data")
@click.option(
    "--max-drop", type=float, help="Largest accuracy drop against the last exit, a fraction: 0.01 is one percent."
)
@click.option("--max-latency-ms", type=float, help="Largest mean latency in milliseconds.")
@click.option("-o", "--output", help="Where to store the calibration; in the bundle by default.")
@on_device
@with_threads
@with_variant
@with_seed
@as_json
def calibrate(
    bundle: str,
    data: str,
    max_drop: float | None,
    max_latency_ms: float | None,
    output: str | None,
    device: str,
    threads: int,
    variant: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Find the thresholds of BUNDLE that meet a target on this device, by labelled DATA it was not trained on."""
    from .bundle import open_bundle
    from .calibrate import Target
    from .calibrate import calibrate as calibrate_bundle
    from .errors import TargetError
    from .sources import labelled, load_samples

    target = Target(max_drop=max_drop, max_latency_s=None if max_latency_ms is None else max_latency_ms / 1e3)
    opened = open_bundle(bundle)
    samples = labelled(load_samples(data, opened.manifest), data)
    with progress_bars() as progress:
        calibration = calibrate_bundle(
            opened,
            samples,
            target,
            device=device,
            threads=threads,
            variant=variant,
            output=output,
            seed=seed,
            progress=progress,
        )
    print_result(calibration, as_json, lambda: describe_calibration(calibration))
    if not calibration.points["default"].met:
        raise TargetError(
            "The point was stored, but the samples that did not choose it miss the target. Give more samples or a wider limit."
        )


@app.command()
@click.argument("bundle")
@click.argument("inputs")
@on_device
@with_threads
@with_variant
@with_point
@with_calibration
@as_json
def run(
    bundle: str,
    inputs: str,
    device: str,
    threads: int,
    variant: str | None,
    point: str | None,
    calibration: str | None,
    as_json: bool,
) -> None:
    """Run BUNDLE on every sample of INPUTS: label, score, exit and latency, a line each."""
    import msgspec
    import numpy as np

    from .bundle import open_bundle
    from .runtime import load
    from .runtime.samples import convert_samples
    from .sources import load_samples

    opened = open_bundle(bundle)
    tensors, names = opened.manifest.inputs, opened.manifest.class_names
    x, _ = load_samples(inputs, opened.manifest)
    if len(tensors) == 1 and isinstance(x, np.ndarray) and x.ndim == len(tensors[0].shape) - 1:
        x = np.expand_dims(x, tensors[0].shape.index(None))
    samples = convert_samples(x, tensors)
    net = load(opened, device, variant=variant, point=point, threads=threads, calibration=calibration)
    results = []
    with net, progress_bars() as progress:
        for i, sample in enumerate(samples):
            results.append(net(sample))
            progress("running", i + 1, len(samples))
    lines = [("sample", "label", "score", "exit", "latency us")]
    for i, r in enumerate(results):
        label = names[r.label] if names else str(r.label)
        lines.append((str(i), label, f"{r.score:.4f}", str(r.exit), f"{r.latency_s * 1e6:.1f}"))
    named = [msgspec.to_builtins(r) | ({"class": names[r.label]} if names else {}) for r in results]
    print_result(named, as_json, lambda: table(lines))


@app.command()
@click.argument("bundle")
@click.argument("data")
@on_device
@with_threads
@with_variant
@with_point
@with_calibration
@with_seed
@as_json
def bench(
    bundle: str,
    data: str,
    device: str,
    threads: int,
    variant: str | None,
    point: str | None,
    calibration: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the whole static network and the best single exit, by labelled DATA that calibration never saw."""
    from .bundle import open_bundle
    from .calibrate import bench as bench_bundle
    from .sources import labelled, load_samples

    opened = open_bundle(bundle)
    samples = labelled(load_samples(data, opened.manifest), data)
    with progress_bars() as progress:
        result = bench_bundle(
            opened,
            samples,
            device=device,
            threads=threads,
            variant=variant,
            point=point,
            calibration=calibration,
            seed=seed,
            progress=progress,
        )
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
    """Say what this device is, which engines run here, and how to install what is missing."""
    from .errors import MissingError
    from .runtime import diagnose

    found = diagnose()
    lines = [(name, value) for name, value in found.fingerprint.items()]
    lines += [
        (f"device {e.device}", f"{e.package} {e.version}" if e.version else str(e.problem)) for e in found.engines
    ]
    lines += [
        (f"extra {name}", "installed" if there else f"not installed; pip install 'offramp[{name}]'")
        for name, there in found.extras.items()
    ]
    print_result(found, as_json, lambda: table(lines))
    if not any(engine.version for engine in found.engines):
        raise MissingError("No engine runs here. Install one with: pip install 'offramp[onnxruntime]'")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    warnings.showwarning = lambda message, *_: click.echo(f"Note: {message}", err=True)
    try:
        app.main(arguments, prog_name="offramp", standalone_mode=False)
        sys.stdout.flush()
    except OfframpError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except BrokenPipeError:  # whoever read the output has gone, as in `offramp run ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        click.echo(
            f"Error: Cannot read or write {error.filename or 'the output'}: {error.strerror or error}.", err=True
        )
        return 4
    except Exception as error:
        if os.environ.get("OFFRAMP_TRACEBACK"):
            raise
        click.echo(
            f"Error: a fault in offramp, please report it with what OFFRAMP_TRACEBACK=1 prints: "
            f"{type(error).__name__}: {error}",
            err=True,
        )
        return 1
    return 0


def _parse_shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(axis) for axis in text.replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--shape is the sample's axes, such as 3x32x32, not {text!r}.")
    return shape


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes numbers joined by commas, such as 0.5,0.25, not {text!r}.") from None


def _parse_axes(texts: Sequence[str]) -> Any:
    """Read `batch,time`, or several `input=batch,time`."""
    named: dict[str, list[str | None]] = {}
    for text in texts:
        name, _, listed = text.rpartition("=")
        named[name] = [None if part.strip() == "-" else part.strip() for part in listed.split(",")]
    if "" in named and len(named) > 1:
        raise UsageError("With several inputs every --axes begins with the input's name: tokens=batch,time.")
    return named.get("", named or None)


def _random_example(shape: tuple[int, ...], *, images: bool) -> Any:
    import numpy as np

    rng = np.random.default_rng(0)
    if images:
        return rng.integers(0, 256, (3, *shape)).astype(np.uint8)
    return rng.standard_normal((3, *shape)).astype(np.float32)
