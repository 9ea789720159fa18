"""How true joules per exit are on the simulated board, and what metering costs.

python tests/benchmarks/power.py [--runs 2000] [--seconds 20] [--json result.json] [PART ...]

energy     joules per exit on the simulated board, in simulated time: 5 s windows with a sensor that updates every 6.6 ms,
           20 s with 100 ms, and an energy counter; two exits, inferences of changing power. Printed: the worst and the
           mean error, and how often the 95 % intervals hold the truth, of a run and of a single window
read       one reading of all rails of each board whose tree the tests hold, beside bare `os.pread` of the same files
sampling   CPU time of reading AGX Orin's rails, as a share of one core, beside that of a thread that only wakes up
chain      latency of a network with sampling on over the same with sampling off, interleaved; `noise` is off over off
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from offramp.calibrate.measure.energy import measure_runs
from offramp.devices import Meter, Sensor, SimulatedBoard, find_meters
from offramp.devices.clock import Clock
from offramp.devices.recording import Recording
from offramp.devices.watch import WATCH_S, Watch
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.tests.fakes.boards import BOARDS, plant
from offramp.tests.zoo.dense import write_onnx

CASES = {
    "6.6 ms, 5 s": (Sensor(period_s=0.0066), 5.0),
    "100 ms, 20 s": (Sensor(period_s=0.1), 20.0),
    "counter 1 ms, 5 s": (Sensor(period_s=0.001, counts="energy", wrap_j=262.0), 5.0),
}

SEEDS = {"order of turns": 0, "energy": "0 to the number of runs"}

STAGES = ((0.004, 9.0), (0.0017, 6.0), (0.0083, 10.0))
"""Seconds and watts: exit 0 ends behind the first two, exit 1 behind all."""

TRUTH_J = (0.004 * 9.0 + 0.0017 * 6.0, 0.004 * 9.0 + 0.0017 * 6.0 + 0.0083 * 10.0)


def simulate(case: str, seed: int) -> tuple[list[float], list[bool], bool]:
    """Measure two exits once; return relative errors, whether intervals hold the truth, and whether a single window's does."""
    sensor, window_s = CASES[case]
    board = SimulatedBoard(idle_w=4.0, sensor=sensor, seed=seed)

    def run_to(count: int) -> Callable[[], None]:
        def run() -> None:
            for seconds, watts in STAGES[:count]:
                board.work(seconds, power_w=watts)

        return run

    runs = [run_to(2), run_to(3)]
    found = measure_runs(runs, board.meter(), window_s=window_s, seed=seed)
    errors = [one.energy_j / truth - 1 for one, truth in zip(found.exits, TRUTH_J, strict=True)]
    held = [one.interval_j[0] <= truth <= one.interval_j[1] for one, truth in zip(found.exits, TRUTH_J, strict=True)]
    with board.meter().window() as window:
        before = board.spent_j
        while board.clock.now_s() - window._start_s < window_s:
            runs[1]()
        spent_j = board.spent_j - before
    low, high = window.energy.interval_j
    return errors, held, low <= spent_j <= high


def simulate_many(case: str, seeds: range) -> list[tuple[list[float], list[bool], bool]]:
    return [simulate(case, seed) for seed in seeds]


def energy(runs: int) -> list[dict[str, Any]]:
    rows = []
    print("sensor, window        runs  worst error  mean error  coverage, exit 0, exit 1  single window")
    for case in CASES:
        parts = [range(first, min(first + 20, runs)) for first in range(0, runs, 20)]
        with ProcessPoolExecutor() as pool:
            done = [one for part in pool.map(simulate_many, [case] * len(parts), parts) for one in part]
        errors = np.array([one[0] for one in done])
        held = np.array([one[1] for one in done]).mean(axis=0)
        row = {
            "case": case,
            "runs": runs,
            "worst_error": float(np.abs(errors).max()),
            "mean_error": float(errors.mean()),
            "coverage": held.tolist(),
            "window_coverage": float(np.mean([one[2] for one in done])),
        }
        rows.append(row)
        print(
            f"{case:20s} {runs:5d}  {row['worst_error']:11.3%}  {row['mean_error']:+10.4%}  {held.mean():8.1%}  {held[0]:6.1%}  "
            f"{held[1]:6.1%}  {row['window_coverage']:13.1%}",
            flush=True,
        )
    return rows


def time_calls(call: Callable[[], object], seconds: float = 0.02) -> float:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(50):
            call()
        count += 50
    return (time.perf_counter() - start) / count


