"""The chain with all exits taken beside the whole graph with the same outputs, on ONNX Runtime and OpenVINO, one thread.

    python tests/benchmarks/chain.py [--seconds 8] [--json result.json] [--profile] [NETWORK ...]

Everybody copies the sample into memory that was bound once, runs, and leaves score and label of every exit in memory. All take
turns in an order drawn anew; a ratio is the median over turns, in process CPU time.

    whole      the whole graph, one bound public call
    chain      the stages, one bound public call each, in a bare loop
    net        what users call; `python` is what it takes more than `chain`, in microseconds per stage
    plain      a loop of ONNX Runtime's `session.run`, as one would write it
    earlyon    earlyon 0.3.0's staged model in torch, if it is installed: pip install --no-deps earlyon==0.3.0
    together   16 samples of which half leave at each exit, through each stage at once, over each sample alone (`net.batch`)
    joined     a sample that leaves at the second exit, where the first is never taken: stages joined, over single ones

`--profile` prints where OpenVINO's chain spends more than the whole graph, by kinds of nodes.
"""

import argparse
import functools
import importlib.util
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from ladder import LADDER
from offramp.bundle import Tensor
from offramp.bundle.manifest import NEVER
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.runtime.chain.buffers import Buffers
from offramp.runtime.engines import StageFile, find_device
from offramp.runtime.opening import open_network
from offramp.runtime.request import LoadOptions, chain_parts
from offramp.tests.helpers.points import make_point

DEVICES = ("cpu", "openvino:CPU")
TURN_S = 0.02
PROFILES = 15
SEEDS = {"weights": 0, "samples": 0, "order of turns": 0, "samples that go together": 1}


def heads_of(variant):
    scores = [Tensor(name=e.score, dtype="float32", shape=(None,)) for e in variant.exits]
    return [*scores, *(Tensor(name=e.label, dtype="int64", shape=(None,)) for e in variant.exits)]


def copy_and_run(place, x, runs):
    def call():
        place[...] = x
        for run in runs:
            run()

    return call


def whole(bundle, device, x, name=None):
    """Return a call of a variant's whole network, and the run that it is made of."""
    variant, inputs = bundle.variant(name), bundle.manifest.inputs
    names = [head.name for head in heads_of(variant)]
    views = Buffers([*inputs, *heads_of(variant)], batch=1).views(1)
    parts = [tensor for exit_ in variant.exits for tensor in exit_.parts(bundle.manifest.classes).values()]
    source = StageFile(
        bundle.path / variant.folder / variant.whole,
        inputs,
        tuple(names),
        weights=bundle.path / variant.folder / variant.weights,
        weights_bytes=variant.files[variant.weights].bytes,
        exits=variant.exits,
        made=tuple(parts),
    )
    found = find_device(device)
    compiled = found.engine.compile_stage(source, found.place, threads=1)
    run = compiled.bind({inputs[0].name: views[inputs[0].name]}, {name: views[name] for name in names})
    return copy_and_run(views[inputs[0].name], x, (run,)), (run,)


def chain(bundle, device, x):
    """Return a call of the stages as a network binds them, and the runs that it is made of."""
    single = load_uncalibrated(bundle, device)._setup.memory.single
    runs = tuple(run for run, *_ in single.steps)
    return copy_and_run(single.inputs[0], x, runs), runs


def plain(bundle, x):
    import onnxruntime

    variant, sessions = bundle.variant(), []
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for stage in variant.stages:
        path = bundle.path / variant.folder / stage.file
        sessions.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))

    def call():
        known = {bundle.manifest.inputs[0].name: x}
        for session, stage in zip(sessions, variant.stages, strict=True):
            found = session.run(None, {tensor.name: known[tensor.name] for tensor in stage.inputs})
            known |= zip([output.name for output in session.get_outputs()], found, strict=True)

    return call


def earlyon(net, x):
    from earlyon.core.types import EarlyExitConfig, ExitPoint
    from earlyon.staged import Stage, StagedModel, StageSpec

    trunks = [nn.Sequential(net.stem, net.parts[0]), *net.parts[1:]]
    heads = [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head) for head in net.heads]
    points = [ExitPoint(f"exit{k}", str(k), head.in_features) for k, head in enumerate(net.heads[:-1])]
    config = EarlyExitConfig("ladder", net.heads[0].out_features, points, confidence_thresholds=[1.0] * len(points))
    stages = [Stage(trunk, head) for trunk, head in zip(trunks, heads, strict=True)]
    stages[-1] = Stage(nn.Sequential(trunks[-1], heads[-1]), nn.Identity())
    specs = [StageSpec(k, "final" if k == len(points) else f"exit{k}", ()) for k in range(len(stages))]
    model, sample = (
        StagedModel(stages, specs, config, dict.fromkeys(map(str, range(len(points))), 0.0)).eval(),
        torch.tensor(x),
    )
    return lambda: model.infer(sample)


