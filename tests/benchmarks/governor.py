"""Does a governor keep its limit through a heat wave, a brown-out and a battery's life? On a simulated board of known truth.

python tests/benchmarks/governor.py BUNDLE --data samples.npz [--plot stories.svg] [--json result.json]

The network and its labels are real. The board is simulated: a call each 100 ms keeps it busy for 20 ms a stage at 9 W, and it
rests at 4 W. Three operating points are made by hand, at which a tenth, 60 and 95 % of the samples leave at the first exit.

heat wave  the air warms from 25 to 43 degrees and cools down again, in two hours; the board is warmer by 6 degrees a watt, with a
           time constant of a minute; at most 75 degrees
brown-out  7 W are allowed, then 5.6 for half an hour, then 7 again
battery    22 Wh must last for four hours, so that 5.5 W are allowed in the mean, and less than 20 % turns to the cheapest point

For each: the mean and the most of what is limited, over its limit, how long each point was in use, and how often it changed.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from offramp.bundle import Bundle, Calibration, open_bundle, read_calibration
from offramp.calibrate import load_samples
from offramp.devices import SimulatedBoard, State
from offramp.runtime import Governor, Net, load, load_uncalibrated

SHARES = {"careful": 0.1, "middle": 0.6, "eco": 0.95}

CALL_S, STAGE_S, WORK_W, IDLE_W = 0.1, 0.02, 9.0, 4.0

HOUR_S = 3600.0


class WarmBoard(SimulatedBoard):
    """A simulated board whose temperature follows its power and the air."""

    def __init__(self) -> None:
        super().__init__(idle_w=IDLE_W)
        self.temperature_c, self.air_c = 25.0 + 6 * IDLE_W, 25.0

    def warm(self, power_w: float, seconds: float) -> None:
        """Let the temperature follow a mean power for some seconds."""
        end_c = self.air_c + 6 * power_w
        self.temperature_c = end_c + (self.temperature_c - end_c) * math.exp(-seconds / 60)

    def state(self) -> State:
        """Return the temperature."""
        return State(temperature_c=self.temperature_c)


def make_points(bundle: Bundle, score: np.ndarray) -> Calibration:
    """Return a calibration with three points made by hand, by the scores of every exit, (N, exits)."""
    calibration = read_calibration(bundle.calibrations()[0])
    base = calibration.early
    points = {}
    for name, share in SHARES.items():
        first = float(np.quantile(score[:, 0], 1 - share))
        thresholds = (min(first, 1.0), *(2.0 for _ in base.thresholds[1:]))
        shares = (share, *(0.0 for _ in thresholds[1:]), 1 - share)
        points[name] = replace(
            base, name=name, thresholds=thresholds, exit_shares=shares, latency_s=2 - share, energy_j=None
        )
    return replace(calibration, points=points)


def tell(story: str, net: Net, board: WarmBoard, x: np.ndarray) -> dict[str, Any]:
    """Run a story; return what was seen each second."""
    seconds = {"heat wave": 2 * HOUR_S, "brown-out": 1.5 * HOUR_S, "battery": 4 * HOUR_S}[story]
    capacity_j = 22 * 3600.0
    how: dict[str, Any] = {
        "heat wave": {"max_temperature_c": 75.0},
        "brown-out": {"max_power_w": 7.0},
        "battery": {"max_power_w": capacity_j / seconds, "min_battery": 0.2},
    }[story]
    rows: list[tuple[float, ...]] = []
    start_j, calls = board.spent_j, 0
    with Governor(
        net, points=list(SHARES), battery=lambda: 1 - (board.spent_j - start_j) / capacity_j, **how
    ) as governor:
        while (now_s := board.clock.now_s()) < seconds:
            board.air_c = 25 + 18 * math.sin(math.pi * now_s / seconds) ** 2 if story == "heat wave" else 25.0
            if story == "brown-out":
                governor.max_power_w = 5.6 if seconds / 3 <= now_s < 2 * seconds / 3 else 7.0
            before_j = board.spent_j
            for _ in range(10):
                busy_s = STAGE_S * (net(x[calls % len(x)]).exit + 1)
                board.work(busy_s, power_w=WORK_W)
                board.clock.sleep(CALL_S - busy_s)
                calls += 1
            board.set_power(board.idle_w)
            spent_w = (board.spent_j - before_j) / (10 * CALL_S)
            board.warm(spent_w, 10 * CALL_S)
            limit = governor.max_power_w or 0.0
            place = list(SHARES).index(net.point.name) if net.point else 0
            rows.append((now_s, spent_w, limit, board.temperature_c, place))
        moves = len(governor.moves)
    return {"story": story, "rows": rows, "moves": moves, **judge(story, np.array(rows), board, start_j, capacity_j)}


def judge(story: str, rows: np.ndarray, board: WarmBoard, start_j: float, capacity_j: float) -> dict[str, Any]:
    """Return the figures of a story."""
    used = {name: float((rows[:, 4] == k).mean()) for k, name in enumerate(SHARES)}
    if story == "heat wave":
        hot = rows[:, 4] > 0  # while it is held back
        found = {"mean over limit": rows[hot, 3].mean() / 75, "most over limit": rows[:, 3].max() / 75}
    elif story == "brown-out":
        low = rows[rows[:, 2] < 7]
        found = {"mean over limit": low[:, 1].mean() / 5.6, "most over limit": low[:, 1].max() / 5.6}
    else:
        found = {
            "mean over limit": rows[:, 1].mean() / rows[0, 2],
            "left of the battery": 1 - (board.spent_j - start_j) / capacity_j,
        }
    return {"figures": {name: float(value) for name, value in found.items()}, "used": used}


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw what was limited, and the point in use, over time."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(13, 5), sharex="col", height_ratios=(3, 1))
    for k, result in enumerate(results):
        rows = np.array(result["rows"])
        hours, above = rows[:, 0] / HOUR_S, axes[0][k]
        if result["story"] == "heat wave":
            above.plot(hours, rows[:, 3], label="temperature, C")
            above.axhline(75, color="black", linestyle="--", linewidth=0.8, label="limit")
        else:
            above.plot(hours, np.convolve(rows[:, 1], np.ones(60) / 60, "same"), label="power, W (mean of a minute)")
            above.plot(hours, rows[:, 2], "k--", linewidth=0.8, label="limit")
            above.set_ylim(4, 7.5)
        above.set_title(result["story"])
        above.legend(fontsize="small")
        axes[1][k].plot(hours, rows[:, 4], drawstyle="steps-post")
        axes[1][k].set_yticks(range(len(SHARES)), list(SHARES))
        axes[1][k].set_xlabel("hours")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run the stories."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    x = np.asarray(load_samples(arguments.data)[0])[:1000]
    with load_uncalibrated(bundle) as net:
        calibration = make_points(bundle, net.every_exit(x).score)
    results = []
    for story in ("heat wave", "brown-out", "battery"):
        board = WarmBoard()
        with load(bundle, "cpu", calibration=calibration, point="careful", meter=board.meter()) as net:
            results.append(tell(story, net, board, x))
        row = results[-1]
        figures = ", ".join(f"{name} {value:.3f}" for name, value in row["figures"].items())
        used = ", ".join(f"{name} {value:.0%}" for name, value in row["used"].items())
        print(f"{story:10} {figures}; {used}; {row['moves']} moves", flush=True)
    if arguments.plot:
        plot(results, arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps([{**row, "rows": None} for row in results], indent=1))


if __name__ == "__main__":
    main()
