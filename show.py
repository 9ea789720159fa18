"""What the command line prints: results as text or JSON on stdout, progress on stderr."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .bundle import Bundle
from .schema import Calibration, Tensor, Variant

if TYPE_CHECKING:
    from .runtime import Diagnosis, Result

Progress = Callable[[str, int, int], None]


def print_result(result: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result as text, or as one JSON document."""
    click.echo(msgspec.json.encode(result).decode() if as_json else text())


def table(lines: Sequence[Sequence[str]]) -> str:
    """Align cells in columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def describe_bundle(bundle: Bundle) -> str:
    """Describe a bundle and each of its variants."""
    manifest = bundle.manifest
    inputs = ", ".join(f"{tensor.name} {tensor.dtype} {_shape(tensor)}" for tensor in manifest.inputs)
    head = f"{bundle.path}  {manifest.network}, {manifest.classes} classes, input {inputs}"
    if manifest.captured == "torchscript":
        head += "\ncaptured by TorchScript, which records one run: torch's dynamo exporter could not"
    return "\n\n".join([head, *(_describe_variant(variant) for variant in manifest.variants)])


def _describe_variant(variant: Variant) -> str:
    size = sum(file.bytes for file in variant.files.values())
    head = f"variant {variant.name}  {variant.precision}, rule {variant.rule}, {len(variant.exits)} exits, {size / 1e6:.2f} MB"
    lines = [("exit", "name", "Mmac of stage", "Mmac static", "file", "enters the stage")]
    for k, (stage, exit_) in enumerate(zip(variant.stages, variant.exits, strict=True)):
        enters = ", ".join(f"{tensor.name} {_shape(tensor)}" for tensor in stage.inputs)
        lines.append((str(k), exit_.name, f"{stage.macs / 1e6:.2f}", f"{exit_.macs / 1e6:.2f}", stage.file, enters))
    return f"{head}\n{table(lines)}"


def _shape(tensor: Tensor) -> str:
    return "x".join("N" if axis is None else str(axis) for axis in tensor.shape)


def describe_calibration(calibration: Calibration) -> str:
    """Describe a calibration, its points and its verdict."""
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
            f"  devices      {', '.join(dict.fromkeys(point.placement))}",
            f"  exit shares  {shares}",
            f"  accuracy     {point.accuracy:.2%} (last exit {point.full_accuracy:.2%})",
            f"  drop         {point.drop:.2%}, 95 % interval {low:.2%} to {high:.2%}",
            f"  mean latency {point.latency_s * 1e6:.0f} us predicted",
        ]
    return "\n".join([*lines, calibration.verdict])


def describe_results(results: Sequence["Result"], names: Sequence[str] | None) -> str:
    """Describe what a network says of samples, a line each; classes by their names where there are some."""
    lines = [("sample", "label", "score", "exit", "latency us")]
    for i, r in enumerate(results):
        label = names[r.label] if names else str(r.label)
        lines.append((str(i), label, f"{r.score:.4f}", str(r.exit), f"{r.latency_s * 1e6:.1f}"))
    return table(lines)


def describe_diagnosis(found: "Diagnosis") -> str:
    """Describe what this device is and which engines run on it."""
    lines = list(found.fingerprint.items())
    for engine in found.engines:
        lines.append((f"engine {engine.package}", engine.version or str(engine.problem)))
        lines += [(f"device {name}", what) for name, what in engine.devices.items()]
    for name, there in found.extras.items():
        lines.append((f"extra {name}", "installed" if there else f"not installed; pip install 'offramp[{name}]'"))
    return table(lines)


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
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
def spinner(what: str) -> Iterator[None]:
    """Show on stderr that something is under way when a person watches."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
