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
    parser.add_argument(
        "--images", type=int, default=digits.TEST, help="how many images to train, calibrate and test on at most"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    options = parser.parse_args()
    print(f"training three exits on {min(options.images, digits.TRAIN)} digits in clutter", flush=True)
    digits.train(epochs=options.epochs, images=options.images, seed=options.seed)
    calibration, test = digits.calibration(options.images), digits.test(options.images)
    whole_way(digits.network(), calibration, test, digits.WEIGHTS.parent)


if __name__ == "__main__":
    main()
