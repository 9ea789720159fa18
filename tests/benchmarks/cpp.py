"""The chain in C++ beside the chain in Python: what a call takes more than bare calls of its stages, one thread.

    python tests/benchmarks/cpp.py [--seconds 8] [--json result.json] [NETWORK ...]

On OpenVINO, and on ONNX Runtime where the variable ONNXRUNTIME_ROOT names a release with its headers. All take turns, in CPU time
of their processes; figures are medians over turns. The C++ program is `tests/cpp/bench.cpp`, which CMake builds into `build/cpp`.

    bare us    the sample copied into memory that was bound once, and each stage run, in C++
    C++        what a call of the network in C++ takes more, nanoseconds per stage
    Python     what a call of the network in Python takes more than its own bare calls, the same
    call       a call in C++ over one in Python
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

import chain
from ladder import LADDER
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.tests.helpers.cpp import BUILD, build


def time_calls(call, count):
    call()
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def compare(bundle, device, x, seconds):
    """Return a list of turns: CPU times of a bare call and of a network's call in C++, then in Python."""
    program = subprocess.Popen(
        [BUILD / "bench", bundle.path, device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def time_cpp(count):
        program.stdin.write(f"{count}\n")
        program.stdin.flush()
        return [float(each) for each in program.stdout.readline().split()]

    bare, call = chain.chain(bundle, device, x)[0], functools.partial(load_uncalibrated(bundle, device), x)
    count = max(1, round(chain.TURN_S / time_calls(call, 3)))
    turns: list[tuple[float, ...]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(turns) < 5:
        turns.append((*time_cpp(count), time_calls(bare, count), time_calls(call, count)))
    program.stdin.close()
    program.wait()
    return turns


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(LADDER), metavar="NETWORK")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--json")
    options = parser.parse_args()
    if reason := build():
        sys.exit(reason)
    torch.set_num_threads(1)
    results = []
    print(f"{'network':10} {'engine':13} {'bare us':>9} {'C++ ns':>8} {'Python ns':>10} {'call':>6}")
    for name in options.networks:
        make, shape = LADDER[name]
        torch.manual_seed(chain.SEEDS["weights"])
        x = np.random.default_rng(chain.SEEDS["samples"]).standard_normal((1, *shape)).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            bundle = export(make().eval(), np.concatenate([x, x[:, :, ::-1]]), Path(folder) / "b.offramp")
            stages = len(bundle.variant().stages)
            for device in ("openvino:CPU", *(["cpu"] if os.environ.get("ONNXRUNTIME_ROOT") else [])):
                turns = compare(bundle, device, x, options.seconds)
                row = {
                    "network": name,
                    "device": device,
                    "stages": stages,
                    "bare_s": median(turn[0] for turn in turns),
                    "cpp_s_per_stage": median(turn[1] - turn[0] for turn in turns) / stages,
                    "python_s_per_stage": median(turn[3] - turn[2] for turn in turns) / stages,
                    "call_ratio": median(turn[1] / turn[3] for turn in turns),
                    "turns": len(turns),
                }
                results.append(row)
                print(
                    f"{name:10} {device:13} {row['bare_s'] * 1e6:9.1f} {row['cpp_s_per_stage'] * 1e9:8.0f} "
                    f"{row['python_s_per_stage'] * 1e9:10.0f} {row['call_ratio']:6.3f}",
                    flush=True,
                )
    if options.json:
        Path(options.json).write_text(json.dumps({"seeds": chain.SEEDS, "results": results}, indent=1))


if __name__ == "__main__":
    main()
