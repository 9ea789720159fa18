"""A cascade beside loops that one would write by hand around two ONNX files; all with one thread, interleaved in one run.

    python tests/benchmarks/cascades.py [--seconds 4] [--share 0.6] [--json result.json] [CASE ...]

Two networks take the same floats, so that nobody resizes or normalises anything. The small one answers about the given share of
the samples. Blocks of samples are run by all in an order drawn anew; a ratio is the median over blocks of process CPU time.

    net        what users call, with its checks and statistics
    files      two sessions of ONNX Runtime on the two files, memory bound once; softmax and argmax in numpy
    graphs     two such sessions on the stages of the bundle, which give score and label: a bare loop that checks nothing

`tiny` and `small` are untrained; `resnets` are those of samples/cascade.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from offramp.export import cascade
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.onnx_files import convolutions, write

BLOCK, SAMPLES, SHAPE = 32, 256, (3, 32, 32)
SEEDS = {"samples": 7, "blocks": 0}


def write_convolutions(*widths: int) -> Callable[[Path], list[Path]]:
    networks = {width: convolutions(width, classes=10, stride=1) for width in widths}
    return lambda folder: [write(folder / f"{w}.onnx", network, shape=SHAPE) for w, network in networks.items()]


def write_resnets(folder: Path) -> list[Path]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "samples" / "cascade"))
    from cascade import write_plain

    return [write_plain(name, folder / f"{name}.onnx") for name in ("resnet8", "resnet")]


CASES = {"tiny": write_convolutions(2, 8), "small": write_convolutions(16, 64), "resnets": write_resnets}


class Bound:
    """A file on memory that is bound once: its input and some of its outputs."""

    def __init__(self, path: Path, outputs: Sequence[str] = ()) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        self.x = np.zeros((1, *SHAPE), np.float32)
        names = list(outputs) or [output.name for output in session.get_outputs()]
        self.answers = session.run(names, {given.name: self.x})
        binding, settings = session.io_binding(), onnxruntime.RunOptions()
        settings.add_run_config_entry("gpu_graph_id", "-1")
        binding.bind_ortvalue_input(given.name, onnxruntime.OrtValue.ortvalue_from_numpy(self.x))
        for name, array in zip(names, self.answers, strict=True):
            binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        self.run = lambda: session.run_with_iobinding(binding, settings)


def loop_files(paths: Sequence[Path], threshold: float) -> Callable[[np.ndarray], int]:
    small, large = (Bound(path) for path in paths)

    def call(x: np.ndarray) -> int:
        small.x[...] = x
        small.run()
        logits = small.answers[0][0]
        p = np.exp(logits - logits.max())
        if p.max() / p.sum() < threshold:
            large.x[...] = x
            large.run()
            logits = large.answers[0][0]
        return int(logits.argmax())

    return call


def loop_graphs(
    paths: Sequence[Path], outputs: Sequence[Sequence[str]], threshold: float
) -> Callable[[np.ndarray], int]:
    small, large = (Bound(path, names) for path, names in zip(paths, outputs, strict=True))

    def call(x: np.ndarray) -> int:
        small.x[...] = x
        small.run()
        score, label = small.answers
        if score[0] < threshold:
            large.x[...] = x
            large.run()
            _, label = large.answers
        return int(label[0])

    return call


def compare(paths: Sequence[Path], folder: Path, seconds: float, share: float) -> dict[str, Any]:
    x = np.random.default_rng(SEEDS["samples"]).standard_normal((SAMPLES, 1, *SHAPE)).astype(np.float32)
    bundle = cascade(paths, x[:3, 0], folder / "both.offramp")
    variant, net = bundle.variant(), load_uncalibrated(bundle)
    threshold = float(np.quantile(net.every_exit(x[:, 0]).score[:, 0], 1 - share))
    net.thresholds = [threshold]
    stages = [bundle.path / variant.folder / stage.file for stage in variant.stages]
    heads = [(exit_.score, str(exit_.label)) for exit_ in variant.exits]
    calls: dict[str, Callable[[np.ndarray], int]] = {
        "net": lambda sample: net(sample).label,
        "files": loop_files(paths, threshold),
        "graphs": loop_graphs(stages, heads, threshold),
    }
    labels = {name: [call(sample) for sample in x] for name, call in calls.items()}
    assert labels["net"] == labels["graphs"]
    same = float(np.mean(np.equal(labels["net"], labels["files"])))
    times: dict[str, list[float]] = {name: [] for name in calls}
    rng, end = np.random.default_rng(SEEDS["blocks"]), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["net"]) < 16:
        rows = rng.integers(0, SAMPLES, BLOCK)
        for name in rng.permutation(list(calls)):
            call, start = calls[name], time.process_time()
            for i in rows:
                call(x[i])
            times[name].append((time.process_time() - start) / BLOCK * 1e6)
    spent = {name: np.array(found) for name, found in times.items()}
    return {
        "same_labels": same,
        **{f"{name}_us": float(np.median(found)) for name, found in spent.items()},
        **{f"over_{name}": float(np.median(spent["net"] / spent[name])) for name in ("files", "graphs")},
        "blocks": len(times["net"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all by default")
    parser.add_argument("--seconds", type=float, default=4.0, help="per case")
    parser.add_argument("--share", type=float, default=0.6, help="of the samples that the small network answers")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"There is no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}.")
    rows = []
    print(f"{'case':10}{'net us':>9}{'files us':>10}{'graphs us':>11}{'net/files':>11}{'net/graphs':>12}  same labels")
    for name in arguments.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            row = compare(CASES[name](Path(folder)), Path(folder), arguments.seconds, arguments.share)
        rows.append({"case": name, **row})
        print(
            f"{name:10}{row['net_us']:9.1f}{row['files_us']:10.1f}{row['graphs_us']:11.1f}{row['over_files']:11.3f}"
            f"{row['over_graphs']:12.3f}  {row['same_labels']:.1%}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": SEEDS, "results": rows}, indent=1))


if __name__ == "__main__":
    main()
