"""Add exits to a plain network, train only their heads, and export, calibrate and compare the result.

    python samples/attach/attach.py

The network in plain.py is a ResNet for the digits of the quickstart, without its clutter; put your own trained network in its
place. `attach` finds places where the whole signal passes through one tensor, and puts a head on each. Only the heads train,
which takes seconds. The network's weights do not change, so its own logits stay the same to the last bit. The script writes a
bundle; look at it with `offramp inspect build/attach/network.offramp`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "quickstart"))

import torch
from torch.utils.data import DataLoader, TensorDataset
from whole_way import describe_epoch, whole_way

import digits
from offramp.export import attach, train
from plain import train_plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="how long the plain network trains")
    parser.add_argument("--head-epochs", type=int, default=6, help="how long the heads train")
    parser.add_argument(
        "--images", type=int, default=2000, help="how many images to train, calibrate and test on at most"
    )
    options = parser.parse_args()
    (x, y), calibration, test = (digits.scanned(part, options.images) for part in ("training", "calibration", "test"))

    print(f"training a plain network on {len(x)} digits", flush=True)
    plain = train_plain(x, y, epochs=options.epochs)
    test_x, test_y = test
    with torch.no_grad():
        before = plain(torch.from_numpy(test_x))

    network = attach(plain, x[:1])
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    print(f"exits after {', '.join(network.places)}: {trained:,} of {total:,} parameters are in their heads and train")
    samples = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    batches = DataLoader(samples, 50, shuffle=True, generator=torch.Generator().manual_seed(0))
    train(network, batches, epochs=options.head_epochs, recipe="heads", lr=0.05, progress=describe_epoch)

    with torch.no_grad():
        logits = network(torch.from_numpy(test_x))
    right = [f"{(z.argmax(1).numpy() == test_y).mean():.2%}" for z in logits]
    print(f"accuracy on the test samples, exit by exit: {', '.join(right)}")
    same = "the same as before" if torch.equal(logits[-1], before) else "CHANGED"
    print(f"the plain network's own logits: {same}")
    whole_way(network, calibration, test, Path("build/attach"))


if __name__ == "__main__":
    main()
