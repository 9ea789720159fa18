"""Promises from samples that come in groups, and promises for each class: the parts `groups` and `by` of certify.py."""

import math
from typing import Any

import numpy as np
from msgspec.structs import replace

from offramp.bundle import Target
from offramp.calibrate.certify.paths import lay_candidates
from offramp.calibrate.certify.promises import certify_path
from offramp.calibrate.intervals import mean_interval
from offramp.calibrate.measure.tables import ExitTable, exits_taken, values_at
from offramp.calibrate.parts import Parts
from offramp.calibrate.search.independence import check_groups, find_independence
from offramp.calibrate.search.objective import find_thresholds
from offramp.calibrate.search.thresholds import MARGIN
from offramp.tests.zoo.exit_tables import UNEVEN, make_table

DELTA = 0.1

KINDS = (-0.25,) * 9 + (0.5,)
"""How much harder the samples of each kind of group are: nine of ten people are easy, and one is not."""

GROUP_SIZES = (40, 80)
"""The least and the most samples of a group."""

FIXED = (0.9, 0.9)
"""The thresholds whose interval must cover the truth."""

SEEDS = {"population": 500, "outside data": 900, "groups": 0, "by": 1}

NEAR = 0.5, 1.4
"""Candidates whose truth is from half the limit to 1.4 of it are tested, and every sixth of the more careful ones."""

BY_STEP = 6
"""Of promises by class every sixth candidate is tested."""

CLASSES = 10
RIVALS = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.1, 0.2)
"""How much harder the samples of each class are."""


def join(tables: list[ExitTable]) -> ExitTable:
    parts = {name: np.concatenate([getattr(each, name) for each in tables]) for name in ("score", "label", "right")}
    others = {name: np.concatenate([getattr(each, name) for each in tables]) for name in ("reference_right", "differs")}
    return replace(tables[0], **parts, **others)


def populate(shifts: tuple[float, ...], each: int, seed: int = SEEDS["population"]) -> ExitTable:
    """Return as many samples of each kind, one kind after the other."""
    return join([make_table(each, 3, seed=seed + k, shift=s, temperatures=UNEVEN[:3]) for k, s in enumerate(shifts)])


def lay_path_outside(outside: ExitTable, target: Target, tested: int) -> np.ndarray:
    """Lay candidates through the best thresholds of other data: some of those that `calibrate` tests, for time."""
    margin = MARGIN * math.sqrt(len(outside) / tested)
    thresholds = find_thresholds(outside, target, margin=margin) or find_thresholds(outside, target, margin=0.0)
    assert thresholds is not None
    return lay_candidates(outside, thresholds, target, tested=tested)


def promise(table: ExitTable, target: Target, path: np.ndarray) -> tuple[int | None, float]:
    """Return the step of a path that samples promise, and what it costs; None and the whole cost if none."""
    step, _ = certify_path(table, target, path, delta=DELTA)
    if step is None:
        return None, 1.0
    return step, table.mean_at(table.costs.latency_s, exits_taken(table.score, path[step].tolist()))


def find_truth(values: np.ndarray, score: np.ndarray, path: np.ndarray, parts: int = 1) -> np.ndarray:
    """Return the mean of values at each step of a path in each of the parts of a population, which follow each other."""
    each = [values_at(values, exits_taken(score, step.tolist())).reshape(parts, -1).mean(axis=1) for step in path]
    return np.array(each)


