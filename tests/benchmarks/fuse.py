"""The fused file beside the chain: mean latency per sample, both with one thread, interleaved in one run.

    python tests/benchmarks/fuse.py [--seconds 4] [--shares 0.6,0.25,0.15] [--json result.json] [NETWORK ...]

Thresholds lie between the scores so that about the same share of samples leaves at every exit, or the given shares do. Blocks of
samples are run by all in an order drawn anew; a ratio is the median over blocks of fused over chain, in process CPU time. On ONNX
Runtime the fused file runs twice: bound to its memory once, as the chain is, and by the plain `session.run` of Python, which is
microseconds slower. The chain runs twice too: as users call it, with its checks and statistics, and as a bare loop of its bound
calls; what one call for all stages would gain shows beside the bare loop alone. On OpenVINO the fused file is bound, and compiled
with the settings of a stage.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from offramp.bundle.manifest import NEVER
from offramp.export import export, fuse
from offramp.runtime import load_uncalibrated
from offramp.runtime.engines import StageFile, find_device
from offramp.tests.zoo import networks

BLOCK = 32
SEEDS = {"weights": 0, "samples": 7, "blocks": 0}


class Residual(nn.Module):
    """A residual network for (N, 3, 32, 32) with four exits; about 40 million multiply-accumulates at width 32."""

    def __init__(self, width=32):
        super().__init__()
        widths = [width, width, 2 * width, 4 * width]
        self.stem = networks.conv(3, width)
        self.blocks = nn.ModuleList()
        for i, o in zip(widths, widths[1:] + widths[-1:], strict=True):
            self.blocks.append(nn.ModuleList([networks.conv(i, o, 1 if i == o else 2), networks.conv(o, o)]))
        self.heads = nn.ModuleList([nn.Linear(o, 10) for o in [*widths[1:], widths[-1]]])

    def forward(self, x):
        x, exits = self.stem(x), []
        for block, head in zip(self.blocks, self.heads, strict=True):
            y = block[0](x)
            x = y + block[1](y)
            exits.append(head(x.mean((2, 3))))
        return exits


def cases():
    found = dict(networks.ZOO)
    for width in (32, 64):
        found[f"residual-{width}"] = networks.Entry(
            lambda width=width: Residual(width), networks.normal((3, 32, 32)), {}
        )
    return found


def spread_thresholds(score, shares=None):
    """Thresholds by which about these shares of samples leave at the exits, by default the same share at every exit."""
    exits, left, thresholds = score.shape[1], np.arange(len(score)), []
    for k in range(exits - 1):
        leaving = round(shares[k] * len(score)) if shares else len(score) // exits
        if leaving == 0:
            thresholds.append(NEVER)
            continue
        column = np.sort(score[left, k])
        at = len(column) - leaving
        thresholds.append(float((column[max(at - 1, 0)] + column[min(max(at, 0), len(column) - 1)]) / 2))
        left = left[score[left, k] < np.float32(thresholds[-1])]
    return thresholds


def compare(name, entry, folder, seconds, shares):
    """Return the ratio and both means, in microseconds of process CPU time."""
    bundle = export(
        networks.build(entry, SEEDS["weights"]), entry.draw(3, 0), folder / f"{name}.offramp", **entry.options
    )
    x = entry.draw(256, SEEDS["samples"])
    axes = [tensor.shape.index(None) for tensor in bundle.manifest.inputs]
    parts = [np.split(array, 256, axis) for array, axis in zip(x, axes, strict=True)]
    samples = [tuple(map(np.ascontiguousarray, sample)) for sample in zip(*parts, strict=True)]
    chain = load_uncalibrated(bundle)
    chain.thresholds = spread_thresholds(chain.every_exit(x).score, shares)
    fused = fuse(bundle, folder / f"{name}.onnx", thresholds=chain.thresholds)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(fused.path, options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in bundle.manifest.inputs]
    feeds = [dict(zip(names, sample, strict=True)) for sample in samples]
    singles = [sample[0] if len(sample) == 1 else sample for sample in samples]
    outputs = ["label", "score", "exit"]

    def run_chain(rows):
        return [chain(singles[i]).exit for i in rows]

    def run_fused(rows):
        return [int(session.run(outputs, feeds[i])[2][0]) for i in rows]

    binding, memory = session.io_binding(), {name: array.copy() for name, array in feeds[0].items()}
    answers = {"label": np.zeros(1, np.int64), "score": np.zeros(1, np.float32), "exit": np.zeros(1, np.int64)}
    for target, source in ((binding.bind_ortvalue_input, memory), (binding.bind_ortvalue_output, answers)):
        for key, array in source.items():
            target(key, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    settings = onnxruntime.RunOptions()
    settings.add_run_config_entry("gpu_graph_id", "-1")

    def run_bound(rows):
        taken = []
        for i in rows:
            for key, array in feeds[i].items():
                memory[key][...] = array
            session.run_with_iobinding(binding, settings)
            taken.append(int(answers["exit"][0]))
        return taken

    places = chain._put(singles[0]).memory.single.inputs
    steps = chain._setup.steps

    def run_bare(rows):
        taken = []
        for i in rows:
            for place, array in zip(places, samples[i], strict=True):
                place[...] = array
            for k, run, score, *_, threshold in steps:
                run()
                if score[0] >= threshold:
                    break
            taken.append(k)
        return taken

    on_openvino = load_uncalibrated(bundle, "openvino:CPU")
    on_openvino.thresholds = chain.thresholds
    turns = {
        "chain": run_chain,
        "fused": run_bound,
        "plain_run": run_fused,
        "bare": run_bare,
        "openvino_chain": lambda rows: [on_openvino(singles[i]).exit for i in rows],
        "openvino_fused": bind_openvino(bundle, fused.path, feeds),
    }
    times: dict[str, list[float]] = {key: [] for key in turns}
    taken: list[int] = []
    assert run_chain(range(256)) == run_bound(range(256)) == run_fused(range(256)) == run_bare(range(256))
    for turn in turns.values():
        turn(range(BLOCK))
    rng, start = np.random.default_rng(SEEDS["blocks"]), time.perf_counter()
    while time.perf_counter() - start < seconds or len(times["chain"]) < 16:
        rows = rng.integers(0, 256, BLOCK)
        for key in rng.permutation(list(turns)):
            before = time.process_time()
            exits = turns[key](rows)
            times[key].append((time.process_time() - before) / BLOCK * 1e6)
            taken += exits if key == "chain" else []
    arrays = {key: np.array(found) for key, found in times.items()}
    ratios = arrays["fused"] / arrays["chain"]
    found_shares = np.bincount(taken, minlength=len(chain.exits)) / len(taken)
    low, high = np.percentile(ratios, [25, 75])
    return {
        "network": name,
        "mmacs": bundle.variant().exits[-1].macs / 1e6,
        "exit_shares": [round(float(share), 3) for share in found_shares],
        **{f"{key}_us": float(np.median(found)) for key, found in arrays.items()},
        "ratio": float(np.median(ratios)),
        "ratio_quartiles": [float(low), float(high)],
        "plain_run_ratio": float(np.median(arrays["plain_run"] / arrays["chain"])),
        "bare_ratio": float(np.median(arrays["fused"] / arrays["bare"])),
        "openvino_ratio": float(np.median(arrays["openvino_fused"] / arrays["openvino_chain"])),
        "blocks": len(ratios),
    }


def bind_openvino(bundle, path, feeds):
    """Return what runs rows of samples through the fused file on OpenVINO."""
    names = ("label", "score", "exit")
    compiled = find_device("openvino:CPU").engine.compile_stage(
        StageFile(Path(path), bundle.manifest.inputs, names), "CPU", threads=1
    )
    memory = {name: array.copy() for name, array in feeds[0].items()}
    dtypes = {port.any_name: port.element_type.to_dtype() for port in compiled._compiled.outputs}
    answers = {name: np.zeros(1, dtypes[name]) for name in names}
    run = compiled.bind(memory, answers)

    def run_rows(rows):
        taken = []
        for i in rows:
            for key, array in feeds[i].items():
                memory[key][...] = array
            run()
            taken.append(int(answers["exit"][0]))
        return taken

    return run_rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="all by default")
    parser.add_argument("--seconds", type=float, default=4.0, help="per network")
    parser.add_argument("--shares", type=lambda text: [float(part) for part in text.split(",")])
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(
        f"{'network':22}{'Mmac':>8}{'chain us':>10}{'fused us':>10}{'ratio':>8}  quartiles    plain run   bare"
        "  OpenVINO  ratio  exit shares"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, entry in cases().items():
            if arguments.networks and name not in arguments.networks:
                continue
            row = compare(name, entry, Path(folder), arguments.seconds, arguments.shares)
            rows.append(row)
            low, high = row["ratio_quartiles"]
            print(
                f"{name:22}{row['mmacs']:8.2f}{row['chain_us']:10.1f}{row['fused_us']:10.1f}{row['ratio']:8.3f}"
                f"  {low:.3f}-{high:.3f}  {row['plain_run_ratio']:9.3f}  {row['bare_ratio']:.3f}"
                f"  {row['openvino_chain_us']:8.1f}  {row['openvino_ratio']:5.3f}  {row['exit_shares']}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": SEEDS, "results": rows}, indent=1))


if __name__ == "__main__":
    main()
