"""How good the thresholds are that the search finds, and how long it takes, beside other ways to choose them.

python tests/benchmarks/search.py [--cases 36] [--samples 50000] [--json result.json] [PART ...]

grid    the whole joint grid, 5 exits x 32 values: seconds to count it, and the memory that takes
gaps    mean cost above the exact optimum of the 32-value grid, over cases of synthetic tables (36 in all, 5 exits):
        zoom        from a coarse grid of 8 values, on the same 32
        descent     coordinate descent for many prices, then boxes, on the same 32: what more than 6 exits get
        greedy      earlyon 0.3.0's: nine values, exit after exit, as aggressive as the drop allows
        fractions   MSDNet's: of what reaches an exit the same share leaves at each
        shared      one threshold for all exits
        finer       what the search does by default: the whole grid, then zoom between its values (below the optimum)
many    12 exits: seconds, and mean cost beside the best shared threshold
"""

import argparse
import json
import resource
import time
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from offramp.calibrate.measure.tables import exits_taken
from offramp.calibrate.search.thresholds import Limit, Problem, solve, threshold_grids
from offramp.tests.helpers.grids import evaluate
from offramp.tests.zoo.exit_tables import UNEVEN, exit_costs, exit_table, search_cases

SEEDS = {"the whole grid": 123, "cases": [0, 1, 2, 3]}
"""Those of the cases are in `exit_tables.search_cases`."""


def lost(table):
    right = table["correct"]
    return right[:, -1:].astype(np.int8) - right.astype(np.int8)


def judge(table, costs, thresholds):
    """Return the mean cost and the accuracy drop of some thresholds."""
    taken = exits_taken(table["score"], thresholds)
    return float(costs[taken].mean()), float(lost(table)[np.arange(len(taken)), taken].mean())


def find(table, costs, drop, **how):
    found = solve(Problem(table["score"], costs, lost(table), (Limit(lost(table), drop),)), **how)
    assert found is not None  # never leaving early loses nothing
    return found


def greedy(table, costs, drop):
    """earlyon 0.3.0's calibrate_thresholds, restated for a table of scores: coordinate by coordinate on a fixed grid."""
    best = [2.0] * (len(costs) - 1)
    for k in range(len(best)):
        without, chosen = judge(table, costs, best)[0], None
        for value in (0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5):
            cost, lost_share = judge(table, costs, [*best[:k], value, *best[k + 1 :]])
            if cost < without and lost_share <= drop and (chosen is None or value < chosen):
                chosen = value
        best[k] = 2.0 if chosen is None else chosen
    return best


def fractions(table, costs, drop):
    """The budgeted schedule of MSDNet (arXiv 1703.09844): of those that get to an exit the same share q leaves at each."""
    score, choices = table["score"], []
    for q in np.linspace(0.01, 0.99, 99):
        reach, thresholds = np.ones(len(score), bool), []
        for k in range(len(costs) - 1):
            thresholds.append(float(np.quantile(score[reach, k], 1 - q)) if reach.any() else 2.0)
            reach &= score[:, k] < thresholds[-1]
        choices.append(thresholds)
    return best_of(table, costs, drop, choices)


def shared(table, costs, drop):
    return best_of(table, costs, drop, [[t] * (len(costs) - 1) for t in np.linspace(0.3, 1, 701)])


def best_of(table, costs, drop, choices):
    judged = [(judge(table, costs, choice), choice) for choice in [*choices, [2.0] * (len(costs) - 1)]]
    return min((cost, choice) for (cost, lost_share), choice in judged if lost_share <= drop)[1]


def grid(samples: int) -> dict[str, float]:
    table = exit_table(samples, temperatures=UNEVEN, seed=SEEDS["the whole grid"])
    values, grids, times = [exit_costs(5), lost(table)], threshold_grids(table["score"]), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(7):
        start = time.perf_counter()
        evaluate(table["score"], values, grids)
        times.append(time.perf_counter() - start)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    vectors = int(np.prod([len(g) for g in grids]))
    print(f"{samples} samples, {vectors} vectors: {median(times):.3f} s (median of 7), {grown_mb:.0f} MB more at most")
    return {"samples": samples, "seconds": median(times), "vectors": vectors, "grown_mb": grown_mb}


def gaps(cases: int) -> dict[str, Any]:
    ways = {
        "zoom": lambda *case: find(*case, values=8, fine_values=32),
        "descent": lambda *case: find(*case, memory_mb=1, fine_values=32),
        "greedy": greedy,
        "fractions": fractions,
        "shared": shared,
        "finer": find,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    costs = exit_costs(5)
    for table, drop in islice(search_cases(5), cases):
        best = judge(table, costs, find(table, costs, drop, fine_values=32))[0]
        for name, way in ways.items():
            start = time.perf_counter()
            cost, lost_share = judge(table, costs, way(table, costs, drop))
            seconds[name].append(time.perf_counter() - start)
            assert lost_share <= drop + 1e-12
            found[name].append(cost / best - 1)
    print(f"{'':10} mean gap  largest  seconds, median   of {cases} cases")
    for name in ways:
        print(f"{name:10} {mean(found[name]):8.2%} {max(found[name]):8.2%} {median(seconds[name]):8.2f}")
    return {"gap": found, "seconds": seconds}


def many(cases: int) -> dict[str, list[float]]:
    costs, rows = exit_costs(12), []
    for table, drop in islice(search_cases(12), max(1, cases // 12)):
        start = time.perf_counter()
        cost = judge(table, costs, find(table, costs, drop))[0]
        rows.append((time.perf_counter() - start, cost, judge(table, costs, shared(table, costs, drop))[0]))
    print("12 exits  seconds  mean cost  one shared threshold")
    for seconds, cost, other in rows:
        print(f"{seconds:17.2f} {cost:10.4f} {other:21.4f}")
    return {"seconds": [row[0] for row in rows], "cost": [row[1] for row in rows], "shared": [row[2] for row in rows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--cases", type=int, default=36)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    jobs = {
        "grid": lambda: grid(arguments.samples),
        "gaps": lambda: gaps(arguments.cases),
        "many": lambda: many(arguments.cases),
    }
    if unknown := set(arguments.parts) - set(jobs):
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(jobs)}.")
    result = {part: jobs[part]() for part in arguments.parts or jobs}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"seeds": SEEDS, **result}, indent=1))


if __name__ == "__main__":
    main()
