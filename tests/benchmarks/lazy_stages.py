"""What a lazy member of a cascade saves: memory before its first use, after it and after release, and the first use's delay.

    python tests/benchmarks/lazy_stages.py [--rounds 5] [--json FILE] [PAIR ...]

Each pair is a cascade of two untrained networks of the ladder, or of the two ResNets of `samples/cifar10`. Fresh processes in
turn load the small one alone, the cascade whole, and the cascade with `lazy=True, release_after_s=0.5`. They run a sample that
the small one answers, then some that the large one is asked for, wait until it is let go, and ask it again. Memory is what the
process has more than after its imports; medians of the rounds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

import ladder
from offramp.export import cascade

SEEDS = {"weights": 0}

KINDS = "small", "whole", "lazy"

CODE = """
import json, sys, time
import numpy as np, psutil, onnxruntime
from offramp.runtime import load_static, load_uncalibrated
kind, shape = sys.argv[2], [int(a) for a in sys.argv[3].split("x")]
rss = lambda: psutil.Process().memory_info().rss
found, base = {}, rss()
start = time.perf_counter()
if kind == "small":
    net = load_static(sys.argv[1], exit=0)
elif kind == "whole":
    net = load_uncalibrated(sys.argv[1])
else:
    net = load_uncalibrated(sys.argv[1], lazy=True, release_after_s=0.5)
found["load_s"] = time.perf_counter() - start
x = np.zeros(shape, np.float32)
net.thresholds = (0.0,) * (len(net.exits) - 1)
net(x)
found["before_bytes"] = rss() - base
if kind != "small":
    net.thresholds = (2.0,)
    found["first_s"] = net(x).latency_s
    found["call_s"] = sorted(net(x).latency_s for _ in range(9))[4]
    found["after_bytes"] = rss() - base
if kind == "lazy":
    while not net.stats().lazy.releases:
        time.sleep(0.05)
    time.sleep(0.2)
    found["released_bytes"] = rss() - base
    found["again_s"] = net(x).latency_s
    found["waited_s"] = net.stats().lazy.longest_s
print(json.dumps(found))
"""


class Plain(nn.Module):
    """A network to its last exit."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[-1]


def wide18():
    stem = nn.Sequential(ladder.conv(3, 128, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return ladder.residual([2, 2, 2, 2], [128, 256, 512, 1024], [1, 2, 2, 2], stem=stem)


def cifar10(name):
    sys.path.insert(0, str(Path(__file__).parents[2] / "samples" / "cifar10"))
    import resnets

    return getattr(resnets, name)()


PAIRS = {
    "cifar10": (lambda: cifar10("resnet8"), lambda: cifar10("resnet"), (3, 32, 32)),
    "resnet18": (ladder.resnet8, ladder.resnet18, (3, 224, 224)),
    "wide18": (ladder.resnet8, wide18, (3, 224, 224)),
}


def measure(path, shape, kind):
    arguments = [path, kind, "x".join(map(str, shape))]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=["cifar10", "resnet18"], choices=PAIRS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {"seeds": SEEDS, "rounds": options.rounds, "pairs": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.pairs:
            small, large, shape = PAIRS[name]
            torch.manual_seed(SEEDS["weights"])
            members = [Plain(make()).eval() for make in (small, large)]
            bundle = cascade(members, np.zeros((2, *shape), np.float32), Path(folder) / name)
            variant = bundle.variant()
            turns = [{kind: measure(bundle.path, shape, kind) for kind in KINDS} for _ in range(options.rounds)]
            rows = {
                kind: {field: median(turn[kind][field] for turn in turns) for field in turns[0][kind]} for kind in KINDS
            }
            weights = variant.files[variant.weights].bytes
            found["pairs"][name] = {"weights_bytes": weights, **rows}
            print(f"{name}: weights of {weights / 1e6:.1f} MB")
            for kind, row in rows.items():
                cells = [f"{k.removesuffix('_bytes')} {v / 1e6:.1f} MB" for k, v in row.items() if k.endswith("_bytes")]
                cells += [f"{k.removesuffix('_s')} {v * 1e3:.2f} ms" for k, v in row.items() if k.endswith("_s")]
                print(f"  {kind:6}{', '.join(cells)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
