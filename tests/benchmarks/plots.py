"""The plots of the benchmark page: each function draws what the benchmark of its name wrote; its docstring says what is seen."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from tables import ENGINES

Result = dict[str, Any]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Okabe and Ito's, which colour-blind people tell apart."""


def chain(axes: Any, result: Result) -> None:
    """Time of all stages over the time of the whole graph, for each network."""
    networks = list(dict.fromkeys(row["network"] for row in result["results"]))
    series = [("cpu", "net"), ("openvino:CPU", "net"), ("cpu", "plain"), ("cpu", "earlyon")]
    names = {"net": "offramp", "plain": "plain loop", "earlyon": "earlyon"}
    for k, (device, way) in enumerate(series):
        found = {
            r["network"]: r["ratio"][way] for r in result["results"] if r["device"] == device and way in r["ratio"]
        }
        if found:
            label = f"{names[way]}, {'torch' if way == 'earlyon' else ENGINES[device]}"
            places = [networks.index(network) + 0.2 * (k - 1.5) for network in found]
            axes.bar(places, found.values(), 0.2, label=label, color=COLOURS[k])
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel("time over the whole graph's")
    axes.legend()


def search(axes: Any, result: Result) -> None:
    """Mean cost above the optimum of the grid, a dot for each case, for each way to search."""
    gaps = result["gaps"]["gap"]
    for k, gap in enumerate(gaps.values()):
        axes.scatter([100 * value for value in gap], [k] * len(gap), s=12, alpha=0.5, color=COLOURS[0])
        axes.scatter([100 * mean(gap)], [k], marker="|", s=200, color=COLOURS[1], label="" if k else "mean")
    axes.set_yticks(range(len(gaps)), list(gaps))
    axes.invert_yaxis()
    axes.set_xlabel("mean cost above the optimum of the grid, %")
    axes.legend()


def certify(axes: Any, result: Result) -> None:
    """How often promises break over the mean cost, for each way to promise; the line is what may break."""
    rows = [row for part in ("splits", "cascade", "recorded") for row in result.get(part, [])]
    for k, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
        own = [row for row in rows if row["way"] == way]
        x, y = [row["cost"] for row in own], [100 * row["broken"] for row in own]
        axes.scatter(x, y, label=way, color=COLOURS[k % len(COLOURS)], marker="oDsv^<>P"[k % 8])
    axes.axhline(100 * result["delta"], color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel("mean cost; 1 is the whole network")
    axes.set_ylabel("promises that broke, %")
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))


def predict(axes: Any, result: Result) -> None:
    """Predicted over measured mean latency; on the line they are equal."""
    most = 0.0
    for k, (device, found) in enumerate(result["devices"].items()):
        x, y = ([1e6 * row[name] for row in found["points"]] for name in ("measured_s", "predicted_s"))
        axes.scatter(x, y, label=ENGINES.get(device, device), color=COLOURS[k])
        most = max([most, *x, *y])
    axes.plot([0, most], [0, most], color="black", linewidth=0.8)
    axes.set_xlabel("measured, us")
    axes.set_ylabel("predicted, us")
    axes.legend()


def compressed(axes: Any, result: Result) -> None:
    """Accuracy on the test images over mean latency; the numbers are those of the table."""
    kinds = {(False, True): "static, certified", (False, False): "static, not certified"}
    kinds |= {(True, True): "early exit, certified", (True, False): "early exit, not certified"}
    for (early, certified), label in kinds.items():
        colour = COLOURS[early]
        rows = [r for r in result["rows"] if (len(r["shares"]) > 1, r["certified"]) == (early, certified)]
        x, y = [1e6 * row["mean_s"] for row in rows], [100 * row["accuracy"] for row in rows]
        if rows:
            axes.scatter(x, y, label=label, edgecolors=colour, facecolors=colour if certified else "none")
    for number, row in enumerate(result["rows"], 1):
        at = (1e6 * row["mean_s"], 100 * row["accuracy"])
        axes.annotate(str(number), at, xytext=(4, 3), textcoords="offset points", fontsize="small")
    axes.set_xlabel("mean latency, us")
    axes.set_ylabel("accuracy, %")
    axes.legend()


def fuse(axes: Any, result: Result) -> None:
    """CPU time of the fused file over the chain's, with quartiles over blocks, for each network."""
    rows = result["results"]
    ratios = [row["ratio"] for row in rows]
    reach = [
        [max(0.0, row["ratio"] - row["ratio_quartiles"][0]) for row in rows],
        [max(0.0, row["ratio_quartiles"][1] - row["ratio"]) for row in rows],
    ]
    axes.errorbar(ratios, range(len(rows)), xerr=reach, fmt="o", color=COLOURS[0])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["network"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("fused file over chain")


PLOTS: dict[str, Callable[[Any, Result], None]] = {
    "chain": chain,
    "search": search,
    "certify": certify,
    "recorded": certify,
    "predict": predict,
    "compressed": compressed,
    "fuse": fuse,
}


def draw(name: str, result: Result, path: Path) -> None:
    """Write a benchmark's plot as SVG; the same result gives the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        PLOTS[name](figure.add_subplot(), result)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
