"""A network that finds by how much a handwritten digit is turned: its exits answer with an angle, and not with a label.

    python samples/regression/regression.py

Each exit gives an angle, and how sure it is of it, which it learns from its own errors in training. Early exit leaves where it is
sure enough. The loss that is promised is the error over 45 degrees, at most 1. The script writes a bundle and a picture
of the comparison.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "quickstart"))

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from whole_way import whole_way

import digits
from offramp.export import Epoch, train

MOST_TURNED = 45.0
PARTS = {"training": (slice(3000), 6000), "calibration": (slice(3000, None), 4000), "test": (slice(3000, None), 8000)}


def draw(part: str, samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draw digits (N, 1, 28, 28), each turned by an angle (N,) in degrees, and some covered with noise.

    Training draws from other digits than calibration and test, which draw from the same ones, each with its own seed.
    """
    rows, count = PARTS[part]
    rng = np.random.default_rng(list(PARTS).index(part))
    pictures = torch.from_numpy(digits.digits()[0][rows])
    n = samples or count
    angle = rng.uniform(-MOST_TURNED, MOST_TURNED, n).astype(np.float32)
    turn = torch.from_numpy(np.radians(angle))
    zero = torch.zeros(n)
    matrix = torch.stack([turn.cos(), -turn.sin(), zero, turn.sin(), turn.cos(), zero], 1).reshape(n, 2, 3)
    drawn = pictures[torch.from_numpy(rng.integers(len(pictures), size=n))]
    turned = F.grid_sample(drawn, F.affine_grid(matrix, list(drawn.shape), align_corners=False), align_corners=False)
    noise = rng.standard_normal((n, 1, 28, 28)) * 0.6 * rng.uniform(0, 1, (n, 1, 1, 1)) ** 3
    return (turned.numpy() + noise).astype(np.float32), angle


class Turned(nn.Module):
    """Three stages of convolutions with an exit after each, which gives an angle and how sure it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(digits.conv(1, 16, 2), digits.conv(16, 32, 2)),
                nn.Sequential(digits.conv(32, 48), digits.conv(48, 48)),
                nn.Sequential(digits.conv(48, 96), digits.conv(96, 96), digits.conv(96, 96)),
            ]
        )
        self.heads = nn.ModuleList([nn.Sequential(nn.Flatten(), nn.Linear(49 * c, 2)) for c in (32, 48, 96)])

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        exits = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            turn, sure = head(x).unbind(1)
            exits.append({"angle": MOST_TURNED * turn, "sure": torch.sigmoid(sure)})
        return exits


def miss(exit_: dict[str, torch.Tensor], angle: torch.Tensor) -> torch.Tensor:
    """Return the error of each angle over 45 degrees; and `sure` learns exp(-8 error), which is near 1 where that is small."""
    error = (exit_["angle"] - angle).abs() / MOST_TURNED
    return error + (exit_["sure"] - torch.exp(-8 * error.detach())) ** 2


def describe(epoch: Epoch) -> None:
    print(
        f"epoch {epoch.epoch}: loss {' '.join(f'{loss:.3f}' for loss in epoch.loss)}, {epoch.seconds:.0f} s", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training samples")
    parser.add_argument("--images", type=int, help="how many images to train, calibrate and test on, each")
    options = parser.parse_args()
    torch.manual_seed(0)
    x, angle = draw("training", options.images)
    print(f"training three exits on {len(x)} turned digits", flush=True)
    network = Turned()
    batches = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(angle)), 64, shuffle=True)
    train(network, batches, epochs=options.epochs, lr=0.05, loss=miss, progress=describe)
    test_x, test_angle = draw("test", options.images)
    with torch.no_grad():
        errors = [(e["angle"].numpy() - test_angle) for e in network(torch.from_numpy(test_x))]
    print(f"mean error in degrees, exit by exit: {', '.join(f'{np.abs(error).mean():.2f}' for error in errors)}")
    whole_way(
        network,
        draw("calibration", options.images),
        (test_x, test_angle),
        Path("build/regression"),
        max_drop=0.02,
        loss=f"absolute:{MOST_TURNED:g}",
        answer=["angle"],
        rule="gate",
        gates=[f"exit{k}.sure" for k in range(3)],
    )


if __name__ == "__main__":
    main()
