"""A detector whose exits answer with boxes: handwritten digits scattered on canvases, of which most are easy and some are hard.

    python samples/detection/detection.py

Each of three exits gives for each cell of a grid a box and the scores of ten digits and of nothing. A canvas leaves where few
cells are likely to be wrong beside the digits likely to be there. The loss that is promised is 1 - F1 at an overlap of one half.
The script writes a bundle, a picture of the comparison, and one of canvases with the boxes that early exit found.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
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
from offramp.runtime import BatchResult, load

COUNTS = {"training": 12_000, "calibration": 4000, "test": 4000}
EPOCHS, BATCH = 3, 16
EXIT_WEIGHTS = (0.25, 0.25, 0.5)
OUTPUT = Path("build/detection")

CELLS = 12
CELL = canvases.SIDE // CELLS
"""The grid is 12 x 12, and a cell covers 8 x 8 pixels."""

NOTHING = 10
"""The class of a cell that answers for no digit."""

NEAR = 5
"""A cell answers for a digit if their middles are at most so many pixels apart, across and down: one or two cells for each."""

LEAST_PROBABILITY = 0.5
"""A cell gives a box if it takes this to be as likely as that."""

OVERLAP = 0.5
"""A box is right if it overlaps the true one so much (intersection over union), and left out if it overlaps a surer one more."""

Answer = Mapping[str, np.ndarray]
Exit = dict[str, torch.Tensor]


class Head(nn.Module):
    """An exit: boxes (batch, 4, 12, 12) in pixels, scores of classes (batch, 11, 12, 12), and how sure it is of them (batch,)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cells = nn.Conv2d(channels, 4 + NOTHING + 1, 1)
        nn.init.constant_(self.cells.get_parameter("bias")[-1:], 5.0)  # nearly all cells hold nothing
        middle = CELL * (torch.arange(CELLS) + 0.5)
        x, y = middle.expand(CELLS, CELLS), middle[:, None].expand(CELLS, CELLS)
        sides = CELL * torch.tensor([-1.0, -1.0, 1.0, 1.0])[:, None, None]
        self.register_buffer("sides", sides)
        self.register_buffer("usual", torch.stack([x, y, x, y]) + sides)

    def forward(self, features: torch.Tensor) -> Exit:
        cells = self.cells(features)
        boxes, classes = self.usual + self.sides * cells[:, :4], cells[:, 4:]
        return {"boxes": boxes, "classes": classes, "sure": judge(classes)}


def judge(classes: torch.Tensor) -> torch.Tensor:
    """Return how sure scores (batch, 11, 12, 12) are, (batch,): n / (n + w), of w cells likely wrong and n likely digits.

    It is 1 over the sum of powers instead of a softmax, which engines compute slowly over the axis of classes.
    """
    powers = (classes - classes.amax(1, keepdim=True)).exp()
    likeliest = 1 / powers.sum(1)
    wrong = CELLS**2 - likeliest.sum((1, 2))
    there = CELLS**2 + 0.5 - (powers[:, NOTHING] * likeliest).sum((1, 2))
    return there / (there + wrong)


