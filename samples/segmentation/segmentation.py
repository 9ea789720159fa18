"""A network that says of every pixel which digit it shows: its exits answer with maps, and not with a label.

    python samples/segmentation/segmentation.py

Each exit gives the class of every cell of 4 x 4 pixels (nothing, or a digit), which of the pixels are ink of a digit, and how
sure it is. Early exit leaves where it is sure enough, which it learns from how much the last exit does better; on training digits
that were kept apart it served better than `mean_softmax` and `pixel_share` of the maps. The loss that is promised is 1 - the mean
intersection over union of the classes in a canvas. The script writes a bundle, a picture of the comparison, and one of easy and
hard canvases with the masks that were given.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "quickstart"))

import canvases
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from whole_way import whole_way

from digits import conv
from offramp.bundle import read_calibration
from offramp.calibrate import Ragged
from offramp.calibrate.losses import iou
from offramp.runtime import load

CLASSES, CELL, LEAST_PIXELS = 11, 4, 16
EPOCHS, TRAIN, CALIBRATION, TEST = 12, 8000, 4000, 4000
WINDOW, BATCH = 64, 64
Exit = dict[str, torch.Tensor]


class Around(nn.Module):
    """Adds to each place of a map what lies around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(conv(channels, channels, 2), conv(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.interpolate(self.wide(x), scale_factor=2)


class Head(nn.Module):
    """Joins a map of 12 x 12 places, which knows what is there, and one of 24 x 24 cells, which knows where."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.what, self.where = nn.Conv2d(channels, 32, 1), nn.Conv2d(32, 32, 1)
        self.out = nn.Conv2d(32, CLASSES + CELL**2, 1)
        self.doubt, self.sure = nn.Conv2d(channels, 16, 1), nn.Linear(16, 1)
        self.ink = nn.Parameter(torch.tensor([-10 * canvases.INK, 10.0]))  # at first every bright pixel is ink

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor, image: torch.Tensor) -> Exit:
        y = self.out(torch.relu(F.interpolate(self.what(coarse), scale_factor=2) + self.where(fine)))
        ink = F.pixel_shuffle(y[:, CLASSES:], CELL) + self.ink[0] + self.ink[1] * image
        doubt = torch.relu(self.doubt(coarse)).amax((2, 3))  # the hardest place counts
        return {"map": y[:, :CLASSES], "ink": ink[:, 0], "sure": torch.sigmoid(self.sure(doubt)[:, 0])}


class Segmenter(nn.Module):
    """Three stages of convolutions with an exit after each."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(conv(1, 16, 2), conv(16, 32, 2))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(conv(32, 48, 2), conv(48, 64), Around(64)),
                nn.Sequential(conv(64, 64), Around(64)),
                nn.Sequential(conv(64, 96), conv(96, 96), Around(96), conv(96, 96)),
            ]
        )
        self.heads = nn.ModuleList([Head(channels) for channels in (64, 64, 96)])

    def forward(self, x: torch.Tensor) -> list[Exit]:
        coarse = fine = self.fine(x)
        exits = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            coarse = stage(coarse)
            exits.append(head(coarse, fine, x))
        return exits


