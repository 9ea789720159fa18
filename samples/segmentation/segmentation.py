"""A network that says of every pixel which digit it shows: its exits answer with maps, and not with a label.

    python samples/segmentation/segmentation.py

Each exit gives the class of every cell of 4 x 4 pixels (nothing, or a digit), which of the pixels are ink of a digit, and how
sure it is: the probability of the likeliest digit, in the mean over the ink. Early exit leaves where that is high enough; on
training digits that were kept apart it served better than `mean_softmax` of the maps. The loss that is promised is 1 - the mean
intersection over union of the classes in a canvas. The script writes a bundle, a picture of the comparison, and one of easy and
hard canvases with the masks that were given.
"""

import argparse
import os
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
from offramp.calibrate import Benchmark, Ragged
from offramp.calibrate.losses import iou
from offramp.runtime import load

CLASSES, CELL, LEAST_PIXELS = 11, 4, 16
EPOCHS, TRAIN, CALIBRATION, TEST = 5, 8000, 4000, 4000
WINDOW, BATCH = 64, 32
EXIT_WEIGHTS = (1.5, 1.0, 1.0)
AIM = 1.5
Exit = dict[str, torch.Tensor]


class Around(nn.Module):
    """Adds to each place of a map what lies around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(conv(channels, 96, 2), conv(96, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.interpolate(self.wide(x), scale_factor=2)


class Head(nn.Module):
    """Joins a map of 12 x 12 places, which knows what is there, and one of 24 x 24 cells, which knows where.

    A later exit looks at the cells around each, which tells ink from noise.
    """

    def __init__(self, channels: int, *, later: bool) -> None:
        super().__init__()
        self.what, self.where = nn.Conv2d(channels, 32, 1), nn.Conv2d(32, 32, 1)
        self.join = conv(32, 48) if later else nn.Identity()
        self.out = nn.Conv2d(48 if later else 32, CLASSES + CELL**2 + 1, 1)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor, image: torch.Tensor) -> Exit:
        y = self.join(torch.relu(F.interpolate(self.what(coarse), scale_factor=2) + self.where(fine)))
        classes, ink, trust = self.out(y).split([CLASSES, CELL**2, 1], 1)
        bright = F.interpolate(20 * F.softplus(trust), scale_factor=CELL) * (image - canvases.INK)
        ink = F.pixel_shuffle(ink, CELL) + bright  # without noise every bright pixel is ink
        share = F.avg_pool2d(torch.sigmoid(ink), CELL)[:, 0]
        likeliest = torch.softmax(classes[:, 1:], 1).amax(1)
        sure = (likeliest * share).sum((1, 2)) / (share.sum((1, 2)) + 1e-6)
        return {"map": classes, "ink": ink[:, 0], "sure": sure}


class Segmenter(nn.Module):
    """Three stages of convolutions with an exit after each; 16, 40 and 68 million multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(conv(1, 16, 2), conv(16, 32, 2))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(conv(32, 64, 2), conv(64, 64), Around(64)),
                nn.Sequential(conv(64, 96), Around(96)),
                nn.Sequential(conv(96, 96), Around(96)),
            ]
        )
        self.heads = nn.ModuleList([Head(64, later=False), Head(96, later=True), Head(96, later=True)])

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


def criterion(exits: list[Exit], masks: torch.Tensor) -> torch.Tensor:
    """Return the loss in training: of the cells' classes and of the ink."""
    share = F.avg_pool2d(F.one_hot(masks, CLASSES).movedim(3, 1).float(), CELL)
    share[:, 0] = 0.5 / CELL**2  # a cell shows nothing only if no pixel of it shows a digit
    cells, weight, ink = share.argmax(1), torch.tensor([0.1] + [1.0] * (CLASSES - 1)), (masks > 0).float()
    total = torch.zeros(())
    for exit_, counts in zip(exits, EXIT_WEIGHTS, strict=True):
        total = total + counts * F.cross_entropy(exit_["map"], cells, weight)
        total = total + counts * 3 * F.binary_cross_entropy_with_logits(exit_["ink"], ink)
    return total


def train(epochs: int, count: int, seed: int) -> Segmenter:
    """Train all exits together."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # a seed gives the same network on any number of cores, and other work disturbs it little
    rng = np.random.default_rng(seed)
    network, drawn = Segmenter(), draw_training(count, rng)
    nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)  # a quarter faster
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.004, total_steps=epochs * (count // BATCH))
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


def describe_misses(network: Segmenter, test: canvases.Canvases, hard: np.ndarray) -> None:
    """Print each exit's mean loss: over all canvases, and over the easiest, the middle and the hardest third."""
    parts = []
    for first in range(0, len(hard), 100):
        some = slice(first, first + 100)
        with torch.no_grad():
            exits = network(torch.from_numpy(test.images[some]))
        answers = [{name: part.numpy() for name, part in exit_.items()} for exit_ in exits]
        parts.append([miss(answer, test.masks[some]) for answer in answers])
    misses, order = np.concatenate(parts, 1), np.argsort(hard)
    thirds = zip(("easiest", "middle", "hardest"), np.array_split(order, 3), strict=True)
    for name, rows in [("all canvases", order), *((f"the {name} third", third) for name, third in thirds)]:
        means = ", ".join(f"{loss:.1%}" for loss in misses[:, rows].mean(1))
        print(f"mean loss, exit by exit, {name}: {means}", flush=True)


def describe_aim(benchmark: Benchmark) -> None:
    """Say whether early exit is as fast as this sample wants it to be, and what bounds it."""
    static = benchmark.single_name or "whole static network"
    reached = "reached" if benchmark.best_speedup >= AIM else "missed"
    print(f"early exit is {benchmark.best_speedup:.2f} times as fast as the {static}: the aim of {AIM} is {reached}")
    if reached == "missed":
        shares = ", ".join(f"exit {k} {share:.0%}" for k, share in enumerate(benchmark.exit_shares))
        costs = ", ".join(f"exit {k} {1e6 * seconds:.0f} us" for k, seconds in enumerate(benchmark.exit_latency_s))
        print(
            f"  too few canvases leave early at the loss that is promised ({shares}) for what leaving takes ({costs})"
        )


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
    clock = [sum(os.times()[:4])]
    print("training three exits on canvases of digits", flush=True)
    network = train(options.epochs, options.images or TRAIN, options.seed)
    clock.append(sum(os.times()[:4]))
    calibration = canvases.draw("calibration", options.images or CALIBRATION, 2 * options.seed)
    count, seed = options.images or TEST, 2 * options.seed + 1
    test = canvases.draw("test", count, seed)
    describe_misses(network, test, canvases.difficulty("test", count, seed))
    clock.append(sum(os.times()[:4]))
    benchmark = whole_way(
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
    clock.append(sum(os.times()[:4]))
    describe_aim(benchmark)
    draw_answers(output / "network.offramp", test, output / "masks.png")
    print(f"picture: {output / 'masks.png'}")
    spent = zip(("training", "canvases and losses", "export to comparison"), np.diff(clock), strict=True)
    print(f"CPU seconds: {', '.join(f'{part} {seconds:.0f}' for part, seconds in spent)}")


if __name__ == "__main__":
    main()
