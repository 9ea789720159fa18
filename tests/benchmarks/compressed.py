"""Early exit beside compression: every static form of a network that keeps the accuracy, and early exit of each.

python tests/benchmarks/compressed.py --network file.py:function --train DATA --held DATA --test DATA
    [--pruned NAME=file.py:function ...] [--device cpu] [--max-drop 0.01] [--measure SECONDS] [--json result.json]

--train finds the ranges of int8. On --held, which training never saw, everything is chosen and certified: variants, exits,
thresholds. On --test everything that is listed is run once, interleaved, one thread. Networks of --pruned are pruned forms of the
first, trained before.

A static network counts as comparable where its drop against the whole network in fp32 is certified on all of --held, at a
chance of 10 % to be wrong each, uncorrected for how many there are; early exit chooses on a fifth of --held and certifies on
the rest. `MB` are the graphs and the weights that they read; `peak MB` is what a fresh process holds at most that loads and
runs it, Python included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np
import onnx

from offramp.bundle import Bundle, OperatingPoint, write_calibration
from offramp.calibrate import Target, calibrate
from offramp.calibrate.certify.exact_tests import certify_drop
from offramp.calibrate.labels import check_labelled
from offramp.calibrate.measure.latency import latencies, measure, run_alone
from offramp.calibrate.sample_files import labelled
from offramp.cli.inputs import load_network, load_samples
from offramp.devices import fingerprint
from offramp.errors import TargetError
from offramp.export import Origin, export, keep, quantize
from offramp.runtime import load, load_static, load_uncalibrated
from offramp.runtime.selection import packages_of

DELTA = 0.1
SEEDS = {"images for int8": 0, "calibration": 0, "order of turns": 0}

PEAK = """
import sys
import numpy as np
from offramp.runtime import load, load_static
x = np.load(sys.argv[2])
if sys.argv[3] == "static":
    net = load_static(sys.argv[1], sys.argv[4], variant=sys.argv[5], exit=int(sys.argv[6]))
else:
    net = load(sys.argv[1], calibration=sys.argv[4])
