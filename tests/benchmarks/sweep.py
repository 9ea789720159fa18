"""What a second worker saves, and that it changes nothing: a sweep of twelve short trials on one worker process and on two.

    python tests/benchmarks/sweep.py [--rounds 3] [--trials 12] [--epochs 12] [--images 1500] [--json FILE]

The trials train the network of the quickstart on digits without clutter, one learning rate each. In turn one worker and two do
the whole sweep, each in a folder of its own: `all_s` with the start of the workers, which a short sweep pays and a long one does
not see, `trials_s` without. Run it on a machine that does nothing else: two workers need two cores. `overlap` is the sum of the
trials' own seconds over the sweep's, which says how many ran at once also on a busy machine.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from msgspec.structs import replace

from offramp.bundle import open_bundle
from offramp.fleet.scheduler import connect
from offramp.sweep import Sweep, sweep

DIGITS = Path(__file__).parents[2] / "samples/quickstart/digits.py"

SWEEP = """\
network: {network}
data: ../train.npz
judge: ../judge.npz
out: out
space: {{lr: [0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.055, 0.06, 0.065]}}
trials: {trials}
epochs: {epochs}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(DIGITS.parent))
    import digits

    taken: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    results: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (("train", "training"), ("judge", "calibration")):
            x, y = digits.scanned(part)
            np.savez(Path(folder) / f"{name}.npz", x=x[: options.images], y=y[: options.images])
        text = SWEEP.format(network=f"{DIGITS}:Digits", trials=options.trials, epochs=options.epochs)
        for number in range(options.rounds):
            for workers in (1, 2):
                place = Path(folder) / f"{number}-{workers}"
                place.mkdir()
                (place / "sweep.yaml").write_text(text)
                figures, result = measure(place / "sweep.yaml", workers)
                taken[workers].append(figures)
                results.append(result)
                print(f"{workers} workers: {figures}", flush=True)
    medians = {
        workers: {name: median(each[name] for each in rounds) for name in rounds[0]}
        for workers, rounds in taken.items()
    }
    ratios = {name: medians[2][name] / medians[1][name] for name in ("all_s", "trials_s")}
    document = {"rounds": taken, "ratio": ratios, "equal": all(result == results[0] for result in results)}
    print(f"two workers over one: {ratios}; results are equal: {document['equal']}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


def measure(path: Path, workers: int) -> tuple[dict[str, float], Any]:
    """Run a sweep on new worker processes; return its seconds, and what it found."""
    start = time.monotonic()
    with connect(workers=workers) as client:
        client.wait_for_workers(workers)
        started = time.monotonic()
        found = sweep(path, scheduler=client.scheduler.address)
        ended = time.monotonic()
    worked = sum(row.measured.seconds for row in found.rows if row.measured is not None)
    trials_s = ended - started
    return {"all_s": time.monotonic() - start, "trials_s": trials_s, "overlap": worked / trials_s}, describe(found)


def describe(found: Sweep) -> Any:
    """Return what must not depend on the workers: the table, and what every variant computes."""
    variants = open_bundle(found.bundle).manifest.variants
    return [replace(row, measured=None) for row in found.rows], [variant.digest for variant in variants]


if __name__ == "__main__":
    main()
