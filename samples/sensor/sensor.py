"""Classify seven movements from a smartwatch's signals with a one-dimensional network: train, export, calibrate and compare it.

    pip install seglearn
    python samples/sensor/sensor.py

The signals come with the PyPI package seglearn; watch.py describes them. There are ten people, and pieces of one person resemble
each other. So the script asks for two different promises. The first is of other people: it groups the pieces by person, and says
that the two who report prove nothing, and how many people it would take. The second is of each of the three people who
calibrated, such as the owners of the watches: their pieces are enough for wide limits. The test comes from two other people, of
whom that says nothing; its interval is one over people too. The script writes the bundle build/sensor/network.offramp.
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
    print(f"samples of two seconds: {len(x)} train, {len(calibration.y)} calibrate, {len(test.y)} test", flush=True)

    torch.manual_seed(0)
    network, samples = watch.Movements(), TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    batches = DataLoader(samples, 32, shuffle=True, generator=torch.Generator().manual_seed(0))
    train(network, batches, epochs=options.epochs, recipe="distill", lr=0.05, progress=describe_epoch)

    output = Path("build/sensor")
    whole_way(
        network,
        calibration.labelled,
        test.labelled,
        output,
        max_drop=0.02,
        groups=(calibration.person, test.person),
        class_names=watch.CLASS_NAMES,
    )

    print("promises for each of the three people who calibrated, by the accuracy that each may lose:")
    targets = {"tight": Target(max_drop=0.02, by="group"), "wide": Target(max_drop=0.1, by="group")}
    bundle, tried = output / "network.offramp", output / "tried.json"
    found = calibrate(bundle, calibration.labelled, targets, groups=calibration.person, output=tried)
    for name, target in targets.items():
        early = found.points.get(f"{name}-early") or found.points[name]
        print(f"  {target.max_drop:.0%}: {early.promise}")


if __name__ == "__main__":
    main()
