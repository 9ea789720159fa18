"""A network that thinks longer about harder questions: one block, applied up to sixteen times, fills 6 x 6 Sudoku grids.

    python samples/refinement/refinement.py

A pass applies the block twice. After each of the eight passes there is an exit, whose answer is the whole grid, and a halting
head, which learns whether that answer is right (as in adaptive computation time, arXiv 1603.08983, and the tiny recursive model,
arXiv 2510.04871). Early exit stops where the halting head is sure enough. A grid counts as solved if all its cells are right, so
the loss is 0 or 1, and the promise is of the share of grids solved. All passes after the first are one file in the bundle, which
the engine compiles once. The script writes a bundle, the curve of grids solved over passes, and an easy and a hard grid.

A static network has the heads once, the chain has them after each pass. So they are kept small beside a pass: two products and a
maximum. The thresholds of seven exits would fit too few puzzles too well: thousands that training never saw select them.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from whole_way import whole_way

import sudoku
from offramp.bundle import open_bundle, read_calibration
from offramp.runtime import load_uncalibrated

PASSES, ROUNDS = 8, 2
CHANNELS, HIDDEN = 16, 32
STEPS, BATCH, LR = 2000, 16, 0.004
TRAIN, SELECTING, CALIBRATION, TEST = 15_000, 8000, 8000, 4000
OUTPUT = Path("build/refinement")


class Refiner(nn.Module):
    """One block with an exit after each pass. It keeps 16 numbers for each digit in each cell.

    A Sudoku is a choice of digits by cells of which each cell takes one, and each row, column and box takes each digit once. The
    block adds over those groups, so it knows neither digits nor places: what it learns of one holds for all.
    """

    groups: torch.Tensor
    tie: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("groups", torch.from_numpy(sudoku.GROUPS.astype(np.float32)), persistent=False)
        self.given = nn.Linear(2, HIDDEN)
        self.own = nn.Linear(CHANNELS, HIDDEN, bias=False)
        self.group, self.cell = nn.Linear(CHANNELS, HIDDEN), nn.Linear(CHANNELS, HIDDEN)
        self.out, self.norm = nn.Linear(HIDDEN, CHANNELS), nn.LayerNorm(CHANNELS)
        self.answer, self.halt = nn.Linear(CHANNELS, 1), nn.Linear(CHANNELS, 1)
        # Equally likely digits would be told apart by rounding, which differs between engines: the higher one is answered.
        self.register_buffer("tie", 0.01 * torch.arange(6), persistent=False)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """Return what puzzles (N, 36) say of each digit in each cell, (N, 36, 6, 32)."""
        is_it = (x[..., None] == torch.arange(1.0, 7)).float()
        is_given = (x[..., None] > 0).float().expand(-1, -1, 6)
        given: torch.Tensor = self.given(torch.stack([is_it, is_given], -1))
        return given

    def think(self, state: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run a pass: return state (N, 36, 6, 16), logits of the digits (N, 36, 6), and logits of being right (N,)."""
        for _ in range(ROUNDS):
            sums = (self.groups @ state.flatten(2)).view(-1, 18, 6, CHANNELS)
            heard = (self.groups.T @ F.relu(self.group(sums)).flatten(2)).view(-1, 36, 6, HIDDEN)
            heard = heard + F.relu(self.cell(state.sum(2, keepdim=True)))
            state = self.norm(state + self.out(F.relu(self.own(state) + given + heard)))
        # One doubtful digit is enough to go on: of each channel the maximum over the grid is read.
        return state, self.answer(state)[..., 0] + self.tie, self.halt(state.amax((1, 2)))[:, 0]

    def begin(self, given: torch.Tensor) -> torch.Tensor:
        """Return the state before the first pass."""
        return torch.zeros_like(given[..., :CHANNELS])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return after each pass the grids, int64 (N, 36) with digits from 1, and the probability that they are right, (N,)."""
        given, outputs = self.read(x), dict[str, torch.Tensor]()
        state = self.begin(given)
        for k in range(PASSES):
            state, logits, right = self.think(state, given)
            outputs |= {f"pass{k + 1}.cells": logits.argmax(2) + 1, f"pass{k + 1}.right": torch.sigmoid(right)}
        return outputs


def train(network: Refiner, x: np.ndarray, y: np.ndarray, steps: int) -> None:
    """Train all exits together (deep supervision); the number of passes rises from 1 to 8.

    The papers detach the state between passes, which saves memory. These passes are small: gradients go through all of them.
    """
    puzzles, digits = torch.from_numpy(x), torch.from_numpy(y) - 1
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=steps, pct_start=0.05)
    start = time.perf_counter()
    for step in range(steps):
        rows = torch.randint(len(puzzles), (BATCH,))
        given, truth = network.read(puzzles[rows]), digits[rows]
        state, losses = network.begin(given), []
        for _ in range(min(PASSES, 1 + 14 * step // steps)):
            state, logits, right = network.think(state, given)
            solved = (logits.argmax(2) == truth).all(1).float()
            losses += [F.cross_entropy(logits.flatten(0, 1), truth.flatten())]
            losses += [0.2 * F.binary_cross_entropy_with_logits(right, solved)]
        loss = 2 * torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 5) == 0:
            took = time.perf_counter() - start
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}, {took:.0f} s", flush=True)
    network.eval()


def leave(score: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Return after which pass, counted from 0, each puzzle leaves by scores (N, passes), int (N,)."""
    sure = score >= np.array([*thresholds, 0], np.float32)
    return np.asarray(sure.argmax(1))


