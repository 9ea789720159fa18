"""Draw the pictures of docs/promises.md, each from a simulation by what offramp itself tests with, and the one of the README.

python tests/benchmarks/pictures.py FOLDER [front | labels | groups | classes | field ...]

front     forms of one network on CIFAR-10 by mean latency, from docs/benchmarks/compressed.json
labels    which of 5,000 samples need a label: those on which an early exit differs from the last one
groups    a drop and its 95 % interval in twenty drawings of 40 people with 50 samples each, by samples and by people
classes   how often the label is another than the last exit's in each of ten classes, where in the mean it is at most 2 %
field     the money of a bet against "at most 2 % disagree" where 1.5, 4 and 6 % do: the median of 200 products
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from offramp.bundle import Target
from offramp.calibrate.intervals import mean_interval
from offramp.calibrate.measure.tables import exits_taken, values_at
from offramp.calibrate.search.objective import find_thresholds
from offramp.runtime.audit.evidence import doubt
from offramp.tests.benchmarks.dependent import RIVALS, join
from offramp.tests.zoo.exit_tables import make_table

BENCHMARKS = Path(__file__).parents[2] / "docs/benchmarks"
BLUE, RED, GREY = "#2a7fb8", "#d55e00", "#888888"
"""Seen on light and on dark pages."""

LEGEND: dict[str, Any] = {
    "frameon": False,
    "labelcolor": GREY,
    "loc": "lower center",
    "bbox_to_anchor": (0.5, 1),
    "ncols": 3,
}
"""Above the picture."""


FRONT = {
    "fp32, whole": "whole network",
    "int8, whole": "int8",
    "pruned50, whole": "half pruned",
    "pruned50-int8, whole": "half pruned, int8",
    "int8, to exit 1": "cut short, int8",
    "fp32, early exit": "early exit",
    "int8, early exit": "early exit, int8",
}
"""Rows of the benchmark, and how the picture calls them."""


def front(axes: Any) -> None:
    """Forms of one network by mean latency; hollow ones cannot be promised to lose at most 1 %, whiskers end at the p99."""
    result = json.loads((BENCHMARKS / "compressed.json").read_text())["result"]
    assert result["max_drop"] == 0.01
    rows = sorted((row for row in result["rows"] if row["name"] in FRONT), key=lambda row: -row["mean_s"])
    for place, row in enumerate(rows):
        mean_ms, p99_ms = 1e3 * row["mean_s"], 1e3 * row["p99_s"]
        colour = RED if len(row["shares"]) > 1 else BLUE
        axes.barh(place, mean_ms, 0.62, color=colour if row["certified"] else "none", edgecolor=colour, linewidth=1.5)
        axes.plot([mean_ms, p99_ms, p99_ms], [place, place, place - 0.15], color=GREY, linewidth=1)
        axes.text(p99_ms + 0.1, place, f"{mean_ms:.2f} ms, {row['accuracy']:.1%}", color=GREY, va="center")
    axes.set_yticks(range(len(rows)), [FRONT[row["name"]] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 8.7)
    axes.set_xlabel("mean latency, ms; the thin lines end at the 99th percentile")
    for colour, filled, label in ((BLUE, True, "static"), (RED, True, "early exit"), (GREY, False, "no promise")):
        axes.barh(0, 0, color=colour if filled else "none", edgecolor=colour, linewidth=1.5, label=label)
    axes.legend(**LEGEND)


def labels(axes: Any) -> None:
    """Samples by the first exit's score; those on which it differs from the last exit are the ones to label."""
    table = make_table(5000, 3, seed=1)
    differs = table.label[:, 0] != table.label[:, -1]
    bins = np.linspace(0.2, 1, 33)
    axes.hist(
        [table.score[differs, 0], table.score[~differs, 0]],
        bins,
        stacked=True,
        color=[RED, GREY],
        label=[f"differ: {int(differs.sum())} to label", f"agree: {int((~differs).sum())} change nothing"],
    )
    axes.set_xlabel("how sure the first exit is")
    axes.set_ylabel("samples")
    axes.legend(**LEGEND)


