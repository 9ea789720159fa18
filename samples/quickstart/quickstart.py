"""Train a multi-exit network on handwritten digits, then export, calibrate, run and compare it.

python samples/quickstart/quickstart.py
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from whole_way import whole_way

import digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=digits.EPOCHS, help="how long to train")
    parser.add_argument("--images", type=int, default=digits.TRAIN, help="how many images to train on")
    options = parser.parse_args()
    print(f"training three exits on {options.images} digits", flush=True)
    digits.train(epochs=options.epochs, images=options.images)
    whole_way(digits.network(), digits.calibration(), digits.test(), digits.WEIGHTS.parent)


if __name__ == "__main__":
    main()
