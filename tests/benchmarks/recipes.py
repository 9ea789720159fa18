"""Recipes of training beside each other: accuracy per exit, and the area under the curve of accuracy over mean latency.

python tests/benchmarks/recipes.py --data DATA NAME=file.py:function [...] [--device cpu] [--seconds 3] [--json result.json]

All networks have the same layers and exits, so the first one's latencies, measured here, hold for all. For each of 20 mean
latencies from the first exit's to the last exit's, thresholds that keep it are chosen for accuracy on the first half of the
samples; `area` is the mean of their accuracies on the other half, and so are the accuracies per exit.
"""

import argparse
import json
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from offramp.calibrate.labels import check_labelled
from offramp.calibrate.measure.latency import forced_latencies
from offramp.calibrate.measure.tables import exits_taken
from offramp.calibrate.sample_files import labelled
from offramp.calibrate.search.thresholds import Limit, Problem, solve
from offramp.cli.inputs import load_network, load_samples
from offramp.devices import fingerprint
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.runtime.selection import packages_of

BUDGETS = 20
SEEDS = {"order of turns": 0}


class Row(msgspec.Struct, frozen=True):
    """One recipe; `curve` has the accuracy for each mean latency of `budgets_s`."""

    name: str
    accuracy: tuple[float, ...]
    area: float
    curve: tuple[float, ...]


def follow(score: np.ndarray, right: np.ndarray, cost_s: np.ndarray, budgets_s: np.ndarray) -> np.ndarray:
    """Return the accuracy for each mean latency: float64 (budgets,) from scores and bool `right` (N, exits)."""
    half, found = len(score) // 2, []
    for most in budgets_s:
        limits = (Limit(cost_s, float(most)),)
        thresholds = solve(Problem(score[:half], (~right[:half]).astype(np.int8), cost_s, limits))
        if thresholds is None:
            raise SystemExit(f"no thresholds keep {most} s")
        taken = exits_taken(score[half:], thresholds)
        found.append(right[half:][np.arange(len(taken)), taken].mean())
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NAME=file.py:function")
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cost_s, rows = None, []
    with tempfile.TemporaryDirectory() as folder:
        for given in options.networks:
            name, _, source = given.partition("=")
            samples = load_samples(options.data)[0]
            bundle = export(load_network(source), np.asarray(samples)[:4], Path(folder) / f"{name}.offramp")
            x, y = check_labelled(labelled(load_samples(options.data, bundle.manifest), options.data), bundle.manifest)
            with load_uncalibrated(bundle, options.device) as net:
                if cost_s is None:
                    cost_s = np.array(forced_latencies(net, x[:200], seconds=options.seconds))
                found = net.every_exit(x)
            right = found.label == np.asarray(y)[:, None]
            curve = follow(found.score, right, cost_s, np.linspace(cost_s[0], cost_s[-1], BUDGETS))
            per_exit = tuple(right[len(right) // 2 :].mean(0).tolist())
            rows.append(Row(name, per_exit, float(curve.mean()), tuple(curve.tolist())))
    assert cost_s is not None
    heads = "".join(f"{name:>9}" for name in [*(f"exit {k}" for k in range(len(cost_s))), "area"])
    print(f"{'':20}{heads}")
    for row in rows:
        print(f"{row.name:20}{''.join(f'{value:9.2%}' for value in row.accuracy)}{row.area:9.2%}")
    print(f"{'latency, us':20}{''.join(f'{value * 1e6:9.0f}' for value in cost_s)}")
    if options.json:
        where = fingerprint(packages=packages_of([options.device]), threads=1)
        result = {"seeds": SEEDS, "samples": len(y), "rows": msgspec.to_builtins(rows), "latency_s": cost_s.tolist()}
        result["fingerprint"] = where
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
