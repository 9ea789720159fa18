"""Classify seven movements from a smartwatch's signals with a one-dimensional network: train, export, calibrate and compare it.

    pip install seglearn
    python samples/sensor/sensor.py

The signals come with the PyPI package seglearn; watch.py describes them. There are few samples, from ten people, and this shows
twice. Only some hundreds of samples are left to test a promise, so a tight limit cannot be promised; the script prints how many
samples it would take. And the test comes from other people than the calibration: a promise holds for movements like those of the
three people who calibrated, so it need not hold for the two others. The script writes the bundle build/sensor/network.offramp.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import torch
from torch.utils.data import DataLoader, TensorDataset
from whole_way import describe_epoch, whole_way

import watch
from offramp.calibrate import Target, calibrate
from offramp.export import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="how long to train")
    options = parser.parse_args()
    calibration, test = watch.calibration(), watch.test()
    x, y = watch.training()
    print(f"samples of two seconds: {len(x)} train, {len(calibration[1])} calibrate, {len(test[1])} test", flush=True)

    torch.manual_seed(0)
    network, samples = watch.Movements(), TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    batches = DataLoader(samples, 32, shuffle=True, generator=torch.Generator().manual_seed(0))
    train(network, batches, epochs=options.epochs, recipe="distill", lr=0.05, progress=describe_epoch)

    output = Path("build/sensor")
    whole_way(network, calibration, test, output, max_drop=0.02, class_names=watch.CLASS_NAMES)

    print("promises that these few samples allow for early exit, by the accuracy that may be lost:")
    for drop in (0.002, 0.05):
        tried = calibrate(output / "network.offramp", calibration, Target(max_drop=drop), output=output / "tried.json")
        print(f"  {drop:.1%}: {tried.early.promise}")


if __name__ == "__main__":
    main()