def describe_files(path: Path) -> str:
    """Say how many files the stages of a bundle are, and how large they are."""
    variant = open_bundle(path).manifest.variants[0]
    stages = {stage.file for stage in variant.stages}
    size = sum(variant.files[name].bytes for name in (*stages, variant.weights))
    files = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    return (
        f"{len(variant.stages)} stages are {len(stages)} files of {size / 1e3:.0f} kB with their weights; the bundle has "
        f"{len(files)} files of {sum(files) / 1e3:.0f} kB, static networks and calibration included"
    )


def compare_passes(x: np.ndarray, y: np.ndarray) -> None:
    """Print and draw the share of test grids solved over passes, of each fixed number of passes and of early exit."""
    path = OUTPUT / "network.offramp"
    calibration = read_calibration(open_bundle(path).calibrations()[0])
    early, time_s = calibration.early, {static.exit: static.latency_s for static in calibration.statics}
    print(describe_files(path))
    start = time.perf_counter()
    with load_uncalibrated(path) as net:
        print(f"loaded and compiled in {1e3 * (time.perf_counter() - start):.0f} ms")
        every = net.every_exit(x)
    cells = np.stack([every.parts(k)["cells"] for k in range(PASSES)], 1)
    solved = (cells == y[:, None]).all(2)
    print("\npasses   grids solved   us (as calibrated)")
    for k in range(PASSES):
        print(f"{k + 1:6} {solved[:, k].mean():14.1%} {1e6 * time_s[k]:8.0f}")
    rows, left = np.arange(len(x)), leave(every.score, early.thresholds)
    at_end = solved[rows, left]
    print(f"{1 + left.mean():6.1f} {at_end.mean():14.1%} {1e6 * early.latency_s:8.0f}  early exit")
    same = np.pad((cells[:, 1:] == cells[:, :-1]).all(2), ((0, 0), (1, 0)))
    agreed = leave(same, [1.0] * (PASSES - 1))
    print(
        f"{1 + agreed.mean():6.1f} {solved[rows, agreed].mean():14.1%}           where two passes agree, without a halting head"
    )
    givens = (x > 0).sum(1)
    for least, most in ((8, 10), (11, 13), (14, 18), (19, 24)):
        some = (givens >= least) & (givens <= most)
        if some.any():
            print(f"{least} to {most} givens: {1 + left[some].mean():.1f} passes, {at_end[some].mean():.1%} solved")
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    curve, *grids = figure.subplots(1, 3, width_ratios=[5, 3.5, 3.5])
    draw_curve(curve, every.score, solved)
    label = "early exit, as calibrated"
    curve.plot(1 + left.mean(), 100 * at_end.mean(), "D", color="tab:red", markersize=9, label=label)
    curve.legend(loc="lower right", fontsize=8)
    easy, hard = np.where(at_end, left, PASSES).argmin(), np.where(at_end, left, -1).argmax()
    for axes, row in zip(grids, (easy, hard), strict=True):
        draw_grid(axes, x[row], cells[row, left[row]], y[row], left[row] + 1)
    figure.savefig(OUTPUT / "passes.png", dpi=110)
    print(f"picture: {OUTPUT / 'passes.png'}")


