"""What a product sees of the runtime beside its speed: cold start, two threads, a million calls. ONNX Runtime, one thread.

    python tests/benchmarks/product.py [--rounds 15] [--calls 1000000] [--json result.json] [NETWORK]

Cold start: fresh processes in turn, one importing offramp, loading and running a sample, one doing the same with a bare session
of the whole network; CPU time and resident memory at the first result, less those of the bare one. Hashing of the files is timed
in the process and taken off. Threads: calls per second of two clones in two threads over those of one chain, in turn. Memory:
what a million calls of a small network add to what ten thousand left.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch

from ladder import LADDER
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.dense import write_onnx

SEEDS = {"weights": 0, "samples": 0}

END = "import psutil; print(time.process_time(), psutil.Process().memory_info().rss, hashing)"
OURS = """
import sys, time
hashing = 0.0
import numpy as np
import offramp.bundle.reading as b
original = b.hash_file
def timed(path):
    global hashing
    start = time.process_time(); found = original(path); hashing += time.process_time() - start
    return found
b.hash_file = timed
from offramp.runtime import load_uncalibrated
from offramp.bundle import open_bundle
net = load_uncalibrated(open_bundle(sys.argv[1]))
net(np.zeros([int(a) for a in sys.argv[3].split("x")], np.float32))
"""
BARE = """
import sys, time
hashing = 0.0
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions(); options.intra_op_num_threads = 1; options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: np.zeros([int(a) for a in sys.argv[3].split("x")], np.float32)})
"""


def start(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code + END, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return [float(value) for value in done.stdout.split()]


def cold_start(bundle, shape, rounds):
    variant = bundle.variant()
    arguments = bundle.path, bundle.path / variant.folder / variant.whole, "x".join(map(str, (1, *shape)))
    start(OURS, *arguments)  # compiles bytecode
    ours, bare = zip(*[(start(OURS, *arguments), start(BARE, *arguments)) for _ in range(rounds)], strict=True)
    return {
        "bare_cpu_s": median(b[0] for b in bare),
        "extra_cpu_s": median(a[0] - a[2] - b[0] for a, b in zip(ours, bare, strict=True)),
        "hashing_cpu_s": median(a[2] for a in ours),
        "bare_bytes": median(b[1] for b in bare),
        "extra_bytes": median(a[1] - b[1] for a, b in zip(ours, bare, strict=True)),
    }


def throughput(nets, x, seconds):
    counts = [0] * len(nets)
    end = time.perf_counter() + seconds

    def work(k):
        while time.perf_counter() < end:
            nets[k](x)
            counts[k] += 1

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="resnet20", choices=LADDER)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--json")
    options = parser.parse_args()
    make, shape = LADDER[options.network]
    torch.manual_seed(SEEDS["weights"])
    x = np.random.default_rng(SEEDS["samples"]).standard_normal((2, *shape)).astype(np.float32)
    found = {"seeds": SEEDS, "network": options.network, "rounds": options.rounds, "calls": options.calls}
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(make().eval(), x, Path(folder) / "b.offramp")
        found["cold_start"] = cold = cold_start(bundle, shape, options.rounds)
        extra, bare = (
            f"{cold[f'{k}_cpu_s'] * 1e3:.1f} ms of CPU, {cold[f'{k}_bytes'] / 1e6:.1f} MB" for k in ("extra", "bare")
        )
        hashing = f"{cold['hashing_cpu_s'] * 1e3:.1f} ms"
        print(
            f"cold start of {options.network}: {extra} above a bare session's {bare}; hashing besides {hashing}",
            flush=True,
        )
        for device in ("cpu", "openvino:CPU"):
            net = load_uncalibrated(bundle, device)
            clone = net.clone()
            pairs = [(throughput([net, clone], x[0], 1), throughput([net], x[0], 1)) for _ in range(options.rounds)]
            found[f"two_clones {device}"] = ratio = median(a / b for a, b in pairs)
            print(f"two clones in two threads on {device}: {ratio:.2f} times the throughput of one", flush=True)
        small = export(write_onnx(Path(folder) / "small.onnx"), None, Path(folder) / "small.offramp")
        sample = np.zeros(16, np.float32)
        for device in ("cpu", "openvino:CPU"):
            net, rss = load_uncalibrated(small, device), []
            for calls in (10_000, options.calls):
                for _ in range(calls):
                    net(sample)
                gc.collect()
                rss.append(psutil.Process().memory_info().rss)
            found[f"growth_bytes {device}"] = rss[1] - rss[0]
            print(f"{options.calls} calls on {device} added {(rss[1] - rss[0]) / 1e6:.3f} MB", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