def read_masks(answer: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what each pixel shows, (N, 96, 96): 0 for nothing, else 1 + the digit; fewer than 16 pixels of a digit are noise."""
    digit = 1 + answer["map"][:, 1:].argmax(1)
    masks = np.where(answer["ink"] > 0, digit.repeat(CELL, 1).repeat(CELL, 2), 0)
    pixels = np.stack([(masks == each).sum((1, 2)) for each in range(CLASSES)], 1)
    noise = np.take_along_axis(pixels, masks.reshape(len(masks), -1), 1).reshape(masks.shape) < LEAST_PIXELS
    return np.where(noise, 0, masks)


def miss(answer: Mapping[str, np.ndarray], masks: np.ndarray) -> np.ndarray:
    """Return 1 - the mean intersection over union of the classes in each canvas."""
    return iou(read_masks(answer), masks)


def draw_training(count: int, rng: np.random.Generator) -> canvases.Canvases:
    """Draw canvases of the training digits, and keep the half that holds the most digits, from which most is learned."""
    drawn = canvases.draw("training", 2 * count, int(rng.integers(1 << 31)))
    held = np.diff(drawn.boxes.offset)
    most = np.argsort(-held, kind="stable")[:count]
    boxes = Ragged(np.concatenate(drawn.boxes.rows(most)), np.cumsum([0, *held[most]]))
    return canvases.Canvases(drawn.images[most], boxes, drawn.masks[most])


def cut_windows(drawn: canvases.Canvases, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a window of 64 x 64 around a digit out of each canvas: images (N, 1, 64, 64) and masks (N, 64, 64)."""
    count, first = len(drawn.images), drawn.boxes.offset[:-1]
    box = drawn.boxes.values[first + (rng.random(count) * np.diff(drawn.boxes.offset)).astype(int)]
    middle = (box[:, :2] + box[:, 2:4]) / 2 + rng.uniform(-14, 14, (count, 2))
    corner = (middle - WINDOW / 2).clip(0, canvases.SIDE - WINDOW).astype(int) // CELL * CELL
    columns, rows = (corner[:, i, None] + np.arange(WINDOW) for i in (0, 1))
    place = np.arange(count)[:, None, None], rows[:, :, None], columns[:, None]
    return torch.from_numpy(drawn.images[:, 0][place][:, None]), torch.from_numpy(drawn.masks[place].astype(np.int64))


def measure_misses(exits: list[Exit], masks: torch.Tensor) -> torch.Tensor:
    """Return each exit's losses, float32 (exits, N)."""
    answers = [{name: part.detach().numpy() for name, part in exit_.items()} for exit_ in exits]
    return torch.from_numpy(np.array([miss(answer, masks.numpy()) for answer in answers], np.float32))


def criterion(exits: list[Exit], masks: torch.Tensor) -> torch.Tensor:
    """Return the loss in training: of the cells' classes, of the ink, and of how sure each exit is."""
    share = F.avg_pool2d(F.one_hot(masks, CLASSES).movedim(3, 1).float(), CELL)
    share[:, 0] = 0.5 / CELL**2  # a cell shows nothing only if no pixel of it shows a digit
    cells, weight = share.argmax(1), torch.tensor([0.1] + [1.0] * (CLASSES - 1))
    misses = measure_misses(exits, masks)
    total = torch.zeros(())
    for exit_, worse in zip(exits, misses - misses[-1], strict=True):
        total = total + F.cross_entropy(exit_["map"], cells, weight)
        total = total + 3 * F.binary_cross_entropy_with_logits(exit_["ink"], (masks > 0).float())
        total = total + 0.3 * F.binary_cross_entropy(exit_["sure"], (1 - 4 * worse).clamp(0, 1))
    return total


def train(epochs: int, count: int, seed: int) -> Segmenter:
    """Train all exits together."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network, drawn = Segmenter(), draw_training(count, rng)
    nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)  # a quarter faster
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.005, total_steps=epochs * (count // BATCH))
    for epoch in range(epochs):
        start, (x, masks) = time.perf_counter(), cut_windows(drawn, rng)
        for rows in torch.randperm(count)[: count // BATCH * BATCH].reshape(-1, BATCH):
            loss = criterion(network(x[rows]), masks[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        took = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}, {took:.0f} s", flush=True)
    return network.eval()


def draw_answers(bundle: Path, test: canvases.Canvases, path: Path) -> None:
    """Draw canvases that early exit answers first and last, with their masks as they were given and as they are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    points = read_calibration(bundle / "calibrations" / "default.json").points
    early = next(name for name, point in points.items() if point.exits_early)
    with load(bundle, point=early) as net:
        results = [net(image) for image in test.images[:300]]
    taken = np.array([result.exit for result in results])
    shown = [*np.flatnonzero(taken == taken.min())[:4], *np.flatnonzero(taken == taken.max())[:4]]
    figure, axes = plt.subplots(3, len(shown), figsize=(2 * len(shown), 6.4), layout="constrained", squeeze=False)
    for column, i in zip(axes.T, shown, strict=True):
        given = read_masks({name: part[None] for name, part in (results[i].answer or {}).items()})
        loss = float(iou(given, test.masks[i : i + 1])[0])
        column[0].imshow(test.images[i, 0], cmap="gray", vmin=0, vmax=1)
        column[0].set_title(f"left at exit {taken[i]}\nloss {loss:.2f}", fontsize=9)
        for axis, mask in zip(column[1:], (given[0], test.masks[i]), strict=True):
            axis.imshow(np.where(mask > 0, mask - 1.0, np.nan), cmap="tab10", vmin=-0.5, vmax=9.5, interpolation="none")
    for axis, name in zip(axes[:, 0], ("canvas", "mask given", "true mask"), strict=True):
        axis.set_ylabel(name)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training canvases")
    parser.add_argument("--images", type=int, help="how many canvases to train, calibrate and test on, each")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of all canvases")
    options = parser.parse_args()
    output = Path("build/segmentation")
    print("training three exits on canvases of digits", flush=True)
    network = train(options.epochs, options.images or TRAIN, options.seed)
    calibration = canvases.draw("calibration", options.images or CALIBRATION, 2 * options.seed)
    test = canvases.draw("test", options.images or TEST, 2 * options.seed + 1)
    with torch.no_grad():
        misses = [measure_misses(network(x), torch.from_numpy(masks)) for x, masks in batches(test)]
    print(f"mean loss, exit by exit: {', '.join(f'{loss:.1%}' for loss in torch.cat(misses, 1).mean(1))}")
    whole_way(
        network,
        (calibration.images, calibration.masks),
        (test.images, test.masks),
        output,
        max_drop=0.02,
        loss=miss,
        answer=["map", "ink"],
        rule="gate",
        gates=[f"exit{k}.sure" for k in range(3)],
    )
    draw_answers(output / "network.offramp", test, output / "masks.png")
    print(f"picture: {output / 'masks.png'}")


def batches(drawn: canvases.Canvases) -> list[tuple[torch.Tensor, np.ndarray]]:
    rows = [slice(first, first + 100) for first in range(0, len(drawn.images), 100)]
    return [(torch.from_numpy(drawn.images[part]), drawn.masks[part]) for part in rows]


if __name__ == "__main__":
    main()