class Detector(nn.Module):
    """Three stages with an exit after each; 4, 3 and 21 million multiply-accumulates.

    The first two see digits on a map of 12 x 12. The last goes back to one of 24 x 24 for what is small or lies on each other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(1, 24, 8, 4, padding=2, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.first, self.second = nn.Sequential(conv(24, 40, 2), conv(40, 40)), conv(40, 64)
        self.finer = nn.Sequential(conv(24, 32), conv(32, 48, 2))
        self.third = nn.Sequential(conv(64 + 48, 64), conv(64, 64))
        self.heads = nn.ModuleList([Head(channels) for channels in (40, 64, 64)])

    def forward(self, x: torch.Tensor) -> list[Exit]:
        x = self.patches(x)
        first = self.first(x)
        second = self.second(first)
        third = self.third(torch.cat([second, self.finer(x)], 1))
        return [head(features) for head, features in zip(self.heads, (first, second, third), strict=True)]


def miss(exit_: Exit, true: torch.Tensor) -> torch.Tensor:
    """Return the loss of each canvas, (batch,): the cross-entropy of all cells, and how far boxes are off.

    Args:
        exit_: what an exit gives.
        true: boxes (batch, most boxes, 5); those that are not there have the digit -1.
    """
    middle = CELL * (torch.arange(CELLS) + 0.5)
    cells = torch.stack([middle.repeat(CELLS), middle.repeat_interleave(CELLS)])
    far = (((true[:, :, :2] + true[:, :, 2:4]) / 2)[..., None] - cells).abs().amax(2)
    nearest, which = far.masked_fill(true[:, :, 4:] < 0, torch.inf).min(1)
    of_cell = true.gather(1, which[..., None].expand(-1, -1, 5))
    digit = torch.where(nearest <= NEAR, of_cell[..., 4], NOTHING).long()
    wrong = F.cross_entropy(exit_["classes"].flatten(2), digit, reduction="none")
    off = 1 - overlap(exit_["boxes"].flatten(2).transpose(1, 2), of_cell[..., :4])
    return (wrong + 2 * off * (digit != NOTHING)).sum(1) / 3


def overlap(ours: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return the generalized intersection over union of boxes (..., 4), -1 to 1 (arXiv 1902.09630)."""
    low, high = torch.maximum(ours[..., :2], true[..., :2]), torch.minimum(ours[..., 2:], true[..., 2:])
    left, right = torch.minimum(ours[..., :2], true[..., :2]), torch.maximum(ours[..., 2:], true[..., 2:])
    inside, around = (high - low).clamp(0).prod(-1), (right - left).clamp(0).prod(-1) + 1e-6
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(0).prod(-1) for boxes in (ours, true)]
    both = areas[0] + areas[1] - inside
    return inside / (both + 1e-6) - (around - both) / around


