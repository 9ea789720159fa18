"""Do predicted latencies hold? Five operating points of one network, and the chain without some of its exits.

python tests/benchmarks/predict.py [--devices cpu,openvino:CPU] [--samples 2000] [--json result.json]
    [--network file.py:function or model.onnx --data DATA --test DATA]

points    calibrates five points and runs each on samples that calibration never saw: mean latency measured, beside what the
          calibration's costs predict at the exit shares that occurred; the same where the machine's own drift between the two is
          taken out, as the whole network shows it; and what costs measured in the same run predict
fewer     leaves every exit but the last out in turn: latency of leaving at each exit that is left, predicted from what passing
          an exit costs, and measured

Without a network that is given, one with random weights stands in, labelled by its own last exit: a check that this runs.
"""

import argparse
import json
import sys
import tempfile
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

SEEDS = {"calibration": 0, "order of turns": 0, "exits left out": list(range(6))}

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--devices", default="cpu,openvino:CPU")
    parser.add_argument("--samples", type=int, default=2000)
    for name in ("network", "data", "test"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    parts = arguments.parts or ["points", "fewer"]
    if unknown := set(parts) - {"points", "fewer"}:
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are points, fewer.")
    own = tempfile.TemporaryDirectory()
    if arguments.network is None:
        network, data, (x, y) = stand_in(Path(own.name))
    else:
        network = load_network(arguments.network)
        data, (x, y) = (labelled(load_samples(source), source) for source in (arguments.data, arguments.test))
    test = x[: arguments.samples], y[: arguments.samples]
    devices = {}
    for device in arguments.devices.split(","):
        with tempfile.TemporaryDirectory() as folder:
            bundle = export(network, data[0][:3], Path(folder) / "network.offramp")
            rows, found = points(bundle, device, data, test)
            devices[device] = {"points": rows}
            if "fewer" in parts:
                x = check_data(test, bundle.manifest).x
                devices[device]["fewer"] = fewer(bundle, device, found, x)
    if arguments.json:
        what = {"network": arguments.network or "random weights", "samples": len(test[1])}
        Path(arguments.json).write_text(json.dumps({"seeds": SEEDS, **what, "devices": devices}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