def groups(axes: Any) -> None:
    """Means over samples of people who differ, with intervals that take samples for independent, and people."""
    rng, true = np.random.default_rng(4), 0.02
    for draw in range(20):
        people = rng.beta(1, 49, 40)  # the mean is 2 %
        lost = (rng.random((40, 50)) < people[:, None]).astype(np.int8)
        by_samples = mean_interval(lost.reshape(-1))
        by_people = mean_interval(lost.reshape(-1), np.repeat(np.arange(40), 50))
        for (low, high), place, colour in ((by_samples, draw - 0.15, RED), (by_people, draw + 0.15, BLUE)):
            axes.plot([place, place], [100 * low, 100 * high], color=colour, linewidth=3 if low <= true <= high else 1)
    axes.axhline(100 * true, color=GREY, linestyle="--")
    axes.plot([], [], color=RED, linewidth=3, label="2,000 samples taken as independent")
    axes.plot([], [], color=BLUE, linewidth=3, label="40 people")
    axes.set_xlabel("twenty drawings; thin lines miss the truth")
    axes.set_xticks([])
    axes.set_ylabel("drop, %")
    axes.legend(**LEGEND)


def classes(axes: Any) -> None:
    """A mean that is kept, and two classes that pay for it."""
    tables = [make_table(4000, 3, seed=k, shift=harder) for k, harder in enumerate(RIVALS)]
    together = join(tables)
    thresholds = find_thresholds(together, Target(max_disagreement=0.02), margin=0.0)
    assert thresholds is not None
    taken = exits_taken(together.score, thresholds)
    drops = 100 * np.sort(values_at(together.differs, taken).reshape(10, -1).mean(axis=1))
    axes.bar(range(10), drops, color=[RED if drop > 2 else BLUE for drop in drops])
    axes.axhline(2, color=GREY, linestyle="--")
    axes.text(-0.4, 2.1, "the limit", color=GREY)
    axes.axhline(drops.mean(), color=GREY, linewidth=1)
    axes.text(-0.4, drops.mean() - 0.35, "the mean", color=GREY)
    axes.set_xticks(range(10))
    axes.set_xlabel("class")
    axes.set_ylabel("other labels, %")


def field(axes: Any) -> None:
    """Money over audited inputs, the median of 200 products: it grows only where more disagrees than was promised."""
    rng, most, products = np.random.default_rng(3), 1000, 200
    for true, colour in ((0.015, GREY), (0.04, BLUE), (0.06, RED)):
        counts = np.cumsum(rng.random((products, most)) < true, axis=1)
        bets = [[doubt(int(k), n + 1, 0.02) for n, k in enumerate(row)] for row in counts]
        money = np.exp(np.minimum(np.median(bets, axis=0), 12))
        over = int(np.append(money >= 100, True).argmax()) + 1
        axes.plot(money[:over], color=colour, label=f"{true:.1%} disagree")
        if over < most:
            axes.plot([over - 1], [money[over - 1]], "o", color=colour)
    axes.axhline(100, color=GREY, linestyle="--")
    axes.text(most, 115, "alarm: 100", color=GREY, ha="right")
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 300)
    axes.set_xlabel("audited inputs")
    axes.set_ylabel("money")
    axes.legend(**LEGEND)


def main() -> None:
    """Draw the pictures that are named, or all."""
    pictures = {"front": front, "labels": labels, "groups": groups, "classes": classes, "field": field}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(pictures))
    arguments = parser.parse_args()
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "offramp"
    arguments.folder.mkdir(exist_ok=True, parents=True)
    for name in arguments.names:
        figure, axes = plt.subplots(figsize=(6.5, 2.8))
        pictures[name](axes)
        axes.tick_params(colors=GREY)
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(GREY)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(GREY)
        figure.tight_layout()
        figure.savefig(arguments.folder / f"{name}.svg", transparent=True, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
