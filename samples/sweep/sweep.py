"""Sweep over recipes, weights of the exits, learning rates and int8 for the network of the quickstart, on two worker processes.

    python samples/sweep/sweep.py

Twelve trials train for a while, the better half goes on, and so on; each of the last becomes a variant of one bundle, also in
int8. Kill the script or a worker, and start it again: it goes on where it was. The result does not depend on the workers. The
script writes build/sweep/sweep.yaml, and ends with the command that calibrates what is left; see docs/how-to/sweep.md.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "quickstart"))

import numpy as np

import digits
from offramp.sweep import sweep
from offramp.sweep.page import show_row

FOLDER = Path("build/sweep")

SWEEP = """\
network: {network}
data: train.npz
judge: judge.npz
out: out
space:
  recipe: [joint, distill, gated]
  weights: [null, [2, 1, 1], [1, 1, 2]]
  lr: [0.02, 0.1]
  quantize: [int8]
trials: {trials}
epochs: {epochs}
rungs: {rungs}
eta: 2
target: {{max_drop: 0.01}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12, help="how many of the 18 trials are drawn")
    parser.add_argument("--epochs", type=int, default=8, help="how long the best trials train")
    parser.add_argument("--rungs", type=int, default=3, help="how often trials are compared")
    parser.add_argument("--images", type=int, default=1000, help="how many images train, judge and are held back each")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 runs everything in this one")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    x, y = digits.scanned("training")
    np.savez(FOLDER / "train.npz", x=x[: options.images], y=y[: options.images])
    x, y = digits.scanned("calibration")
    np.savez(FOLDER / "judge.npz", x=x[: options.images], y=y[: options.images])
    np.savez(FOLDER / "held_back.npz", x=x[options.images :], y=y[options.images :])
    network = f"{Path(digits.__file__).resolve()}:Digits"
    text = SWEEP.format(network=network, trials=options.trials, epochs=options.epochs, rungs=options.rungs)
    (FOLDER / "sweep.yaml").write_text(text)

    def show(rung: str, done: int, total: int) -> None:
        print(f"{rung}: {done} of {total} trials", flush=True)

    found = sweep(FOLDER / "sweep.yaml", workers=options.workers, progress=show, notice=print)
    for row in found.rows:
        if row.rung == found.rows[-1].rung:
            print("  ".join(show_row(row, found.rows)))
    print(f"report: {found.report}")
    print(f"now: offramp calibrate {found.bundle} {FOLDER / 'held_back.npz'} --max-drop 0.01")


if __name__ == "__main__":
    main()
