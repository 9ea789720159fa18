"""Where exits pay on CIFAR-10: the places that `place_exits` finds beside those of `attach(at="auto")` and equal shares.

    CIFAR10=FOLDER python tests/benchmarks/place.py --folder build/place [--json result.json]

A residual network of the size of ResNet-8, with nine blocks and so with nine places for an exit, is trained from random weights
with an exit at each. The images that were held back choose the places, all thresholds, and how the network is tuned; no figure
is chosen after the test images are read, which judge once, at the end. Sets are judged as they were trained together, and the
found one, `auto` and equal shares also after each was tuned alike. A run that was killed goes on from what lies in the folder.
"""

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from cifar10_samples import folder, held, rows, test
from offramp.bundle import Bundle, open_bundle
from offramp.calibrate.labels import check_labelled
from offramp.calibrate.measure.latency import Turn, force_exits, latencies, measure, run_alone
from offramp.calibrate.measure.tables import ExitTable
from offramp.devices import fingerprint
from offramp.export import attach, export
from offramp.runtime import load_static, load_uncalibrated
from offramp.runtime.selection import packages_of
from offramp.sweep import PlacedExits, place_exits
from offramp.sweep.exit_places.costs import as_costs
from offramp.sweep.exit_places.pipeline import hash_weights, tune_exits
from offramp.sweep.exit_places.recording import Workbench, record_table
from offramp.sweep.exit_places.search import Exits, Question

# isort: split
from resnets import CLASSES, Block, convolve  # the folder is in sys.path because of cifar10_samples
from train import Batches, read_images

WIDTHS, BLOCKS = (16, 32, 64), 3
"""Channels of each stack, and blocks in it."""

BATCH = 128

TRAINING = {"epochs": 10, "recipe": "distill", "lr": 0.1}

TUNING = {"epochs": 1, "recipe": "distill", "lr": 0.02}

SEEDS = {"network and batches": 0, "order of turns": 0, "bootstrap": 0}