for sample in x:
    net(sample)
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run, on the test samples; `certified` says whether its drop was certified on those held back."""

    name: str
    certified: bool
    held_accuracy: float
    accuracy: float
    mean_s: float
    p50_s: float
    p99_s: float
    bytes: int
    peak_bytes: int
    shares: tuple[float, ...]


def make_bundle(options: argparse.Namespace, train, folder: Path) -> tuple[Bundle, list[str]]:
    """Export all networks, quantise each, and add the sets of exits; return the names without those sets too."""
    bundle = export(load_network(options.network), train[:4], folder / "network.offramp")
    for given in options.pruned:
        name, _, source = given.partition("=")
        bundle = export(load_network(source), None, bundle.path, beside=name, origin=Origin("fp32", "prune", {}))
    for variant in bundle.manifest.variants:
        bundle = quantize(bundle, train, variant=variant.name)
    names = [variant.name for variant in bundle.manifest.variants]
    for name in names:
        exits = len(bundle.variant(name).exits)
        for size in range(2, exits):
            for kept in combinations(range(exits), size):
                bundle = keep(bundle, kept, variant=name)
    return bundle, names


def belongs(bundle: Bundle, name: str) -> list[str]:
    """Return the names of a variant and of those with some of its exits."""
    kept = [v.name for v in bundle.manifest.variants if v.origin and (v.origin.how, v.origin.parent) == ("keep", name)]
    return [name, *kept]


def size_of(bundle: Bundle, variant: str, files: list[str]) -> int:
    """Return the bytes of graphs and of the weights that they read."""
    one, total, weights = bundle.variant(variant), 0, {}
    for file in files:
        path = bundle.path / one.folder / file
        total += path.stat().st_size
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if place:
                weights[place["offset"]] = int(place["length"])
    return total + sum(weights.values())


def peak_of(bundle: Bundle, samples: Path, *how: str) -> int:
    command = [sys.executable, "-c", PEAK, str(bundle.path), str(samples), *how]
    return 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--held", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--pruned", action="append", default=[], metavar="NAME=file.py:function")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--measure", type=float, default=6.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    target = Target(max_drop=options.max_drop)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        train, _ = load_samples(options.train)
        bundle, names = make_bundle(options, np.asarray(train), folder)
        held = labelled(load_samples(options.held, bundle.manifest), options.held)
        test = labelled(load_samples(options.test, bundle.manifest), options.test)
        x, y = check_labelled(test, bundle.manifest)
        np.save(folder / "x.npy", x.arrays[0][:50])
        nets, rows, reasons = {}, {}, {}

        def add_static(label: str, variant: str, exit_: int, certified: bool, accuracy: float) -> None:
            nets[label] = stack.enter_context(load_static(bundle, options.device, variant=variant, exit=exit_))
            file = bundle.variant(variant).exits[exit_].static
            size = size_of(bundle, variant, [file])
            peak = peak_of(bundle, folder / "x.npy", "static", options.device, variant, str(exit_))
            rows[label] = (certified, accuracy, size, peak)

        def add_chain(label: str, found, name: str, point: OperatingPoint) -> None:
            path = folder / f"{label}.json"
            write_calibration(path, msgspec.structs.replace(found, points={name: point}))
            nets[label] = stack.enter_context(load(bundle, calibration=path))
            stages = [stage.file for stage in bundle.variant(point.variant).stages]
            size = size_of(bundle, point.variant, stages)
            peak = peak_of(bundle, folder / "x.npy", "chain", str(path))
            rows[label] = (point.is_promised, point.accuracy or 0.0, size, peak)

        whole = None
        for variant in names:
            with load_uncalibrated(bundle, options.device, variant=variant) as net:
                said = net.every_exit(held[0]).label
            right = said == np.asarray(held[1])[:, None]
            whole = right[:, -1] if whole is None else whole
            last = right.shape[1] - 1
            for k in reversed(range(last + 1)):
                lost, won = int((whole & ~right[:, k]).sum()), int((~whole & right[:, k]).sum())
                is_whole = variant == names[0] and k == last
                kept = is_whole or certify_drop(lost, won, len(whole), eps=options.max_drop, delta=DELTA)
                label = f"{variant}, whole" if k == last else f"{variant}, to exit {k}"
                add_static(label, variant, k, kept, float(right[:, k].mean()))
        for one in [*names, None]:
            chosen = [v.name for v in bundle.manifest.variants] if one is None else belongs(bundle, one)
            try:
                found = calibrate(
                    bundle,
                    held,
                    target,
                    device=options.device,
                    variant=chosen,
                    output=folder / "c.json",
                    measure_s=options.measure,
                )
            except TargetError as error:
                reasons[one or "all variants"] = str(error)
                print(f"{one or 'all variants'}, early exit: {error}", file=sys.stderr)
                continue
            early = {n: p for n, p in found.points.items() if p.static is None}
            for name_, point in list(early.items())[:1]:
                label = "early exit, all variants" if one is None else f"{one}, early exit"
                add_chain(label, found, name_, point)
                print(f"{label}: {point.engines}, thresholds {point.thresholds}; {point.promise}", file=sys.stderr)
            if one is None:
                print(f"recommended: {found.verdict}", file=sys.stderr)
                for gate in found.gates:
                    print(gate.reason, file=sys.stderr)
        turns = {label: run_alone(net) for label, net in nets.items()}
        results = measure(turns, x, rng=np.random.default_rng(SEEDS["order of turns"]), progress=lambda *_: None)
        table = []
        for label, (certified, accuracy, size, peak) in rows.items():
            seconds = latencies(results[label][0])
            p50, p99 = (float(v) for v in np.percentile(seconds, [50, 99]))
            exits = np.array([result.exit for result in results[label][0]])
            table.append(
                Row(
                    name=label,
                    certified=certified,
                    held_accuracy=accuracy,
                    accuracy=float((np.array([result.label for result in results[label][0]]) == y).mean()),
                    mean_s=float(seconds.mean()),
                    p50_s=p50,
                    p99_s=p99,
                    bytes=size,
                    peak_bytes=peak,
                    shares=tuple((np.bincount(exits, minlength=len(nets[label].exits)) / len(exits)).tolist()),
                )
            )
        show(table, names[0])
        if options.json:
            where = fingerprint(packages=packages_of([options.device]), threads=1)
            result = {
                "seeds": SEEDS,
                "max_drop": options.max_drop,
                "delta": DELTA,
                "samples": {"train": len(train), "held": len(held[1]), "test": len(y)},
                "no_early_exit": reasons,
                "rows": msgspec.to_builtins(table),
                "fingerprint": where,
            }
            options.json.write_text(json.dumps(result, indent=1))


def show(table: list[Row], first: str) -> None:
    print(
        f"{'':34}{'certified':>10}{'held back':>10}{'test':>9}{'mean us':>9}{'p50':>8}{'p99':>8}{'MB':>7}{'peak MB':>9}  exits"
    )
    for row in table:
        shares = " ".join(f"{share:.1%}" for share in row.shares) if len(row.shares) > 1 else ""
        times = f"{row.mean_s * 1e6:9.0f}{row.p50_s * 1e6:8.0f}{row.p99_s * 1e6:8.0f}"
        sizes = f"{row.bytes / 1e6:7.2f}{row.peak_bytes / 1e6:9.1f}"
        right = f"{row.held_accuracy:10.2%}{row.accuracy:9.2%}"
        print(f"{row.name:34}{'yes' if row.certified else 'no':>10}{right}{times}{sizes}  {shares}")
    by_name = {row.name: row for row in table}
    ours = by_name.get("early exit, all variants")
    statics = [row for row in table if row.certified and len(row.shares) == 1]
    if ours is None or not statics:
        return
    rival, whole = min(statics, key=lambda row: row.mean_s), by_name[f"{first}, whole"]
    print(
        f"fastest certified static network: {rival.name}; early exit is {rival.mean_s / ours.mean_s:.2f} times as fast"
    )
    print(f"against the whole network in {first}: {whole.mean_s / ours.mean_s:.2f} times as fast")


if __name__ == "__main__":
    main()
