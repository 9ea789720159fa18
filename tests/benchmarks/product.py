"""What a product sees of the runtime beside its speed: cold start, two threads, a million calls. ONNX Runtime, one thread.

    python tests/benchmarks/product.py [--rounds 15] [--calls 1000000] [--only cold] [--beside FOLDER] [--json FILE] [NETWORK]

Cold start: fresh processes in turn, which import offramp, load a bundle without and with a calibration, and run a sample, and one
that runs the whole network alone in ONNX Runtime; CPU time and resident memory at the first result, less those of the
bare one. Processes see an installed offramp: no finder of an editable
one, all compiled to bytecode, and no typing_extensions, which msgspec imports where it is. `--beside` takes turns with another
version: FOLDER holds it as `offramp`, such as a worktree. Threads: calls per second of two clones in two threads over those of
one chain, in turn; time in which a thread waits for a core that others use does not count. Memory: what a million calls of a
small network add to what ten thousand left.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch

import offramp
from ladder import LADDER
from offramp.bundle import read_calibration
from offramp.calibrate import calibrate
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.dense import write_onnx

SEEDS = {"weights": 0, "samples": 0}

END = "import psutil; print(time.process_time(), psutil.Process().memory_info().rss, len(sys.modules))"
OURS = """
import sys, time
sys.modules["typing_extensions"] = None
import numpy as np
from offramp.runtime import load, load_uncalibrated
net = load(sys.argv[1], point=sys.argv[4]) if sys.argv[4] else load_uncalibrated(sys.argv[1])
net(np.zeros([int(a) for a in sys.argv[3].split("x")], np.float32))
"""
BARE = """
import sys, time
sys.modules["typing_extensions"] = None
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions(); options.intra_op_num_threads = 1; options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: np.zeros([int(a) for a in sys.argv[3].split("x")], np.float32)})
"""
FIELDS = "cpu_s", "bytes", "modules"


def start(code, folder, compiled, *arguments):
    packages = sysconfig.get_path("purelib")
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{packages}", "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code + END, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return dict(zip(FIELDS, map(float, done.stdout.split()), strict=True))


def cold_start(bundle, shape, folders, compiled, rounds):
    """Return by version and by kind of start what it takes more than a bare session, and what that takes."""
    variant = bundle.variant()
    arguments = bundle.path, bundle.path / variant.folder / variant.whole, "x".join(map(str, (1, *shape)))
    calibration = read_calibration(bundle.calibrations()[0])
    early = next(name for name, point in calibration.points.items() if point.static is None)
    kinds: dict[tuple[str, str], tuple[object, ...]] = {
        (name, kind): (OURS, folder, compiled, *arguments, point)
        for name, folder in folders.items()
        for kind, point in (("without a calibration", ""), ("with a calibration", early))
    }
    kinds["bare", ""] = (BARE, next(iter(folders.values())), compiled, *arguments)
    for call in kinds.values():
        start(*call)  # compiles bytecode
    turns = [{kind: start(*call) for kind, call in kinds.items()} for _ in range(rounds)]
    found = [{"version": "bare", **{field: median(turn["bare", ""][field] for turn in turns) for field in FIELDS}}]
    for name, kind in list(kinds)[:-1]:
        pairs = [(turn[name, kind], turn["bare", ""]) for turn in turns]
        row = {f"extra_{field}": median(ours[field] - bare[field] for ours, bare in pairs) for field in FIELDS}
        found.append({"version": name, "kind": kind, **row})
    return found


def throughput(nets, x, seconds):
    rates = [0.0] * len(nets)
    end = time.perf_counter() + seconds

    def queued_s():
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9

    def work(k):
        start, calls = time.perf_counter() - queued_s(), 0
        while time.perf_counter() < end:
            nets[k](x)
            calls += 1
        rates[k] = calls / (time.perf_counter() - queued_s() - start)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="resnet20", choices=LADDER)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["cold"])
    parser.add_argument("--beside", type=Path, metavar="FOLDER")
    parser.add_argument("--json")
    options = parser.parse_args()
    make, shape = LADDER[options.network]
    torch.manual_seed(SEEDS["weights"])
    x = np.random.default_rng(SEEDS["samples"]).standard_normal((2, *shape)).astype(np.float32)
    found = {"seeds": SEEDS, "network": options.network, "rounds": options.rounds, "calls": options.calls}
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(make().eval(), x, Path(folder) / "b.offramp")
        samples = np.random.default_rng(SEEDS["samples"]).standard_normal((100, *shape)).astype(np.float32)
        calibrate(bundle, (samples, None))
        folders = {"this": Path(offramp.__file__).parents[1]} | ({"beside": options.beside} if options.beside else {})
        rows = cold_start(bundle, shape, folders, Path(folder) / "compiled", options.rounds)
        bare, plain, calibrated = rows[:3]
        found["cold_start"] = {
            **{f"bare_{field}": bare[field] for field in FIELDS[:2]},
            **{f"extra_{field}": plain[f"extra_{field}"] for field in FIELDS[:2]},
            "calibrated_cpu_s": calibrated["extra_cpu_s"],
            "versions": rows,
        }
        print(
            f"cold start of {options.network}, bare session: {bare['cpu_s'] * 1e3:.1f} ms of CPU, "
            f"{bare['bytes'] / 1e6:.1f} MB, {bare['modules']:.0f} modules"
        )
        for row in rows[1:]:
            print(
                f"{row['version']:7}{row['kind']:22} {row['extra_cpu_s'] * 1e3:6.1f} ms, {row['extra_bytes'] / 1e6:5.1f} MB, "
                f"{row['extra_modules']:4.0f} modules more",
                flush=True,
            )
        if options.only == "cold":
            return
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