def opened(meters: tuple[Meter, ...], root: Path) -> list[int]:
    """Return descriptors of the files that these meters keep open below a root."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return [int(link.name) for link in links if link.readlink().is_relative_to(root)]


def read(folder: Path) -> list[dict[str, Any]]:
    rows = []
    print("board            rails  files  all rails us  bare reads us  beyond us")
    for name in sorted(BOARDS):
        root = plant(name, folder / name)
        meters = tuple(meter for meter in find_meters(root).meters if not meter.name.startswith(("pmic", "nvml")))
        rails = sum(len(meter.rails) for meter in meters)
        if not rails:
            continue
        files = opened(meters, root)
        read_all = [probe.read for meter in meters for probe in meter.probes]

        def ours(read_all: list[Callable[[], Any]] = read_all) -> None:
            for one in read_all:
                one()

        def bare(files: list[int] = files) -> None:
            for fd in files:
                os.pread(fd, 64, 0)

        times: dict[Callable[[], None], list[float]] = {ours: [], bare: []}
        for _ in range(11):
            for call in random.sample(list(times), 2):
                times[call].append(time_calls(call))
        mine, theirs = median(times[ours]) * 1e6, median(times[bare]) * 1e6
        rows.append({"board": name, "rails": rails, "files": len(files), "all_us": mine, "bare_us": theirs})
        print(f"{name:16s} {rails:5d}  {len(files):5d}  {mine:12.1f}  {theirs:13.1f}  {mine - theirs:9.1f}")
    return rows


def cpu_share(loop: Callable[[], Callable[[], None]], seconds: float) -> float:
    """Return the CPU time, as a share of one core, of what runs in the background until the function that it gives is called."""
    end = loop()
    start, cpu = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    share = (time.process_time() - cpu) / (time.perf_counter() - start)
    end()
    return share


def sampling(folder: Path, seconds: float) -> dict[str, Any]:
    root = plant("agx-orin", folder / "sampled")
    meter = find_meters(root).meters[0]
    files, clock = opened((meter,), root), Clock()

    def loop(work: Callable[[], object]) -> Callable[[], Callable[[], None]]:
        return lambda: clock.every(0.01, work)

    def watched() -> Callable[[], None]:
        watch = Watch(meter)
        watch.acquire()
        return watch.release

    loops = {
        "a thread that only wakes up, 100 times a second": loop(lambda: None),
        "and reads the files, bare": loop(lambda: [os.pread(fd, 64, 0) for fd in files]),
        "agx-orin's rails, 100 times a second": loop(Recording(meter, meter.total).poll),
        f"agx-orin's rails as a product watches them, {1 / WATCH_S:.0f} times a second": watched,
    }
    shares: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(5):
        for name, one in loops.items():
            shares[name].append(cpu_share(one, seconds / 20))
    print("share of one core")
    for name, values in shares.items():
        print(f"{median(values):7.2%}  {name}")
    return {name: median(values) for name, values in shares.items()}


def chain(folder: Path, seconds: float) -> dict[str, Any]:
    bundle = export(write_onnx(folder / "dense.onnx"), None, folder / "dense.offramp")
    meter = find_meters(plant("agx-orin", folder / "beside")).meters[0]
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    nets = {"on": load_uncalibrated(bundle, meter=meter)}
    nets |= {name: load_uncalibrated(bundle) for name in ("off", "off again")}
    medians: dict[str, list[float]] = {name: [] for name in nets}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name in random.sample(list(nets), 3):
            watch = nets["on"]._watch
            (watch.acquire if name == "on" else watch.release)()  # the thread runs in the turns of `on` only
            net, start = nets[name], time.perf_counter()
            for sample in x:
                net(sample)
            medians[name].append((time.perf_counter() - start) / len(x))
            (watch.release if name == "on" else watch.acquire)()
    ratio = median(on / off for on, off in zip(medians["on"], medians["off"], strict=True))
    noise = median(one / off for one, off in zip(medians["off again"], medians["off"], strict=True))
    print(f"a call of {median(medians['off']) * 1e6:.1f} us: sampling on over off {ratio:.3f}, noise {noise:.3f}")
    return {"call_us": median(medians["off"]) * 1e6, "ratio": ratio, "noise": noise}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    known = ("energy", "read", "sampling", "chain")
    if unknown := set(arguments.parts) - set(known):
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(known)}.")
    random.seed(SEEDS["order of turns"])
    result: dict[str, Any] = {"seeds": SEEDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = {
            "energy": lambda: energy(arguments.runs),
            "read": lambda: read(folder),
            "sampling": lambda: sampling(folder, arguments.seconds),
            "chain": lambda: chain(folder, arguments.seconds),
        }
        for part in arguments.parts or known:
            result[part] = jobs[part]()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