class Plain(nn.Module):
    """The residual network of nine blocks of He et al. (arXiv 1512.03385), whose stem halves the image; it has no exits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolve(3, WIDTHS[0], 3, 2), nn.ReLU())
        before, blocks = WIDTHS[0], []
        for stack, width in enumerate(WIDTHS):
            for i in range(BLOCKS):
                blocks.append(Block(before, width, 2 if stack and not i else 1))
                before = width
        self.blocks, self.out = nn.Sequential(*blocks), nn.Linear(before, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def load_batches(seed: int = 0) -> Batches:
    """Return the training images that `cifar10_samples.held` does not give, shifted and mirrored anew in every pass."""
    images, labels = read_images(folder() / "cifar10_train.npz")
    used = rows()[len(rows()) // 10 :]
    generator = torch.Generator().manual_seed(seed)
    return Batches(torch.from_numpy(images[used]), torch.from_numpy(labels[used]), BATCH, generator)


class Row(msgspec.Struct, frozen=True):
    """A set of exits on the test images; `gain` is the found set's area less its own, and `points` are the curve's."""

    name: str
    places: tuple[str, ...]
    is_tuned: bool
    area: float
    area_interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    accuracy: tuple[float, ...]
    latency_s: tuple[float, ...]
    points: list[tuple[float, float]]


class Entrant(msgspec.Struct, frozen=True):
    """A set of exits before it is judged: answers to the held-back images and to the test images, and latencies."""

    name: str
    places: tuple[str, ...]
    is_tuned: bool
    held: ExitTable
    test: ExitTable


def judge(entrants: Sequence[Entrant], until_s: float) -> list[Row]:
    """Return the figures of all; the first is the found set, which the others are compared with."""
    question, rows, first = Question(chance=1 / CLASSES, until_s=until_s), [], None
    for each in entrants:
        curve = question.judge(each.held, each.test)
        draws = curve.draw_areas()
        first = first or (curve.area, draws)
        assert each.test.right is not None
        points = zip(curve.latency_s.mean(1).tolist(), curve.right.mean(1).tolist(), strict=True)
        rows.append(
            Row(
                each.name,
                each.places,
                each.is_tuned,
                curve.area,
                interval(draws),
                first[0] - curve.area,
                interval(first[1] - draws),
                tuple(each.test.right.mean(0).tolist()),
                tuple(each.test.costs.latency_s.tolist()),
                list(points),
            )
        )
    return rows


def interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975)).tolist()
    return low, high


def time_bundles(bundles: dict[str, Bundle], whole: Bundle, x: np.ndarray, seconds: float) -> dict[str, np.ndarray]:
    """Return the latency of leaving at each exit of some bundles, over that of the whole network, all side by side."""
    rng, turns = np.random.default_rng(0), dict[str, Turn]()
    with ExitStack() as stack:
        turns["whole"] = run_alone(stack.enter_context(load_static(whole)))
        for name, bundle in bundles.items():
            net = stack.enter_context(load_uncalibrated(bundle))
            turns[name] = force_exits(net, [1 / len(net.exits)] * len(net.exits), rng=rng)
        results = measure(turns, x, rng=rng, progress=lambda *_: None, seconds=seconds)
    medians = {name: np.array([np.median(latencies(each)) for each in forced]) for name, forced in results.items()}
    return {name: medians[name] / medians["whole"][0] for name in bundles}


def numbers_of(places: Sequence[str], placed: PlacedExits) -> Exits:
    return (*(placed.places.index(name) for name in places), len(placed.places))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="everything is kept there")
    parser.add_argument("--epochs", type=int, default=TRAINING["epochs"])
    parser.add_argument("--tuning-epochs", type=int, default=TUNING["epochs"])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long latencies are measured, three times")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(SEEDS["network and batches"])
    start = time.process_time()
    images, batches, tuning = held(), load_batches(), TUNING | {"epochs": options.tuning_epochs}
    network = attach(Plain(), torch.zeros(2, 3, 32, 32), at="all", frozen=False)
    placed = place_exits(
        network,
        batches,
        images,
        options.folder,
        training=TRAINING | {"epochs": options.epochs},
        tuning=tuning,
        seconds=options.seconds,
        progress=show,
    )
    print(placed, flush=True)
    rivals = {rival.name: rival.exits for rival in placed.rivals}
    sets = {"found": placed.chosen, "auto": rivals["auto"], "equal shares": rivals["equal shares"]}
    bundles = {}
    for name, exits in sets.items():
        numbers = numbers_of(exits.places, placed)
        tuned = tune_exits(network, numbers, batches, tuning, options.folder, progress=show)
        path = options.folder / f"{'-'.join(map(str, numbers))}.offramp"
        bundles[name] = export(tuned, images[0][:4], path)
    everything = open_bundle(options.folder / f"places-{hash_weights(network)}.offramp")
    until_s = placed.static_s[-1]
    shares = time_bundles(bundles, everything, images[0][:1024], options.seconds)
    # Everything is chosen: from here on the test images judge.
    bench = Workbench(options.folder, "cpu", 1, options.seconds, show)
    known, seen = (
        [
            record_table(bundle, *check_labelled(data, bundle.manifest), bench)
            for bundle in (everything, *bundles.values())
        ]
        for data in (images, test())
    )

    def enter(name: str, exits: Exits, latency_s: Sequence[float]) -> Entrant:
        costs, names = as_costs(latency_s), tuple(placed.places[k] for k in exits[:-1])
        return Entrant(name, names, False, known[0].columns(exits, costs), seen[0].columns(exits, costs))

    untuned = [enter(name, numbers_of(exits.places, placed), exits.latency_s) for name, exits in sets.items()]
    untuned += [
        enter(name, numbers_of(exits.places, placed), exits.latency_s)
        for name, exits in rivals.items()
        if name not in sets
    ]
    tuned_sets = []
    for at, (name, exits) in enumerate(sets.items(), start=1):
        costs = as_costs(shares[name] * until_s)
        tables = (msgspec.structs.replace(tables[at], costs=costs) for tables in (known, seen))
        tuned_sets.append(Entrant(name, exits.places, True, *tables))
    judged = [*judge(tuned_sets, until_s), *judge(untuned, until_s)]
    for row in judged:
        gain = f"{row.gain:+.2%} ({row.gain_interval[0]:+.2%} to {row.gain_interval[1]:+.2%})"
        kind = "tuned" if row.is_tuned else "as trained together"
        print(
            f"{row.name:16} {kind:20} {row.area:7.2%} ({row.area_interval[0]:.2%} to {row.area_interval[1]:.2%})  ",
            end="",
        )
        print(f"found gains {gain:28} {', '.join(row.places)}")
    if options.json:
        result = {
            "seeds": SEEDS,
            "training": TRAINING | {"epochs": options.epochs},
            "tuning": tuning,
            "cpu_seconds_of_this_run": time.process_time() - start,
            "whole_network_s": until_s,
            "placed": msgspec.to_builtins(placed),
            "test": msgspec.to_builtins(judged),
            "fingerprint": fingerprint(packages=packages_of(["cpu"]), threads=1),
        }
        options.json.write_text(json.dumps(result, indent=1))


def show(what: str, done: int, total: int) -> None:
    if what.startswith(("training", "tuning")) or done == total:
        print(f"{what}: {done} of {total}, {time.process_time():.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
