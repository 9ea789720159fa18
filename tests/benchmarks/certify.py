"""Do promises hold, and what do they cost? Many splits of synthetic tables whose truth is known.

python tests/benchmarks/certify.py [--splits 500] [--json result.json] [PART ...]

splits    a drop of at most 1 % is promised with 90 % confidence, from n = 1,000 and 5,000 labelled samples, scenarios A and B:
          how often the truth breaks the promise, and the mean cost. Paths come from labelled or unlabelled outside data, or from
          some of the samples as `calibrate` splits them, or lead along one shared threshold; beside them, each along a shared
          threshold, Learn-then-Test with Hoeffding-Bentkus bounds on the samples lost, the same by MAPIE where that is installed
          (pip install mapie==1.6.0 scikit-learn) with its default correction, and betting on the signed loss; and the best
          vector without a promise, which gets a fifth of the splits
recorded  the same on what a real network says, with --network, --data and --outside as for `offramp export` and `calibrate`: the
          samples of --data are taken for the population, from which each split draws with replacement; an exit costs its
          multiply-accumulates. Left out where no network is given
asked     labels of all samples against those of samples on which exits differ from the last one, as `calibrate --ask` asks for
          them, and against the most useful half and quarter of these; of a network instead where one is given
free      the same without labels: disagreement with the last exit of at most 1 and 2 %
size      the exact test simulated at its worst nuisance: how often a drop of exactly 1 % is certified
"""

import argparse
import functools
import importlib.util
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from scipy import special

from offramp.bundle import Target
from offramp.calibrate.certify.exact_tests import certify_mean, critical_z, size_of
from offramp.calibrate.certify.paths import lay_candidates, lay_path
from offramp.calibrate.certify.promises import certify_path
from offramp.calibrate.disputes import rank_disputed
from offramp.calibrate.intervals import noninferiority_z
from offramp.calibrate.measure.configurations import Answers
from offramp.calibrate.measure.tables import Costs, ExitTable, exits_taken
from offramp.calibrate.requests import LEAST_SELECTING, SELECTING_SHARE
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.picks import best_thresholds
from offramp.calibrate.search.thresholds import MARGIN, Limit, Problem, solve
from offramp.runtime import EveryExit
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.zoo.exit_tables import UNEVEN, exit_costs, exit_table

EPS, DELTA = 0.01, 0.1

COSTS = exit_costs(5)

SEEDS = {"population": 123, "outside data": 7, "splits": "the number of samples", "size": 0}

SCENARIOS = {"A": None, "B": UNEVEN}

POOL, OUTSIDE = 200_000, 20_000

HEAD = "scenario     n  way                                         broken  (binomial error)  mean cost"


def lost(table):
    right = table["correct"]
    return right[:, -1:].astype(np.int8) - right.astype(np.int8)


def differs(table):
    return (table["label"] != table["label"][:, -1:]).astype(np.int8)


def choose(score, value, costs, n, eps):
    """Find the cheapest vector that should keep a limit when it is tested on n samples."""
    limit = Limit(value, eps, MARGIN * math.sqrt(len(score) / n))
    return solve(Problem(score, costs, value, (limit,)))


def follow(score, value, costs, path):
    """Return the loss of each sample at each step of a path, int8 (steps, N), and the mean costs."""
    rows, means = np.arange(len(score)), []
    losses = np.empty((len(path), len(score)), np.int8)
    for i, thresholds in enumerate(path):
        taken = exits_taken(score, thresholds)
        losses[i] = value[rows, taken]
        means.append(costs[taken].mean())
    return losses, np.array(means)


def last_before_failure(passed):
    """Return the index of the last candidate before the first that fails; None where the first fails."""
    first = next((i for i, ok in enumerate(passed) if not ok), len(passed))
    return first - 1 if first else None


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


def mapie(x, n):
    from mapie.risk_control import control_fwer
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

    p = compute_hoeffding_bentkus_p_value((x > 0).mean(1), n, EPS, binary=True)[:, 0]
    valid = control_fwer(p, DELTA)
    return int(valid.max()) if len(valid) else None


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


class Population(NamedTuple):
    """Samples taken for the truth, samples from outside, and what leaving at each exit costs, of the whole."""

    pool: dict[str, np.ndarray]
    outside: dict[str, np.ndarray]
    costs: np.ndarray


