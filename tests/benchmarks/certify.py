"""Do promises hold, and what do they cost? Many splits of synthetic tables whose truth is known.

python tests/benchmarks/certify.py [--splits 500] [--json result.json] [PART ...]

splits    a drop of at most 1 % is promised with 90 % confidence, from n = 1,000 and 5,000 labelled samples, scenarios A and B:
          how often the truth breaks the promise, and the mean cost. Paths come from outside data, a fifth of the labelled
          samples, or lead along one shared threshold; beside them Learn-then-Test with Hoeffding-Bentkus bounds on the samples
          lost, and betting on the signed loss, each along a shared threshold; and the best vector without a promise. What
          searches anew in every split gets a fifth of the splits
free      the same without labels: disagreement with the last exit of at most 1 and 2 %
size      the exact test simulated at its worst nuisance: how often a drop of exactly 1 % is certified
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from offramp.calibrate.certify import (
    certify_mean,
    critical_z,
    last_before_failure,
    lay_path,
    noninferiority_z,
    size_of,
)
from offramp.calibrate.search import MARGIN, Limit, Problem, exits_taken, search

sys.path.insert(0, str(Path(__file__).parents[1]))
from exit_tables import UNEVEN, exit_costs, exit_table

EPS, DELTA = 0.01, 0.1

COSTS = exit_costs(5)

SCENARIOS = {"A": None, "B": UNEVEN}

POOL, OUTSIDE = 200_000, 20_000


def lost(table):
    right = table["correct"]
    return right[:, -1:].astype(np.int8) - right.astype(np.int8)


def differs(table):
    return (table["label"] != table["label"][:, -1:]).astype(np.int8)


def choose(score, value, n, eps):
    """Find the cheapest vector that should keep a limit when it is tested on n samples."""
    limit = Limit(value, eps, MARGIN * math.sqrt(len(score) / n))
    return search(Problem(score, COSTS, value, (limit,)))


def follow(score, value, path):
    """Return the loss of each sample at each step of a path, int8 (steps, N), and the mean costs."""
    rows, costs = np.arange(len(score)), []
    losses = np.empty((len(path), len(score)), np.int8)
    for i, thresholds in enumerate(path):
        taken = exits_taken(score, thresholds)
        losses[i], costs_at = value[rows, taken], COSTS[taken].mean()
        costs.append(costs_at)
    return losses, np.array(costs)


def exact(x, n):
    passed = noninferiority_z((x > 0).sum(1), (x < 0).sum(1), n, EPS) <= critical_z(n, EPS, DELTA)
    return last_before_failure(passed.tolist())


def hoeffding_bentkus(x, n):
    """Learn-then-Test (arXiv 2110.01052): the p-value of a mean loss of 0/1 above EPS, at each step until the first failure."""
    mean = (x > 0).mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(mean > 0, mean * np.log(mean / EPS), 0) + (1 - mean) * np.log((1 - mean) / (1 - EPS))
    hoeffding = np.where(mean < EPS, np.exp(-n * part), 1.0)
    bentkus = math.e * special.bdtr(np.ceil(n * mean), n, EPS)
    return last_before_failure((np.minimum(hoeffding, bentkus) <= DELTA).tolist())


def betting(x, n):
    passed = []
    for row in x:
        passed.append(certify_mean(row, EPS, least=-1.0, most=1.0, delta=DELTA))
        if not passed[-1]:
            break
    return last_before_failure(passed)


def judge(found, drop, costs):
    """Return the share of broken promises and the mean cost; without a promise every sample runs to the end."""
    broken = [k is not None and drop[k] > EPS for k in found]
    return float(np.mean(broken)), float(np.mean([1.0 if k is None else costs[k] for k in found]))


def splits(count: int) -> list[dict[str, Any]]:
    rows = []
    print("scenario     n  way                                  broken  (binomial error)  mean cost")
    for name, temperatures in SCENARIOS.items():
        pool = exit_table(POOL, temperatures=temperatures, seed=123)
        outside = exit_table(OUTSIDE, temperatures=temperatures, seed=7)
        shared = np.repeat(np.linspace(0.9999, 0.3, 400)[:, None], 4, 1).astype(np.float32)
        along = follow(pool["score"], lost(pool), shared)
        for n in (1000, 5000):
            led = lay_path(outside["score"], choose(outside["score"], lost(outside), n, EPS))
            outer = follow(pool["score"], lost(pool), led)
            ways: dict[str, tuple[tuple[np.ndarray, np.ndarray], Callable[..., int | None]]] = {
                "exact, path from outside data": (outer, exact),
                "exact, shared threshold": (along, exact),
                "Hoeffding-Bentkus, shared threshold": (along, hoeffding_bentkus),
                "betting, shared threshold": (along, betting),
            }
            rng = np.random.default_rng(n)
            drawn = [rng.choice(POOL, n, replace=False) for _ in range(count)]
            results = {}
            for way, ((losses, costs), test) in ways.items():
                results[way] = count, judge([test(losses[:, i], n) for i in drawn], losses.mean(1), costs)
            few = drawn[: max(1, count // 5)]
            results["exact, path from a fifth of the data"] = len(few), split_path(pool, few)
            results["best vector, no promise"] = len(few), unpromised(pool, few)
            for way, (tried, (broken, cost)) in results.items():
                error = math.sqrt(max(broken * (1 - broken), DELTA * (1 - DELTA)) / tried)
                print(f"{name:8} {n:5}  {way:36} {broken:6.3f}  {error:16.3f}  {cost:9.3f}", flush=True)
                rows.append({"scenario": name, "n": n, "way": way, "broken": broken, "cost": cost, "splits": tried})
    return rows


def split_path(pool, drawn):
    found, value = [], lost(pool)
    for i in drawn:
        first, rest = i[: len(i) // 5], i[len(i) // 5 :]
        thresholds = choose(pool["score"][first], value[first], len(rest), EPS)
        path = lay_path(pool["score"][first], thresholds)
        losses, _ = follow(pool["score"][rest], value[rest], path)
        found.append((k := exact(losses, len(rest)), None if k is None else path[k]))
    return judge_vectors(pool, [vector for _, vector in found])


def unpromised(pool, drawn):
    value = lost(pool)
    vectors = [search(Problem(pool["score"][i], COSTS, value[i], (Limit(value[i], EPS),))) for i in drawn]
    return judge_vectors(pool, vectors)


def judge_vectors(pool, vectors):
    value, rows, broken, costs = lost(pool), np.arange(POOL), [], []
    for vector in vectors:
        taken = exits_taken(pool["score"], vector) if vector is not None else np.full(POOL, 4)
        broken.append(value[rows, taken].mean() > EPS)
        costs.append(COSTS[taken].mean())
    return float(np.mean(broken)), float(np.mean(costs))


def free(count: int) -> list[dict[str, Any]]:
    rows = []
    print("scenario     n  disagreement  broken  mean cost  true drop")
    for name, temperatures in SCENARIOS.items():
        pool = exit_table(POOL, temperatures=temperatures, seed=123)
        outside = exit_table(OUTSIDE, temperatures=temperatures, seed=7)
        for n, most in ((1000, 0.02), (5000, 0.01), (5000, 0.02)):
            path = lay_path(outside["score"], choose(outside["score"], differs(outside), n, most))
            losses, costs = follow(pool["score"], differs(pool), path)
            drops = follow(pool["score"], lost(pool), path)[0].mean(1)
            truth, rng, found = losses.mean(1), np.random.default_rng(n), []
            for _ in range(count):
                seen = losses[:, rng.choice(POOL, n, replace=False)].sum(1)
                found.append(last_before_failure((special.bdtr(seen, n, most) <= DELTA).tolist()))
            broken = float(np.mean([k is not None and truth[k] > most for k in found]))
            cost = float(np.mean([1.0 if k is None else costs[k] for k in found]))
            drop = float(np.mean([0.0 if k is None else drops[k] for k in found]))
            print(f"{name:8} {n:5}  {most:12.0%}  {broken:6.3f}  {cost:9.3f}  {drop:9.2%}", flush=True)
            rows.append({"scenario": name, "n": n, "most": most, "broken": broken, "cost": cost, "drop": drop})
    return rows


def size(count: int) -> list[dict[str, float]]:
    rows, draws = [], 200 * count
    print("    n  worst share won  size computed  simulated  (binomial error)")
    for n in (1000, 5000):
        z, shares = critical_z(n, EPS, DELTA), np.linspace(0, (1 - EPS) / 2, 2001)
        sizes = size_of(z, n, EPS, shares)
        q = float(shares[sizes.argmax()])
        a, b, _ = np.random.default_rng(0).multinomial(n, [q + EPS, q, max(0.0, 1 - 2 * q - EPS)], draws).T
        rate = float((noninferiority_z(a, b, n, EPS) <= z).mean())
        error = math.sqrt(DELTA * (1 - DELTA) / draws)
        print(f"{n:5}  {q:15.4f}  {sizes.max():13.5f}  {rate:9.5f}  {error:16.5f}")
        rows.append({"n": n, "share": q, "computed": float(sizes.max()), "simulated": rate, "draws": draws})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    jobs = {"splits": splits, "free": free, "size": size}
    if unknown := set(arguments.parts) - set(jobs):
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(jobs)}.")
    result = {part: jobs[part](arguments.splits) for part in arguments.parts or jobs}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
