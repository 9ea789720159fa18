"""Train a transformer encoder with four exits on sequences of any length; export, calibrate and compare it.

    python samples/transformer/transformer.py

encoder.py turns the digits of the quickstart, without its clutter, into sequences with one step per column of pixels that has
ink. `axes=` names the axis of the input whose size is not fixed; the bundle then takes sequences of any length. Calibration
measures one length, so its sequences are padded to the longest. The promise holds for padded sequences only: calibrate with the
lengths that the product will run. At the end the script runs each test sequence at its own length, rounded up to a multiple of
four, since a loaded network keeps memory for eight lengths. It writes the bundle build/transformer/network.offramp.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "quickstart"))

import numpy as np
from whole_way import whole_way

import digits
import encoder
from offramp.runtime import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="how long to train")
    parser.add_argument(
        "--images", type=int, default=2000, help="how many images to train, calibrate and test on at most"
    )
    options = parser.parse_args()
    x, y = digits.scanned("training", options.images)
    print(f"training four exits on {len(x)} sequences", flush=True)
    network = encoder.train_encoder(encoder.sequences(x), y, epochs=options.epochs)

    parts = [
        (encoder.sequences(images), labels)
        for images, labels in (digits.scanned(part, options.images) for part in ("calibration", "test"))
    ]
    (calibration, test), output = [(encoder.padded(part), labels) for part, labels in parts], Path("build/transformer")
    whole_way(network, calibration, test, output, axes=("batch", "time", None))

    sequences, labels = parts[1]
    lengths = [-(-len(sample) // 4) * 4 for sample in sequences]
    pairs = [
        (long, encoder.padded([sample], length)[0])
        for long, sample, length in zip(test[0], sequences, lengths, strict=True)
    ]
    print("running every test sequence at the longest length and at its own, rounded up to a multiple of four")
    with load(output / "network.offramp") as net:
        for length in {*lengths, encoder.LONGEST}:
            net(np.zeros((length, 28), np.float32))  # the first run at a length is slower
        results = [[net(sample) for sample in pair] for pair in pairs]
    print(f"  {'':20} accuracy      p50  us")
    for column, name in enumerate((f"{encoder.LONGEST} steps", f"{min(lengths)} to {max(lengths)} steps")):
        answers = [pair[column] for pair in results]
        right = np.mean([answer.label == label for answer, label in zip(answers, labels, strict=True)])
        latency_us = np.median([answer.latency_s for answer in answers]) * 1e6
        print(f"  {name:20} {right:8.2%} {latency_us:8.1f}")


if __name__ == "__main__":
    main()
