"""How often a call with a deadline answers late, on cores that others use, and whether its marks are right.

    python tests/benchmarks/deadlines.py [--calls 100000] [--load 2] [--json FILE] [NETWORK]

So many other processes compute without pause while one network of the ladder runs in a single thread. No exit is ever taken by
its threshold: only deadlines end a call. First 1000 calls to each exit say what its stages take there. The deadlines are twice
the worst stage by its p99 and by its median, the time that half of the whole network's calls take, and once the worst stage;
calls take turns between them. A clock around each call judges it: an answer is late if it came later than its deadline, whatever
its mark says.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ladder import LADDER
from offramp.export import export
from offramp.runtime import load_uncalibrated

SEEDS = {"weights": 0, "samples": 0}
MEASURED = 1000


def burn(parent):
    while os.getppid() == parent:  # it ends with the benchmark, however that ends
        sum(range(100_000))


def time_stages(net, x):
    """Return for each stage the times of its runs, from the answers that come one after another."""
    times = np.array([[result.latency_s for result in net.anytime(x)] for _ in range(MEASURED)])
    return np.diff(times, axis=1, prepend=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="resnet20", choices=LADDER)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--load", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    make, shape = LADDER[options.network]
    torch.manual_seed(SEEDS["weights"])
    torch.set_num_threads(1)
    x = np.random.default_rng(SEEDS["samples"]).standard_normal((2, *shape)).astype(np.float32)
    others = [
        multiprocessing.get_context("spawn").Process(target=burn, args=(os.getpid(),), daemon=True)
        for _ in range(options.load)
    ]
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(make().eval(), x, Path(folder) / "b.offramp")
        sample = x[0]
        net = load_uncalibrated(bundle)
        for other in others:
            other.start()
        stages = time_stages(net, sample)
        p99, p999, p50 = (np.percentile(stages, q, axis=0) for q in (99, 99.9, 50))
        whole = float(np.median(stages.sum(1)))
        deadlines = {
            "twice the worst p99": 2 * p99.max(),
            "twice the worst median": 2 * p50.max(),
            "half of the calls": whole,
            "the worst p99": p99.max(),
        }
        nets = {name: net.clone() for name in deadlines}
        rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in deadlines}
        for _ in range(options.calls // len(deadlines)):
            for name, deadline_s in deadlines.items():
                start = time.perf_counter()
                result = nets[name](sample, deadline_s=deadline_s)
                spent = time.perf_counter() - start
                rows[name].append((spent, result.exit, result.cut, result.late, result.latency_s))
        busy = os.getloadavg()[0]
    for other in others:
        other.kill()
    last = stages.shape[1] - 1
    found = {"seeds": SEEDS, "network": options.network, "calls": options.calls, "load": busy, "rows": {}}
    print(
        f"{options.network}: {last + 1} stages of {', '.join(f'{s * 1e3:.2f}' for s in p50)} ms in the median, load {busy:.1f}"
    )
    print(
        f"their p99: {', '.join(f'{s * 1e3:.2f}' for s in p99)} ms, p99.9: {', '.join(f'{s * 1e3:.2f}' for s in p999)} ms"
    )
    for name, deadline_s in deadlines.items():
        spent, exits, cut, late, latency = np.array(rows[name]).T
        exits = exits.astype(int)
        over = spent[spent > deadline_s] - deadline_s
        row = {
            "deadline_s": deadline_s,
            "late": float((spent > deadline_s).mean()),
            "marked_late": float(late.mean()),
            "first_stage_late": float(((spent > deadline_s) & (exits == 0)).mean()),
            "beyond_p999": float((over > p999.max()).sum() / len(spent)),
            "wrong_late": int((late != (latency > deadline_s)).sum()),
            "wrong_cut": int((cut != (exits < last)).sum()),
            "exits": np.bincount(exits, minlength=last + 1).tolist(),
        }
        found["rows"][name] = row
        shares = ", ".join(f"{count / len(exits):.1%}" for count in row["exits"])
        print(
            f"{name} ({deadline_s * 1e3:.2f} ms): late {row['late']:.2%} (marked {row['marked_late']:.2%}, after the first stage "
            f"{row['first_stage_late']:.2%}, by more than a stage's p99.9 {row['beyond_p999']:.2%}), exits {shares}; wrong marks "
            f"{row['wrong_late']} late, {row['wrong_cut']} cut",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