def groups(count: int, arguments: Any) -> list[dict[str, Any]]:
    each, rng, most = 40_000, np.random.default_rng(SEEDS["groups"]), 0.02
    target = Target(max_disagreement=most)
    population, outside = populate(KINDS, each), populate(KINDS, 2000, seed=SEEDS["outside data"])
    print(f"a disagreement of at most {most:.0%} on other groups, each counting alike, with 90 % confidence")
    print("groups  test                          promised  broken  (binomial error)  interval covers  mean cost")
    rows = []
    for n in (150, 300):
        path = lay_path_outside(outside, target, 60 * n)
        truth = find_truth(population.differs, population.score, path)[:, 0]
        near = (truth > NEAR[0] * most) & (truth < NEAR[1] * most)
        path = path[near | ((np.arange(len(path)) % BY_STEP == 0) & (truth < most))]
        truth = find_truth(population.differs, population.score, np.vstack([path, FIXED]))[:, 0]
        results: dict[str, np.ndarray] = {}
        for run in range(count):
            kind = rng.integers(len(KINDS), size=n)
            group = np.repeat(np.arange(n), rng.integers(GROUP_SIZES[0], GROUP_SIZES[1] + 1, size=n))
            table = population.rows(kind[group] * each + rng.integers(each, size=len(group)))
            hashes = np.arange(len(group), dtype=np.uint64)
            given = check_groups(hashes, rng.permutation(n)[group])
            seen = find_independence(hashes, table.score, table.label[:, -1])
            for way, own in {
                "samples, in random order": table,
                "samples, as they were recorded": replace(table, independent=seen.share),
                "groups": replace(table, independent=given.share, groups=given.groups),
            }.items():
                found, cost = promise(own, target, path)
                outcome = results.setdefault(way, np.zeros((count, 4)))
                outcome[run] = judge(truth, own, found, cost, target)
        for way, outcome in results.items():
            row = summarise(outcome)
            print(
                f"{n:6}  {way:30}  {row['promised']:6.3f}  {row['broken']:6.3f}  {row['error']:16.3f}  {row['covered']:15.3f}"
                f"  {row['cost']:9.3f}",
                flush=True,
            )
            rows.append({"groups": n, "way": way, "runs": count} | row)
    return rows


def judge(
    truth: np.ndarray, table: ExitTable, found: int | None, cost: float, target: Target
) -> tuple[float, float, float, float]:
    """Return whether something is promised, whether it is broken, whether the interval covers the truth, and the cost.

    Kinds are as frequent as each other, and a group is of one, so that the mean of the population is the mean over groups.

    Args:
        truth: the disagreement at each step of the path, and at the fixed thresholds.
        table: of the samples.
        found: the step that is promised.
        cost: at that step.
        target: the target.
    """
    own = values_at(table.differs, exits_taken(table.score, FIXED))
    low, high = mean_interval(own, table.groups, independent=table.independent)
    is_broken = found is not None and truth[found] > (target.max_disagreement or 0.0)
    return found is not None, is_broken, low <= truth[-1] <= high, cost


def summarise(outcome: np.ndarray) -> dict[str, float]:
    promised, broken, covered, cost = outcome.mean(axis=0).tolist()
    error = math.sqrt(max(broken * (1 - broken), DELTA * (1 - DELTA)) / len(outcome))
    return {"promised": promised, "broken": broken, "error": error, "covered": covered, "cost": cost}


def by(count: int, arguments: Any) -> list[dict[str, Any]]:
    each, rng, most = 20_000, np.random.default_rng(SEEDS["by"]), 0.05
    population, outside = populate(RIVALS, each), populate(RIVALS, 1000, seed=SEEDS["outside data"])
    names = tuple(map(str, range(CLASSES)))
    outside = replace(outside, parts={"class": Parts(names, np.repeat(np.arange(CLASSES), 1000))})
    print(f"a drop of at most {most:.0%} in every one of {CLASSES} classes, some of them harder, with 90 % confidence")
    print("     n  promise             promised  broken in some class  (binomial error)  mean cost")
    rows = []
    for n in (2000, 10_000):
        label = np.repeat(np.arange(CLASSES), n // CLASSES)
        for what, target in {
            "over all samples": Target(max_drop=most),
            "by class": Target(max_drop=most, by="class"),
        }.items():
            path, outcome = lay_path_outside(outside, target, n)[::BY_STEP], np.zeros((count, 3))
            is_broken = (find_truth(population.lost, population.score, path, CLASSES) > most).any(axis=1)
            for run in range(count):
                table = population.rows(label * each + rng.integers(each, size=n))
                found, cost = promise(replace(table, parts={"class": Parts(names, label)}), target, path)
                outcome[run] = found is not None, found is not None and is_broken[found], cost
            promised, broken, cost = outcome.mean(axis=0).tolist()
            error = math.sqrt(max(broken * (1 - broken), DELTA * (1 - DELTA)) / count)
            print(f"{n:6}  {what:18}  {promised:8.3f}  {broken:20.3f}  {error:16.3f}  {cost:9.3f}", flush=True)
            rows.append({"n": n, "promise": what, "promised": promised, "broken": broken, "cost": cost, "runs": count})
    return rows
