"""Train a transformer encoder with four exits on sequences of any length and take it the whole way.

    python samples/transformer/transformer.py

encoder.py turns the digits of the quickstart into sequences, one step for each column of pixels that has ink. `axes=` says which
axis of the input has no fixed size, and the bundle then takes sequences of any length. Calibrating measures one length, so the
sequences are padded to the longest for that; at the end each runs about as long as it is. These lengths are rounded up, since
a loaded network keeps memory for eight lengths. What is promised holds for the padded ones: calibrate as the product will run.
build/transformer/network.offramp is the bundle to go on with.
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
    parser.add_argument("--images", type=int, default=digits.TRAIN, help="how many images to train on")
    options = parser.parse_args()
    x, y = (part[: options.images] for part in digits.training())
    print(f"training four exits on {len(x)} sequences", flush=True)
    network = encoder.train_encoder(encoder.sequences(x), y, epochs=options.epochs)

    parts = [(encoder.sequences(images), labels) for images, labels in (digits.calibration(), digits.test())]
    (calibration, test), output = [(encoder.padded(part), labels) for part, labels in parts], Path("build/transformer")
    whole_way(network, calibration, test, output, axes=("batch", "time", None))

    own, labels = parts[1]
    lengths = [-(-len(sample) // 4) * 4 for sample in own]
    pairs = [
        (long, encoder.padded([sample], length)[0]) for long, sample, length in zip(test[0], own, lengths, strict=True)
    ]
    print("running every test sequence at the longest length and at its own, rounded up to a multiple of four")
    with load(output / "network.offramp") as net:
        for length in {*lengths, encoder.LONGEST}:
            net(np.zeros((length, 28), np.float32))  # a length that is new costs a run more
        results = [[net(sample) for sample in pair] for pair in pairs]
    print(f"  {'':20} accuracy      p50  us")
    for column, name in enumerate((f"{encoder.LONGEST} steps", f"{min(lengths)} to {max(lengths)} steps")):
        found = [pair[column] for pair in results]
        right = np.mean([result.label == label for result, label in zip(found, labels, strict=True)])
        latency_us = np.median([result.latency_s for result in found]) * 1e6
        print(f"  {name:20} {right:8.2%} {latency_us:8.1f}")


if __name__ == "__main__":
    main()
