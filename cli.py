"""The command line: parse, call one public function, print. Results go to stdout, messages to stderr.

Exit codes: 0 done, also when the answer is not to use early exit; 1 our fault; 2 usage; 3 the target is not met or a check
failed; 4 a package, device, permission or disk is missing; 5 a file that is not what it claims; 130 interrupted.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import msgspec

from . import __version__
from .errors import OfframpError, UsageError

Progress = Callable[[str, int, int], None]

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
@click.option("--shape", help="Shape of one sample, such as 3x32x32, to make random examples of.")
@click.option("--data", help="Samples to take the examples from; real ones verify better than random ones.")
@click.option("--rule", default="max_softmax", show_default=True, help="How an exit's score is made.")
@as_json
def export(network: str, output: str, shape: str | None, data: str | None, rule: str, as_json: bool) -> None:
    """Cut NETWORK into stages, verify them and write a bundle."""
    import numpy as np

    from .sources import load_network, load_samples

    if shape and data:
        raise UsageError("Give --shape or --data, not both.")
    model = load_network(network)
    example = None
    if data:
        example = load_samples(data)[0]
    elif shape:
        example = np.random.default_rng(0).standard_normal((3, *_parse_shape(shape))).astype(np.float32)
    elif not network.endswith(".onnx"):
        raise UsageError("A network from Python needs --shape (such as 3x32x32) or --data to make examples of.")
    from .export import export as export_network

    with _spinner("capturing, cutting and verifying"):
        bundle = export_network(model, example, output, rule=rule)
    _print(bundle.manifest, as_json, lambda: _describe_bundle(bundle))


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
    samples = labelled(load_samples(data, opened.manifest.inputs[0]), data)
    with _progress() as progress:
        calibration = calibrate_bundle(
            opened, samples, target, device=device, threads=threads, output=output, seed=seed, progress=progress
        )
    _print(calibration, as_json, lambda: _describe_calibration(calibration))
    if not calibration.points["default"].met:
        raise TargetError(
            "The point was stored, but the samples that did not choose it miss the target. Give more samples or a wider limit."
        )


@app.command()
@click.argument("bundle")
@click.argument("inputs")
@on_device
@with_threads
@with_point
@with_calibration
@as_json
def run(
    bundle: str, inputs: str, device: str, threads: int, point: str | None, calibration: str | None, as_json: bool
) -> None:
    """Run BUNDLE on every sample of INPUTS: label, score, exit and latency, a line each."""
    from .bundle import open_bundle
    from .runtime import load
    from .runtime.checks import check_inputs
    from .sources import load_samples

    opened = open_bundle(bundle)
    tensor = opened.manifest.inputs[0]
    x, _ = load_samples(inputs, tensor)
    x = check_inputs(x[None] if x.ndim == len(tensor.shape) - 1 else x, tensor)
    results = []
    with load(opened, device, point=point, threads=threads, calibration=calibration) as net, _progress() as progress:
        for i, sample in enumerate(x):
            results.append(net(sample))
            progress("running", i + 1, len(x))
    lines = [("sample", "label", "score", "exit", "latency us")]
    lines += [
        (str(i), str(r.label), f"{r.score:.4f}", str(r.exit), f"{r.latency_s * 1e6:.1f}") for i, r in enumerate(results)
    ]
    _print(results, as_json, lambda: _table(lines))


@app.command()
@click.argument("bundle")
@click.argument("data")
@on_device
@with_threads
@with_point
@with_calibration
@with_seed
@as_json
def bench(
    bundle: str,
    data: str,
    device: str,
    threads: int,
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
    samples = labelled(load_samples(data, opened.manifest.inputs[0]), data)
    with _progress() as progress:
        result = bench_bundle(
            opened,
            samples,
            device=device,
            threads=threads,
            point=point,
            calibration=calibration,
            seed=seed,
            progress=progress,
        )
    _print(result, as_json, lambda: str(result))


@app.command()
@click.argument("bundle")
@as_json
def inspect(bundle: str, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest and show what it holds."""
    from .bundle import check_bundle, read_calibration

    opened = check_bundle(bundle)
    calibrations = {path.stem: read_calibration(path) for path in opened.calibrations()}
    text = lambda: "\n\n".join(  # noqa: E731
        [_describe_bundle(opened), *(f"calibration {n}\n{_describe_calibration(c)}" for n, c in calibrations.items())]
    )
    _print({"path": bundle, "manifest": opened.manifest, "calibrations": calibrations}, as_json, text)


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
    _print(found, as_json, lambda: _table(lines))
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


def _print(result: Any, as_json: bool, text: Callable[[], str]) -> None:
    click.echo(msgspec.json.encode(result).decode() if as_json else text())


def _parse_shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(axis) for axis in text.replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--shape is the sample's axes, such as 3x32x32, not {text!r}.")
    return shape


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _describe_bundle(bundle: Any) -> str:
    manifest, variant = bundle.manifest, bundle.variant()
    (tensor,) = manifest.inputs
    size = sum(file.bytes for file in variant.files.values())
    shape = "x".join("N" if axis is None else str(axis) for axis in tensor.shape)
    head = [
        f"{bundle.path}  {manifest.network}, {manifest.classes} classes, input {tensor.name} {tensor.dtype} {shape}",
        f"variant {variant.name}  rule {variant.rule}, {len(variant.exits)} exits, {size / 1e6:.2f} MB",
    ]
    lines = [("exit", "name", "Mmac of stage", "Mmac static", "enters the stage")]
    for k, (stage, exit_) in enumerate(zip(variant.stages, variant.exits, strict=True)):
        enters = ", ".join(f"{t.name} {'x'.join('N' if a is None else str(a) for a in t.shape)}" for t in stage.inputs)
        lines.append((str(k), exit_.name, f"{stage.macs / 1e6:.2f}", f"{exit_.macs / 1e6:.2f}", enters))
    return "\n".join([*head, _table(lines)])


def _describe_calibration(calibration: Any) -> str:
    lines = [
        f"{calibration.select_samples} samples chose the thresholds, {calibration.report_samples} others gave the figures"
    ]
    for name, point in calibration.points.items():
        low, high = point.drop_interval
        thresholds = ", ".join("never" if t > 1 else f"{t:.4f}" for t in point.thresholds)
        shares = ", ".join(f"{share:.1%}" for share in point.exit_shares)
        lines += [
            f"point {name}: {point.target}",
            f"  thresholds   {thresholds}",
            f"  exit shares  {shares}",
            f"  accuracy     {point.accuracy:.2%} (last exit {point.full_accuracy:.2%})",
            f"  drop         {point.drop:.2%}, 95 % interval {low:.2%} to {high:.2%}",
            f"  mean latency {point.latency_s * 1e6:.0f} us predicted",
        ]
    return "\n".join([*lines, calibration.verdict])


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Show progress bars on stderr when a person watches."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield show


@contextlib.contextmanager
def _spinner(what: str) -> Iterator[None]:
    """Show on stderr that something is under way when a person watches."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
