"""Shared by the samples: export a network, calibrate it, run it, compare it with its static networks, and draw the comparison."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from offramp.calibrate import Benchmark, Calibration, Ragged, Target, bench, calibrate
from offramp.calibrate.losses import Loss
from offramp.export import Epoch, export
from offramp.files import write_atomically
from offramp.runtime import Result, load

Samples = tuple[np.ndarray, "np.ndarray | Ragged"]

MOST_SHOWN = 4
"""An answer's part of more numbers than this is told by its shape."""


def whole_way(
    network: Any,
    calibration: Samples,
    test: Samples,
    output: Path,
    *,
    max_drop: float = 0.01,
    loss: str | Loss | None = None,
    outside: Samples | None = None,
    metric: Callable[..., float] | None = None,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
    **options: Any,
) -> Benchmark:
    """Export, calibrate, run and compare a network; print the comparison and write a bundle and a picture.

    Args:
        network: a torch module that returns the logits of its exits, or other answers, or the path of an ONNX file.
        calibration: samples and labels (or the truth) that the network was not trained on.
        test: samples and labels used for nothing but the comparison.
        output: the folder for `network.offramp` and `comparison.png`.
        max_drop: the accuracy that may be lost, as a fraction: 0.01 is one point; or the mean loss that may be added.
        loss: how wrong an answer is, for a network that does not classify.
        outside: other samples that select; a part of `calibration` does by default.
        metric: what is shown beside the loss and never promised, such as mAP, of the answers to all test samples and the truth.
        groups: which group each of the calibration samples belongs to, and each of the test samples, such as a person.
        options: passed to `export`, such as `class_names`.

    Returns:
        The comparison on the test samples.
    """
    output.mkdir(parents=True, exist_ok=True)
    print("exporting: capture, cut into stages, verify", flush=True)
    bundle = export(network, calibration[0][:3], output / "network.offramp", replace=True, **options)

    what = "an accuracy drop" if loss is None else "a mean loss added"
    print(f"calibrating for the least mean latency at {what} of at most {max_drop:.1%}", flush=True)
    given, others = groups or (None, None)
    calibrated = calibrate(bundle, calibration, Target(max_drop=max_drop), loss=loss, outside=outside, groups=given)
    print(f"  {calibrated.verdict}")
    print(f"  {calibrated.point.promise}")
    if not calibrated.point.met:
        print("  this point misses the target: give more samples, or a wider limit")

    with load(bundle) as net:  # loads the recommended operating point: early exit, or a static network
        result = net(test[0][0])
    print(f"running one sample: {describe_answer(result)}, score {result.score:.3f}, left at exit {result.exit}")

    print("comparing on samples that calibration never saw", flush=True)
    benchmark = bench(bundle, test, loss=loss, metric=metric, groups=others)
    print(f"\n{benchmark}\n")
    draw(benchmark, calibrated, output / "comparison.png")
    print(f"picture: {output / 'comparison.png'}")
    return benchmark


def describe_answer(result: Result) -> str:
    """Say what a network answered to one sample."""
    if result.answer is None:
        return f"label {result.label}"
    parts = [
        f"{name} {value.tolist() if value.size <= MOST_SHOWN else value.shape}" for name, value in result.answer.items()
    ]
    return f"answer {', '.join(parts)}"


def describe_epoch(epoch: Epoch) -> None:
    """Print the accuracy after a pass of training; for `train(..., progress=describe_epoch)`."""
    shares = " ".join(f"{share:.1%}" for share in epoch.accuracy)
    print(f"epoch {epoch.epoch}: accuracy on the training samples, exit by exit: {shares}", flush=True)


def draw(benchmark: Benchmark, calibration: Calibration, path: Path) -> None:
    """Draw accuracy over mean latency, and predicted and measured exit shares."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=[3, 2])
    if benchmark.others:
        draw_others(benchmark, left)
    else:
        draw_statics(calibration, left)
    rows = [
        (benchmark.whole, "tab:blue", "whole static network (test samples)"),
        (benchmark.early, "tab:red", f"early exit (test samples): {benchmark.speedup:.1f} times as fast"),
    ]
    if benchmark.single is not None and benchmark.single != benchmark.whole and not benchmark.others:
        rows.append((benchmark.single, "tab:green", f"{benchmark.single_name} (test samples)"))
    for row, color, name in rows:
        left.plot(row.mean_s * 1e3, row.accuracy * 100, "D", markersize=9, color=color, label=name)
    what = "accuracy, %" if benchmark.counts == "labels" else "100 - mean loss, %"
    left.set(xlabel="mean latency, ms", ylabel=what, xlim=(0, None))
    left.margins(0.1)
    left.grid(alpha=0.3)
    left.legend(loc="lower right", fontsize=8)

    exits = np.arange(len(benchmark.exit_shares))
    right.bar(exits - 0.2, [100 * share for share in benchmark.exit_shares], 0.4, color="tab:red", label="measured")
    if benchmark.predicted_shares is not None:
        right.bar(
            exits + 0.2, [100 * share for share in benchmark.predicted_shares], 0.4, color="0.7", label="predicted"
        )
    right.set(xlabel="exit", ylabel="samples that leave there, %", xticks=exits)
    right.legend(fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    write_atomically(path, picture.getvalue())
    plt.close(figure)


def draw_statics(calibration: Calibration, axes: Any) -> None:
    """Draw the static networks as they were calibrated."""
    places = [(static.latency_s * 1e3, 100 * (static.accuracy or 0)) for static in calibration.statics]
    axes.plot(
        *zip(*places, strict=True), "o--", color="0.6", label="static networks, one per exit (calibration samples)"
    )
    for static, place in zip(calibration.statics, places, strict=True):
        axes.annotate(f"exit {static.exit}", place, (6, 6), textcoords="offset points")


def draw_others(benchmark: Benchmark, axes: Any) -> None:
    """Draw what was measured beside early exit, with 95 % intervals of what is lost, and how much may be lost."""
    whole = benchmark.whole.accuracy
    for other in benchmark.others:
        place = other.row.mean_s * 1e3, other.row.accuracy * 100
        low, high = (100 * (whole - drop) for drop in other.drop_interval)
        axes.vlines(place[0], high, low, color="0.5")
        axes.plot(*place, "o", color="0.5")
        axes.annotate(other.row.name, place, (8, -3), textcoords="offset points", fontsize=9)
    low, high = (100 * (whole - drop) for drop in benchmark.drop_interval)
    axes.vlines(benchmark.early.mean_s * 1e3, high, low, color="tab:red")
    if benchmark.max_drop is not None:
        floor = 100 * (whole - benchmark.max_drop)
        axes.axhline(
            floor, color="0.4", linestyle=":", label=f"{100 * benchmark.max_drop:g} % lost: the most that is allowed"
        )
