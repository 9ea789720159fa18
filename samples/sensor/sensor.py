"""Tell seven movements of a smartwatch apart: a one-dimensional network on real signals, trained and taken the whole way.

    pip install seglearn
    python samples/sensor/sensor.py

The signals come inside the PyPI package seglearn; watch.py says what they are. There are few, from ten people, which shows in two
places: the samples that are left to test a promise are some hundreds, so a tight limit cannot be promised, and the sample says
how many it would take; and the two people who judge are not the three who calibrate, so a promise about movements like those of
the three need not hold for them. build/sensor/network.offramp is the bundle to go on with.
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
    print(f"samples of two seconds: {len(x)} train, {len(calibration[1])} calibrate, {len(test[1])} judge", flush=True)

    torch.manual_seed(0)
    network, samples = watch.Movements(), TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    batches = DataLoader(samples, 32, shuffle=True, generator=torch.Generator().manual_seed(0))
    train(network, batches, epochs=options.epochs, recipe="distill", lr=0.05, progress=describe_epoch)

    output = Path("build/sensor")
    whole_way(network, calibration, test, output, max_drop=0.02, class_names=watch.CLASS_NAMES)

    print("what so few samples can promise of early exit, by the accuracy that may be lost:")
    for drop in (0.002, 0.05):
        found = calibrate(output / "network.offramp", calibration, Target(max_drop=drop), output=output / "tried.json")
        print(f"  {drop:.1%}: {found.early.promise}")


if __name__ == "__main__":
    main()