def pad(boxes: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the boxes of N canvases as one tensor, as `miss` takes it."""
    padded = torch.full((len(boxes), max(map(len, boxes)), 5), -1.0)
    for row, each in zip(padded, boxes, strict=True):
        row[: len(each)] = torch.from_numpy(each)
    return padded


def decode(answer: Answer) -> list[np.ndarray]:
    """Return the boxes found in each canvas, float (boxes, 5): left, top, right, bottom, digit; the surest first."""
    return [boxes[:, :5] for boxes in find_boxes(answer, LEAST_PROBABILITY)]


def find_boxes(answer: Answer, least: float) -> list[np.ndarray]:
    """Return what `decode` does, with the probability of each box behind it, float (boxes, 6)."""
    scores = answer["classes"].reshape(-1, NOTHING + 1, CELLS**2)
    odds = np.exp(scores - scores.max(1, keepdims=True))
    probability = odds[:, :NOTHING].sum(1) / odds.sum(1)
    digit, boxes = scores[:, :NOTHING].argmax(1), answer["boxes"].reshape(-1, 4, CELLS**2)
    found = []
    for i, p in enumerate(probability):
        cells = np.flatnonzero(p >= least)
        cells = cells[(-p[cells]).argsort(kind="stable")]
        found.append(suppress(np.stack([*boxes[i][:, cells], digit[i, cells], p[cells]], 1)))
    return found


def suppress(boxes: np.ndarray) -> np.ndarray:
    """Leave out boxes that overlap a surer one too much (non-maximum suppression)."""
    alike = intersect(boxes[:, None], boxes) > OVERLAP
    kept: list[int] = []
    for i, row in enumerate(alike):
        if not row[kept].any():
            kept.append(i)
    return boxes[kept]


def intersect(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersection over union of boxes (..., 4 or more)."""
    inside = (np.minimum(a[..., 2:4], b[..., 2:4]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(-1)
    areas = [(boxes[..., 2:4] - boxes[..., :2]).clip(0).prod(-1) for boxes in (a, b)]
    return np.asarray(inside / np.maximum(areas[0] + areas[1] - inside, 1e-6))


def mean_average_precision(answer: Answer, truth: Sequence[np.ndarray]) -> float:
    """Return mAP@0.5: the mean over the digits of the area under precision over recall (Everingham et al., IJCV 88, 2010).

    Args:
        answer: what exits give for N canvases, (N, ...) by name.
        truth: the true boxes of each canvas, float (boxes, 5).
    """
    found = find_boxes(answer, 0.05)
    canvas = np.repeat(np.arange(len(found)), [len(boxes) for boxes in found])
    boxes = np.concatenate(found)
    areas = []
    for digit in range(NOTHING):
        true = [each[each[:, 4] == digit] for each in truth]
        left = [np.ones(len(each), bool) for each in true]
        mine = np.flatnonzero(boxes[:, 4] == digit)
        right = []
        for k in mine[(-boxes[mine, 5]).argsort(kind="stable")]:
            i = canvas[k]
            overlaps = intersect(boxes[k], true[i]) * left[i]
            right.append(overlaps.max(initial=0) >= OVERLAP)
            if right[-1]:
                left[i][overlaps.argmax()] = False
        recalled = np.cumsum(right) / max(1, sum(map(len, true)))
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        areas.append(np.diff(recalled, prepend=0) @ np.maximum.accumulate(precision[::-1])[::-1])
    return float(np.mean(areas))


def fit(network: Detector, training: canvases.Canvases, epochs: int) -> None:
    """Train all exits together, on one thread: then a seed gives the same network on any number of cores."""
    torch.set_num_threads(1)
    x, true = torch.from_numpy(training.images), pad(training.boxes.rows(np.arange(len(training.images))))
    weights = torch.tensor(EXIT_WEIGHTS)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.004, total_steps=epochs * (len(x) // BATCH))
    for epoch in range(epochs):
        start, losses = time.perf_counter(), []
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].reshape(-1, BATCH):
            each = torch.stack([miss(exit_, true[rows]).mean() for exit_ in network(x[rows])])
            optimizer.zero_grad()
            (weights * each).sum().backward()
            optimizer.step()
            schedule.step()
            losses.append(each.detach())
        shown = " ".join(f"{loss:.2f}" for loss in torch.stack(losses).mean(0).tolist())
        print(f"epoch {epoch + 1}: loss {shown}, {time.perf_counter() - start:.0f} s", flush=True)
    network.eval()


def draw(test: canvases.Canvases, found: BatchResult, path: Path) -> None:
    """Draw canvases that left at each exit, sure ones first, with the boxes found there (red) and the true ones (dotted)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns, boxes, exits = 6, decode(found.answer or {}), np.unique(found.exit)
    size = (2 * columns, 2.2 * len(exits))
    figure, rows = plt.subplots(len(exits), columns, figsize=size, squeeze=False, layout="constrained")
    for row, exit_ in zip(rows, exits, strict=True):
        here = np.flatnonzero(found.exit == exit_)
        here = here[(-found.score[here]).argsort()][np.linspace(0, len(here) - 1, min(columns, len(here))).astype(int)]
        for place in row:
            place.axis("off")
        for place, i in zip(row, here, strict=False):
            place.imshow(test.images[i, 0], cmap="gray_r", vmin=0, vmax=1, extent=(0, canvases.SIDE, canvases.SIDE, 0))
            for x0, y0, x1, y1, _ in test.boxes.rows(np.array([i]))[0]:
                place.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], ":", color="tab:blue")
            for x0, y0, x1, y1, digit in boxes[i]:
                place.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="tab:red", linewidth=1)
                place.text(x0, y0, f"{digit:.0f}", color="tab:red", va="bottom")
            place.set_title(f"exit {exit_}, score {found.score[i]:.3f}", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training canvases")
    parser.add_argument("--images", type=int, help="how many canvases to train, calibrate and test on, each")
    parser.add_argument("--seed", type=int, default=0, help="of the network and of the canvases")
    options = parser.parse_args()
    start = time.perf_counter()
    torch.manual_seed(options.seed)
    training, calibration, test = (
        canvases.draw(part, options.images or count, 3 * options.seed + i)
        for i, (part, count) in enumerate(COUNTS.items())
    )
    print(f"training three exits on {len(training.images)} canvases", flush=True)
    network = Detector()
    fit(network, training, options.epochs)
    whole_way(
        network,
        (calibration.images, calibration.boxes),
        (test.images, test.boxes),
        OUTPUT,
        max_drop=0.02,
        loss=f"f1@{OVERLAP}:{__file__}:decode",
        answer=["boxes", "classes"],
        rule="gate",
        gates=[f"exit{k}.sure" for k in range(3)],
        metric=mean_average_precision,
    )
    with load(OUTPUT / "network.offramp") as net:
        draw(test, net.batch(test.images), OUTPUT / "boxes.png")
    print(f"picture: {OUTPUT / 'boxes.png'}\n{(time.perf_counter() - start) / 60:.1f} minutes in all")


if __name__ == "__main__":
    main()