def measure(calls, seconds):
    """Return each one's CPU times per call, turn by turn."""
    for call in calls.values():
        call()
        call()
    start = time.process_time()
    next(iter(calls.values()))()
    count = max(1, round(TURN_S / (time.process_time() - start)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, end = list(calls), time.monotonic() + seconds
    while time.monotonic() < end or len(times[names[0]]) < 5:
        random.shuffle(names)
        for name in names:
            calls[name]()
            start = time.process_time()
            for _ in range(count):
                calls[name]()
            times[name].append((time.process_time() - start) / count)
    return times


def compare_batches(net, shape, seconds):
    """Return the time of a batch whose samples go together over that of each alone."""
    x = np.random.default_rng(SEEDS["samples that go together"]).standard_normal((16, *shape)).astype(np.float32)
    left, thresholds = np.arange(16), []
    score = net.every_exit(x).score
    for k in range(score.shape[1] - 1):
        thresholds.append(float(np.median(score[left, k])))
        left = left[score[left, k] < thresholds[-1]]
        if not len(left):
            left = np.arange(16)
    net.thresholds, calls = thresholds, {}

    def batch(together):
        net._together = together
        net.batch(x)

    for together in (True, False):
        calls[together] = lambda together=together: batch(together)
    times = measure(calls, seconds)
    return median(a / b for a, b in zip(times[True], times[False], strict=True))


def compare_joined(bundle, x, seconds):
    """Return the time of a chain whose first exit is never taken, as it is loaded, over that of its single stages."""
    variant = bundle.variant()
    point = make_point(variant, (NEVER, *[0.0] * (len(variant.exits) - 2)))
    joined = open_network(chain_parts(bundle, variant), "cpu", LoadOptions(), point=point, points={"default": point})
    single = load_uncalibrated(bundle)
    single.thresholds = point.thresholds
    times = measure({"joined": lambda: joined(x), "single": lambda: single(x)}, seconds)
    return median(a / b for a, b in zip(times["joined"], times["single"], strict=True))


def profile(bundle, x):
    """Print microseconds of OpenVINO's nodes by their kind, whole graph and stages.

    OpenVINO gives each node's mean over all calls, the first ones too. So a round compiles anew and calls for a while, and what
    is shown is the least of the rounds, by node.
    """
    from offramp.runtime.engines import openvino

    def spend(make):
        call, runs = make(bundle, "openvino:CPU", x)
        start, calls = time.process_time(), 0
        while calls < 200 or time.process_time() - start < 10 * TURN_S:
            call()
            calls += 1
        mean = (time.process_time() - start) / calls * 1e6
        nodes = {
            (node.exec_type, k, i): node.real_time.total_seconds() * 1e6
            for k, run in enumerate(runs)
            for i, node in enumerate(run.func.__self__.profiling_info)
        }
        return nodes | {("sum",): mean}

    def least_by_kind(rounds):
        kinds: Counter[str] = Counter()
        for key in rounds[0]:
            kinds[key[0]] += min(spent[key] for spent in rounds)
        kinds["beside nodes"] = 2 * kinds["sum"] - kinds.total()
        return kinds

    openvino._core().set_property("CPU", {"PERF_COUNT": True})
    turns = [(spend(whole), spend(chain)) for _ in range(PROFILES)]
    openvino._core().set_property("CPU", {"PERF_COUNT": False})
    one, parts = (least_by_kind(rounds) for rounds in zip(*turns, strict=True))
    for kind in sorted(one.keys() | parts.keys(), key=lambda kind: one[kind] - parts[kind])[:8]:
        print(f"    {kind:32} whole {one[kind]:9.1f} us   stages {parts[kind]:9.1f} us")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(LADDER), metavar="NETWORK")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--json")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(SEEDS["order of turns"])
    results = []
    print(f"{'network':10} {'Mmac':>7} {'engine':13} {'whole us':>9} {'chain':>6} {'net':>6} {'python us':>9}", end=" ")
    print(f"{'plain':>7} {'earlyon':>7} {'together':>8}  joined")
    for name in options.networks:
        make, shape = LADDER[name]
        torch.manual_seed(SEEDS["weights"])
        module = make().eval()
        x = np.random.default_rng(SEEDS["samples"]).standard_normal((1, *shape)).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            bundle = export(module, np.concatenate([x, x[:, :, ::-1]]), Path(folder) / "b.offramp")
            for device in DEVICES:
                net = load_uncalibrated(bundle, device)
                calls = {
                    "whole": whole(bundle, device, x)[0],
                    "chain": chain(bundle, device, x)[0],
                    "net": functools.partial(net, x),
                }
                if device == "cpu":
                    calls["plain"] = plain(bundle, x)
                    if importlib.util.find_spec("earlyon"):
                        calls["earlyon"] = earlyon(module, x)
                times = measure(calls, options.seconds)
                ratio = {key: median(a / b for a, b in zip(times[key], times["whole"], strict=True)) for key in times}
                extra = median(a - b for a, b in zip(times["net"], times["chain"], strict=True))
                row = {
                    "network": name,
                    "mmac": bundle.variant().exits[-1].macs / 1e6,
                    "device": device,
                    "stages": len(net.exits),
                    "guarded": [stage.guarded is not None for stage in bundle.variant().stages],
                    "whole_s": median(times["whole"]),
                    "ratio": ratio,
                    "python_s_per_stage": extra / len(net.exits),
                    "together": compare_batches(net, shape, options.seconds / 2) if device == "cpu" else None,
                    "joined": compare_joined(bundle, x, options.seconds / 2) if device == "cpu" else None,
                    "turns": len(times["whole"]),
                }
                results.append(row)
                others = ratio.get("plain"), ratio.get("earlyon"), row["together"], row["joined"]
                shown = "".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in others)
                print(
                    f"{name:10} {row['mmac']:7.1f} {device:13} {row['whole_s'] * 1e6:9.1f} {ratio['chain']:6.3f} "
                    f"{ratio['net']:6.3f} {row['python_s_per_stage'] * 1e6:9.2f}{shown}",
                    flush=True,
                )
            if options.profile:
                profile(bundle, x)
    if options.json:
        Path(options.json).write_text(json.dumps({"seeds": SEEDS, "results": results}, indent=1))


if __name__ == "__main__":
    main()