def splits(count: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    print(HEAD)
    for name, temperatures in SCENARIOS.items():
        pool = exit_table(POOL, temperatures=temperatures, seed=SEEDS["population"])
        outside = exit_table(OUTSIDE, temperatures=temperatures, seed=SEEDS["outside data"])
        for n in (1000, 5000):
            rows += compare(name, Population(pool, outside, COSTS), n, count)
    return rows


@functools.lru_cache(maxsize=1)
def record(network: str, *sources: str) -> Population:
    """Record what a network says of the samples of data and of outside; the first are taken for the population."""
    from offramp.cli.inputs import load_network, load_samples
    from offramp.export import export
    from offramp.runtime import load_uncalibrated

    tables = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(load_network(network), load_samples(sources[0])[0][:3], Path(folder) / "n.offramp")
        net = load_uncalibrated(bundle)
        for source in sources:
            x, y = load_samples(source, bundle.manifest)
            answers = net.every_exit(x)
            tables.append({"label": answers.label, "score": answers.score, "correct": answers.label == y[:, None]})
    macs = np.array([exit_.macs for exit_ in bundle.manifest.variants[0].exits], float)
    right = ", ".join(f"{share:.1%}" for share in tables[0]["correct"].mean(0))
    print(f"{network}: exits are right on {right}; they cost {np.round(macs / macs[-1], 3).tolist()}")
    return Population(tables[0], tables[1], macs / macs[-1])


def recorded(count: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    if arguments.network is None:
        return []
    everything = record(arguments.network, arguments.data, arguments.outside)
    print(HEAD)
    return [row for n in (1000, 5000) for row in compare("recorded", everything, n, count)]


def compare(name: str, truth: Population, n: int, count: int) -> list[dict[str, Any]]:
    """Draw samples from a population and promise from them, in every way; print and return the rows."""
    pool, outside, costs = truth
    size, exits = pool["score"].shape
    value, rng = lost(pool), np.random.default_rng(n)
    shared = np.repeat(np.linspace(0.9999, 0.3, 400)[:, None], exits - 1, 1).astype(np.float32)
    along = follow(pool["score"], value, costs, shared)
    ways: dict[str, tuple[tuple[np.ndarray, np.ndarray], Callable[..., int | None]]] = {}
    for what, led_by in (("outside data", lost(outside)), ("unlabelled outside data", differs(outside))):
        led = lay_path(outside["score"], choose(outside["score"], led_by, costs, n, EPS))
        ways[f"exact, path from {what}"] = follow(pool["score"], value, costs, led), exact
    ways["exact, shared threshold"] = along, exact
    ways["Hoeffding-Bentkus, shared threshold"] = along, hoeffding_bentkus
    if importlib.util.find_spec("mapie"):
        ways["Learn-then-Test of MAPIE, shared threshold"] = along, mapie
    ways["betting, shared threshold"] = along, betting
    drawn = [rng.choice(size, n, replace=n >= size / 2 or size < POOL) for _ in range(count)]
    results = {}
    for way, ((losses, means), test) in ways.items():
        results[way] = count, judge([test(losses[:, i], n) for i in drawn], losses.mean(1), means)
    results["exact, path as calibrate splits"] = count, split_path(truth, drawn)
    few = drawn[: max(1, count // 5)]
    results["best vector, no promise"] = len(few), unpromised(truth, few)
    rows = []
    for way, (tried, (broken, cost)) in results.items():
        error = math.sqrt(max(broken * (1 - broken), DELTA * (1 - DELTA)) / tried)
        print(f"{name:8} {n:5}  {way:43} {broken:6.3f}  {error:16.3f}  {cost:9.3f}", flush=True)
        rows.append({"scenario": name, "n": n, "way": way, "broken": broken, "cost": cost, "splits": tried})
    return rows


def split_path(truth, drawn):
    pool, _, costs = truth
    return judge_vectors(truth, [choose_and_certify(draw_table(pool, costs, i)) for i in drawn])


def draw_table(pool, costs, i):
    """Return the table of some samples."""
    everything = ExitTable(
        score=pool["score"],
        label=pool["label"],
        right=pool["correct"],
        reference_right=pool["correct"][:, -1],
        differs=differs(pool),
        costs=Costs(tuple(np.full(2, cost) for cost in costs)),
    )
    return everything.rows(i)


def choose_and_certify(table):
    """Choose and certify as `calibrate` does."""
    target, configuration = Target(max_drop=EPS), fake_configuration("synthetic", table.exits)
    aside = min(len(table) // 2, max(LEAST_SELECTING, round(SELECTING_SHARE * len(table))))
    selecting, reporting = table.rows(slice(aside)), table.rows(slice(aside, None))
    chain = Contender(configuration=configuration, static=None, selecting=selecting, reporting=reporting)
    (thresholds,) = best_thresholds([chain], target)
    path = lay_candidates(selecting, thresholds, target, tested=len(reporting))
    step, _ = certify_path(reporting, target, path, delta=DELTA)
    return None if step is None else path[step]


def asked(count: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Certify from the same draws by all labels and by fewer."""
    if arguments.network is not None:
        pools = {"recorded": record(arguments.network, arguments.data, arguments.outside)}
    else:
        pools = {
            name: Population(exit_table(POOL, temperatures=each, seed=SEEDS["population"]), {}, COSTS)
            for name, each in SCENARIOS.items()
        }
    rows = []
    print("scenario     n  labels                  of all  same certificate  broken  mean cost")
    for name, truth in pools.items():
        for n in (1000, 5000):
            rng, size = np.random.default_rng(n), len(truth.pool["score"])
            drawn = [rng.choice(size, n, replace=size < POOL) for _ in range(count)]
            rows += compare_asked(name, truth, n, drawn)
    return rows


def compare_asked(name, truth, n, drawn):
    pool, _, costs = truth
    found: dict[str, list[Any]] = {}
    shares: dict[str, list[float]] = {}
    for i in drawn:
        table = draw_table(pool, costs, i)
        answers = EveryExit(table.label, table.score)
        least = rank_disputed([Answers(answers, ())], EveryExit(table.label[:, -1:], table.score[:, -1:]))
        order = np.argsort(least, kind="stable")[: int(np.isfinite(least).sum())]
        for ways, part in (("all", None), ("asked for", 1), ("the first half", 2), ("the first quarter", 4)):
            known = np.full(n, part is None)
            known[order[: len(order) // (part or 1)]] = True
            settled = np.where(known[:, None], table.right, table.label == table.label[:, -1:])
            few = replace(table, right=settled, reference_right=settled[:, -1])
            found.setdefault(ways, []).append(choose_and_certify(few))
            shares.setdefault(ways, []).append(float(known.mean()))
    rows = []
    for way, vectors in found.items():
        same = np.mean([np.array_equal(*pair) for pair in zip(vectors, found["all"], strict=True)])
        broken, cost = judge_vectors(truth, vectors)
        row = {"labels": way, "share": float(np.mean(shares[way])), "same": float(same), "broken": broken, "cost": cost}
        print(f"{name:8} {n:5}  {way:20} {row['share']:9.1%}  {same:16.1%}  {broken:6.3f}  {cost:9.3f}", flush=True)
        rows.append({"scenario": name, "n": n, **row, "splits": len(drawn)})
    return rows


def unpromised(truth, drawn):
    pool, _, costs = truth
    value = lost(pool)
    vectors = [solve(Problem(pool["score"][i], costs, value[i], (Limit(value[i], EPS),))) for i in drawn]
    return judge_vectors(truth, vectors)


def judge_vectors(truth, vectors):
    pool, _, costs = truth
    value, broken, means = lost(pool), [], []
    size, exits = pool["score"].shape
    for vector in vectors:
        taken = exits_taken(pool["score"], vector) if vector is not None else np.full(size, exits - 1)
        broken.append(value[np.arange(size), taken].mean() > EPS)
        means.append(costs[taken].mean())
    return float(np.mean(broken)), float(np.mean(means))


def free(count: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    print("scenario     n  disagreement  broken  mean cost  true drop")
    for name, temperatures in SCENARIOS.items():
        pool = exit_table(POOL, temperatures=temperatures, seed=SEEDS["population"])
        outside = exit_table(OUTSIDE, temperatures=temperatures, seed=SEEDS["outside data"])
        for n, most in ((1000, 0.02), (5000, 0.01), (5000, 0.02)):
            path = lay_path(outside["score"], choose(outside["score"], differs(outside), COSTS, n, most))
            losses, costs = follow(pool["score"], differs(pool), COSTS, path)
            drops = follow(pool["score"], lost(pool), COSTS, path)[0].mean(1)
            truth, rng, found = losses.mean(1), np.random.default_rng(n), []
            for _ in range(count):
                seen = losses[:, rng.choice(POOL, n, replace=False)].sum(1)
                found.append(last_before_failure((special.bdtr(seen, n, most) <= DELTA).tolist()))
            broken = float(np.mean([k is not None and truth[k] > most for k in found]))
            cost = float(np.mean([1.0 if k is None else costs[k] for k in found]))
            drop = float(np.mean([0.0 if k is None else drops[k] for k in found]))
            print(f"{name:8} {n:5}  {most:12.0%}  {broken:6.3f}  {cost:9.3f}  {drop:9.2%}", flush=True)
            row = {"scenario": name, "n": n, "most": most, "broken": broken, "cost": cost, "drop": drop}
            rows.append(row | {"splits": count})
    return rows


def size(count: int, arguments: argparse.Namespace) -> list[dict[str, float]]:
    rows, draws = [], 200 * count
    print("    n  worst share won  size computed  simulated  (binomial error)")
    for n in (1000, 5000):
        z, shares = critical_z(n, EPS, DELTA), np.linspace(0, (1 - EPS) / 2, 2001)
        sizes = size_of(z, n, EPS, shares)
        q = float(shares[sizes.argmax()])
        a, b, _ = np.random.default_rng(SEEDS["size"]).multinomial(n, [q + EPS, q, max(0.0, 1 - 2 * q - EPS)], draws).T
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
    for name in ("network", "data", "outside"):
        parser.add_argument(f"--{name}")
    arguments = parser.parse_args()
    jobs = {"splits": splits, "recorded": recorded, "asked": asked, "free": free, "size": size}
    if unknown := set(arguments.parts) - set(jobs):
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(jobs)}.")
    if "recorded" in arguments.parts and None in (arguments.network, arguments.data, arguments.outside):
        parser.error("recorded takes --network, --data and --outside.")
    result = {part: jobs[part](arguments.splits, arguments) for part in arguments.parts or jobs}
    if arguments.json:
        fixed = {"seeds": SEEDS, "max_drop": EPS, "delta": DELTA}
        Path(arguments.json).write_text(json.dumps({**fixed, **result}, indent=1))


if __name__ == "__main__":
    main()
