"""Do predicted latencies hold? Five operating points of one network, and the chain without some of its exits.

python tests/benchmarks/predict.py [--devices cpu,openvino:CPU] [--samples 2000] [--json result.json]
    [--runs 200] [PART ...] [--network file.py:function or model.onnx --data DATA --test DATA]

points    calibrates five points and runs each on samples that calibration never saw: mean latency measured, beside what the
          calibration's costs predict at the exit shares that occurred; the same where the machine's own drift between the two is
          taken out, as the whole network shows it; and what costs measured in the same run predict
fewer     leaves every exit but the last out in turn: latency of leaving at each exit that is left, predicted from what passing
          an exit costs, and measured
load      only if it is named: calibrates and measures anew, --runs times, while a busy process runs and stands by turns; how
          often the mean latency that the calibration predicts at the exit shares that occurred, times how much slower the whole
          network is than it was then (`Benchmark.slowdown`), is within 3 % of the measured one, and how often there is a warning
          in the other runs: a note on the machine's speed or on a latency that is noise, or a noise, of the calibration or of
          the measurement, of which 1.96 standard errors are 3 %

Without a network that is given, one with random weights stands in, labelled by its own last exit: a check that this runs.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

from offramp.calibrate import Target, bench, calibrate
from offramp.calibrate.labels import check_data
from offramp.calibrate.measure.latency import forced_latencies
from offramp.calibrate.sample_files import labelled
from offramp.cli.inputs import load_network, load_samples
from offramp.export import export, keep
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.dense import write_onnx

SEEDS = {"calibration": 0, "order of turns": 0, "exits left out": list(range(6)), "load": "the number of the run"}

MOST_ERROR = 0.03

ON_OFF_S = 0.05, 3.0
"""The shortest and the longest time for which the busy process runs, or stands."""

WARNINGS = "The machine's speed changed", "is noise"

DROPS = (0.0025, 0.005, 0.01, 0.02, 0.05)


def stand_in(folder):
    path = write_onnx(folder / "dense.onnx", features=512)
    x = np.random.default_rng(0).standard_normal((2000, 512)).astype(np.float32)
    y = load_uncalibrated(export(path, None, folder / "b.offramp")).every_exit(x).label[:, -1]
    return path, (x[:1000], y[:1000]), (x[1000:], y[1000:])


def points(bundle, device, data, test):
    targets = {f"drop{drop}": Target(max_drop=drop) for drop in DROPS}
    with tempfile.TemporaryDirectory() as folder:
        found = calibrate(bundle, data, targets, device=device, variant="fp32", output=Path(folder) / "c.json")
    rows = []
    print(
        f"{'device':14} {'drop':>7}  {'shares that occurred':34} {'measured us':>11} {'predicted':>9} {'error':>6}  less drift  "
        "same run"
    )
    for name, target in targets.items():
        name = f"{name}-early" if f"{name}-early" in found.points else name
        point = found.points[name]
        result = bench(bundle, test, device=device, calibration=found, point=name)
        predicted_s = float(np.dot(result.exit_shares, point.exit_latency_s))
        error = predicted_s / result.early.mean_s - 1
        assert result.slowdown is not None
        steady = predicted_s * result.slowdown / result.early.mean_s - 1
        shares = " ".join(f"{share:7.1%}" for share in result.exit_shares)
        print(
            f"{device:14} {target.max_drop:7.2%}  {shares:34} {result.early.mean_s * 1e6:11.1f} {predicted_s * 1e6:9.1f} "
            f"{error:+6.1%}  {steady:+10.1%}  {result.prediction_error:+8.1%}",
            flush=True,
        )
        row = {"drop": target.max_drop, "shares": result.exit_shares, "measured_s": result.early.mean_s}
        rows.append(
            row
            | {
                "predicted_s": predicted_s,
                "error": error,
                "error_less_drift": steady,
                "error_same_run": result.prediction_error,
            }
        )
    errors = np.abs([row["error"] for row in rows])
    print(f"{device}: error of the mean latency, mean {errors.mean():.1%}, worst {errors.max():.1%}")
    return rows, found


def fewer(bundle, device, found, x):
    (chain,), rows = found.chains, []
    exits = len(chain.exits)
    print(f"{'device':14} {'left out':>8}  exit  {'all exits us':>12} {'predicted':>9} {'measured':>8} {'error':>6}")
    for out in range(exits - 1):
        kept = [k for k in range(exits) if k != out]
        bundle = keep(bundle, kept, variant="fp32", name=f"without{out}")
        with (
            load_uncalibrated(bundle, device, variant=f"without{out}") as less,
            load_uncalibrated(bundle, device, variant="fp32") as net,
        ):
            before, after = (np.zeros((0, n)) for n in (exits, exits - 1))
            for seed in SEEDS["exits left out"]:  # side by side, a second each
                before = np.vstack([before, forced_latencies(net, x, seconds=1.0, seed=seed)])
                after = np.vstack([after, forced_latencies(less, x, seconds=1.0, seed=seed)])
        for i, k in enumerate(kept):
            full_s, measured_s = float(np.median(before[:, k])), float(np.median(after[:, i]))
            predicted_s = full_s - (max(0.0, chain.passing_s[out]) if k > out else 0.0)
            error = predicted_s / measured_s - 1
            print(
                f"{device:14} {out:8}  {k:4}  {full_s * 1e6:12.1f} {predicted_s * 1e6:9.1f} {measured_s * 1e6:8.1f} "
                f"{error:+6.1%}",
                flush=True,
            )
            rows.append(
                {"left_out": out, "exit": k, "full_s": full_s, "predicted_s": predicted_s, "measured_s": measured_s}
            )
    return rows


@contextlib.contextmanager
def load_that_comes_and_goes(seed):
    rng, end = np.random.default_rng(seed), threading.Event()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def switch():
        is_on = False
        while not end.wait(float(np.exp(rng.uniform(*np.log(ON_OFF_S))))):
            is_on = not is_on
            busy.send_signal(signal.SIGCONT if is_on else signal.SIGSTOP)

    thread = threading.Thread(target=switch)
    try:
        thread.start()
        yield
    finally:
        end.set()
        thread.join()
        busy.kill()
        busy.wait()


def load(bundle, device, data, test, runs):
    rows = []
    for run in range(runs):
        with tempfile.TemporaryDirectory() as folder, load_that_comes_and_goes(run):
            target = Target(max_drop=0.02)
            options = {"device": device, "variant": "fp32", "output": Path(folder) / "c.json"}
            found = calibrate(bundle, data, target, seed=run, **options)
            name = next((name for name, point in found.points.items() if point.exits_early), None)
            if name is None:
                continue
            result = bench(bundle, test, device=device, calibration=found, point=name, seed=run)
        assert result.slowdown is not None
        predicted_s = float(np.dot(result.exit_shares, found.points[name].exit_latency_s)) * result.slowdown
        noise = max(found.chains[0].noise, result.noise)
        row = {
            "error": predicted_s / result.early.mean_s - 1,
            "slowdown": result.slowdown,
            "noise": noise,
            "noted": any(warning in note for note in found.notes for warning in WARNINGS),
        }
        row["warned"] = row["noted"] or 1.96 * noise > MOST_ERROR
        rows.append(row)
        print(
            f"{device:14} run {run:3}  error {row['error']:+7.1%}  slowdown {result.slowdown:5.2f}  noise {noise:6.1%}  "
            f"{'noted' if row['noted'] else 'warned' if row['warned'] else ''}",
            flush=True,
        )
    off = [row for row in rows if abs(row["error"]) > MOST_ERROR]
    warned = sum(row["warned"] for row in rows)
    print(
        f"{device}: {len(rows) - len(off)} of {len(rows)} within {MOST_ERROR:.0%}; warned of in {warned} runs, among them "
        f"{sum(row['warned'] for row in off)} of the {len(off)} others"
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--devices", default="cpu,openvino:CPU")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=200)
    for name in ("network", "data", "test"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    parts = arguments.parts or ["points", "fewer"]
    if unknown := set(parts) - {"points", "fewer", "load"}:
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are points, fewer, load.")
    own = tempfile.TemporaryDirectory()
    if arguments.network is None:
        network, data, (x, y) = stand_in(Path(own.name))
    else:
        network = load_network(arguments.network)
        data, (x, y) = (labelled(load_samples(source), source) for source in (arguments.data, arguments.test))
    test = x[: arguments.samples], y[: arguments.samples]
    devices: dict[str, dict[str, object]] = {}
    for device in arguments.devices.split(","):
        with tempfile.TemporaryDirectory() as folder:
            bundle = export(network, data[0][:3], Path(folder) / "network.offramp")
            devices[device] = {}
            if "load" in parts:
                devices[device]["load"] = load(bundle, device, data, test, arguments.runs)
            if not {"points", "fewer"} & set(parts):
                continue
            devices[device]["points"], found = points(bundle, device, data, test)
            if "fewer" in parts:
                x = check_data(test, bundle.manifest).x
                devices[device]["fewer"] = fewer(bundle, device, found, x)
    if arguments.json:
        what = {"network": arguments.network or "random weights", "samples": len(test[1])}
        Path(arguments.json).write_text(json.dumps({"seeds": SEEDS, **what, "devices": devices}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