def draw_curve(axes: Axes, score: np.ndarray, solved: np.ndarray) -> None:
    """Draw the share of grids solved over passes: fixed, and by one threshold for all passes."""
    axes.plot(1 + np.arange(PASSES), 100 * solved.mean(0), "o--", color="0.6", label="a fixed number of passes")
    rows = np.arange(len(solved))
    left = [leave(score, [threshold] * (PASSES - 1)) for threshold in 1 - np.geomspace(0.8, 1e-3, 30)]
    passes, share = [1 + taken.mean() for taken in left], [100 * solved[rows, taken].mean() for taken in left]
    axes.plot(passes, share, color="tab:red", label="early exit, one threshold for all passes")
    axes.set(xlabel="passes in the mean", ylabel="grids solved, %", xlim=(0, PASSES + 0.5))
    axes.grid(alpha=0.3)


def draw_grid(axes: Axes, puzzle: np.ndarray, cells: np.ndarray, solution: np.ndarray, passes: int) -> None:
    """Draw a puzzle and how it was filled: givens black, right digits blue, wrong ones red."""
    for cell, (given, digit, right) in enumerate(zip(puzzle, cells, solution, strict=True)):
        color = "black" if given else "tab:blue" if digit == right else "tab:red"
        place = cell % 6 + 0.5, cell // 6 + 0.5
        axes.text(
            *place, str(digit), ha="center", va="center", color=color, fontsize=15, weight="bold" if given else "normal"
        )
    for k in range(7):
        axes.plot([0, 6], [k, k], color="black", lw=2 if k % 2 == 0 else 0.5)
        axes.plot([k, k], [0, 6], color="black", lw=2 if k % 3 == 0 else 0.5)
    axes.set(xlim=(-0.1, 6.1), ylim=(6.1, -0.1), aspect="equal", title=f"{(puzzle > 0).sum()} givens: {passes} passes")
    axes.axis("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of training")
    parser.add_argument("--puzzles", type=int, help="how many puzzles train, select, calibrate and test, each")
    parser.add_argument("--seed", type=int, default=0, help="of puzzles and training")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # a seed gives the same network on any number of cores
    counts = [options.puzzles] * 4 if options.puzzles else [TRAIN, SELECTING, CALIBRATION, TEST]
    x, y = sudoku.draw("training", counts[0] + counts[1], options.seed)
    training, selecting = (x[: counts[0]], y[: counts[0]]), (x[counts[0] :], y[counts[0] :])
    calibration, test = (
        sudoku.draw(part, n, options.seed) for part, n in zip(("calibration", "test"), counts[2:], strict=True)
    )
    print(f"training one block of up to {PASSES} passes on {len(training[0])} puzzles", flush=True)
    network = Refiner()
    train(network, *training, options.steps)
    gates = [f"pass{k + 1}.right" for k in range(PASSES)]
    whole_way(
        network,
        calibration,
        test,
        OUTPUT,
        loss="zero_one",
        outside=selecting,
        answer=["cells"],
        rule="gate",
        gates=gates,
    )
    compare_passes(*test)


if __name__ == "__main__":
    main()
