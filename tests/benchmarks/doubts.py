"""What a sceptical statistician doubts in promises, each doubt simulated: many calibrations of populations whose truth is known.

python tests/benchmarks/doubts.py [--runs 200] [--json result.json] [PART ...]

Each run draws samples, splits, searches and certifies as `calibrate` does. A promise may break in 10 % of the runs, for all
points and questions together; intervals of the drop should cover the truth in 95 %.

reported   do the figures look too good, since the samples that report them also chose the step: n = 200, 300 and 2,000
again      asked until it promises: ten seeds, growing data, and the cheapest of ten; where none is deserved, the accuracy that is
           asked for is 0.2 points above the network's
repeats    each sample five times, in any order; neighbours that are nearly the same, in their order and shuffled
training   a half and nine tenths of the samples were learnt by heart: what breaks, and how often a note warns that knows an
           earlier calibration
machine    the machine's speed differs from one measurement to the next by 3, 5 and 10 %: mean latency and lateness
imbalance  99 samples of one class to 1 of another
careful    data from outside that were learnt by heart: the path still begins where nobody leaves
overlap    outside data that are the data in another order, or share some; the error of a measured power
held       what held before: several points and limits, ties, a useless exit, a last exit that is worse than an earlier one, two
           exits, 99.9 % accuracy, few samples
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from msgspec.structs import replace

from offramp.bundle import OperatingPoint, Target
from offramp.calibrate.certify.paths import lay_candidates
from offramp.calibrate.certify.points import make_points
from offramp.calibrate.certify.questions import ask
from offramp.calibrate.earlier import KnownAccuracy, compare_accuracy
from offramp.calibrate.labels import SampleSet
from offramp.calibrate.measure.noise import PARTS, machine_noise
from offramp.calibrate.measure.tables import Costs, ExitTable, exits_taken, mean_at
from offramp.calibrate.requests import LEAST_SELECTING, SELECTING_SHARE, _check_outside
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.independence import find_independence, split
from offramp.calibrate.search.objective import limit_values
from offramp.calibrate.search.picks import make_picks
from offramp.errors import UsageError
from offramp.runtime.chain.samples import Samples
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.zoo.exit_tables import UNEVEN, make_table

CONFIDENCE = 0.9

DROP = {"default": Target(max_drop=0.01)}

POOL, OUTSIDE = 50_000, 20_000

SEEDS = {"population": 123, "outside data": 7, "run": "its number"}

Points = dict[str, OperatingPoint]


def population(exits: int = 3, count: int = POOL, **options: Any) -> ExitTable:
    options = {"temperatures": UNEVEN[:exits], "seed": SEEDS["population"]} | options
    table: ExitTable = make_table(count, exits, **options)
    return table


def calibrate_once(
    samples: ExitTable,
    targets: dict[str, Target],
    *,
    outside: ExitTable | None = None,
    hashes: np.ndarray | None = None,
    seed: int = 0,
    question: int = 1,
) -> Points:
    """Split, search and certify as `calibrate` does; {} where it would say that nothing meets a target."""
    n, exits = len(samples), samples.exits
    hashes = np.arange(n, dtype=np.uint64) if hashes is None else hashes
    independence = find_independence(hashes, samples.score, samples.label[:, -1])
    selecting = 0 if outside else min(n // 2, max(LEAST_SELECTING, round(SELECTING_SHARE * n)))
    rows = split(np.random.default_rng(seed).permutation(n), independence.groups, selecting)
    ours, reporting = (replace(samples.rows(part), independent=independence.share) for part in rows)
    ours = ours if outside is None else replace(outside, costs=samples.costs)
    configuration = fake_configuration("synthetic", exits)
    contenders = [Contender(configuration=configuration, static=None, selecting=ours, reporting=reporting)]
    for k in range(exits):
        tables = [_static(table, k, exits) for table in (ours, reporting)]
        contenders.append(Contender(configuration=configuration, static=k, selecting=tables[0], reporting=tables[1]))
    picks = make_picks(contenders, targets)
    if any(pick.thresholds is None and pick.best_static is None for pick in picks.values()):
        return {}
    return make_points(picks, targets, contenders[1:], confidence=CONFIDENCE, question=question)


def _static(table: ExitTable, k: int, exits: int) -> ExitTable:
    costs, proof = (
        None
        if each is None
        else replace(
            each,
            times_s=(each.times_s[k] * 0.97,),
            power_w=None if each.power_w is None else each.power_w[[k]],
            power_noise=each.power_noise[[k]] if isinstance(each.power_noise, np.ndarray) else each.power_noise,
        )
        for each in (table.costs, table.proof)
    )
    return replace(table.columns([k], costs), proof=proof, is_reference=k == exits - 1)


def taken_by(point: OperatingPoint, truth: ExitTable) -> np.ndarray:
    """Return the exit at which each sample of the population leaves."""
    if point.static is not None:
        return np.full(len(truth), point.static)
    return exits_taken(truth.score, point.thresholds)


def is_broken(point: OperatingPoint, truth: ExitTable) -> bool:
    taken = taken_by(point, truth)
    return any(mean_at(values, taken) > most + 1e-9 for values, most in limit_values(truth, point.target).values())


class Tally:
    """Counts promises of many runs, prints them and returns them as a row."""

    def __init__(self, part: str, case: str, truth: ExitTable) -> None:
        self.part, self.case, self.truth = part, case, truth
        self.runs = self.promised = self.broken = self.noted = 0
        self.biases: list[float] = []
        self.covered: list[bool] = []
        self.costs: list[float] = []

    def add(self, points: Points, *, noted: bool = False, truth: ExitTable | None = None) -> None:
        """Count one run; a promise that is broken in one of its points breaks it."""
        truth = self.truth if truth is None else truth
        promised = [point for point in points.values() if point.certificate is not None]
        self.runs, self.noted = self.runs + 1, self.noted + noted
        self.promised += bool(promised)
        self.broken += any(is_broken(point, truth) for point in promised)
        for point in list(points.values())[:1]:
            self.costs.append(mean_at(truth.costs.latency_s, taken_by(point, truth)))
        for point in promised:
            if point.drop is not None and point.static is None:
                drop = mean_at(truth.lost, taken_by(point, truth))
                self.biases.append(point.drop - drop)
                self.covered.append(point.drop_interval[0] <= drop <= point.drop_interval[1])

    def row(self) -> dict[str, Any]:
        share = self.broken / max(1, self.runs)
        error = math.sqrt(max(share * (1 - share), 0.09) / max(1, self.runs))
        bias, covered = (float(np.mean(each)) if each else math.nan for each in (self.biases, self.covered))
        cost = float(np.mean(self.costs)) if self.costs else math.nan
        print(
            f"{self.part:9}  {self.case:38} {self.runs:5} {self.promised:8} {self.broken:6} {share:7.3f} {error:7.3f} "
            f"{100 * bias:7.3f} {covered:7.3f} {cost:6.3f} {self.noted:6}",
            flush=True,
        )
        figures = {"runs": self.runs, "promised": self.promised, "broken": self.broken, "noted": self.noted}
        return {"part": self.part, "case": self.case, **figures, "bias": bias, "covered": covered, "cost": cost}


HEAD = "part       case                                    runs promised broken   share (error) bias/% covered  cost  noted"


def draws(truth: ExitTable, runs: int, n: int) -> Iterator[tuple[int, ExitTable]]:
    """Give for each run its number and n samples of a population."""
    for run in range(runs):
        yield run, truth.rows(np.random.default_rng(run).choice(len(truth), n, replace=False))


def plain(part: str, case: str, truth: ExitTable, targets: dict[str, Target], runs: int, n: int) -> dict[str, Any]:
    tally = Tally(part, case, truth)
    for run, samples in draws(truth, runs, n):
        tally.add(calibrate_once(samples, targets, seed=run))
    return tally.row()


def reported(runs: int) -> list[dict[str, Any]]:
    truth = population()
    return [
        plain("reported", f"drop of {most:.0%}, n = {n}", truth, {"default": Target(max_drop=most)}, runs, n)
        for most, n in ((0.03, 200), (0.03, 300), (0.02, 300), (0.01, 2000))
    ]


def _question(folder: Path, rows: np.ndarray, seed: int) -> int:
    """Return which question this is, by the ledger of a bundle in a folder."""
    hashes = np.random.default_rng(0).integers(0, 2**63, POOL).astype(np.uint64)[rows]
    request = SimpleNamespace(
        bundle=SimpleNamespace(path=folder),
        reference_variant=SimpleNamespace(digest="0"),
        samples=SimpleNamespace(hashes=hashes, sha256=f"{hash(hashes.tobytes()) & (2**63 - 1):064x}", y=None),
        **{"outside": None, "targets": {}, "placed": (), "seed": seed, "confidence": CONFIDENCE, "least_gain": 0.05},
        **{"threads": 1, "pace": SimpleNamespace(every_s=None), "meter_name": None, "judging": None},
    )
    return ask(request)[0]


def again(runs: int) -> list[dict[str, Any]]:
    truth = population()
    undeserved = {"default": Target(min_accuracy=float(truth.right[:, -1].mean()) + 0.002)}
    seeds, growing, cheapest = (
        Tally("again", case, truth)
        for case in ("ten seeds, none deserved", "growing data, none deserved", "best of ten")
    )
    sizes = range(500, 5001, 500)
    for run in range(runs):
        rows = np.random.default_rng(run).choice(POOL, max(sizes), replace=False)
        few = rows[:2000]
        found: Points = {}
        best: Points = {}
        grown: Points = {}
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            for seed in range(10):
                question = _question(Path(first), few, seed)
                samples = truth.rows(few)
                found = _if_promised(found) or calibrate_once(samples, undeserved, seed=seed, question=question)
                other = calibrate_once(samples, DROP, seed=seed, question=question)
                if _if_promised(other) and (not best or other["default"].latency_s < best["default"].latency_s):
                    best = other
            for n in sizes:
                if _if_promised(grown):
                    break
                question = _question(Path(second), rows[:n], 0)
                grown = calibrate_once(truth.rows(rows[:n]), undeserved, question=question)
        for tally, points in ((seeds, found), (growing, grown), (cheapest, best)):
            tally.add(points)
    return [tally.row() for tally in (seeds, growing, cheapest)]


def _if_promised(points: Points) -> Points:
    return points if any(point.certificate is not None for point in points.values()) else {}


def repeats(runs: int) -> list[dict[str, Any]]:
    truth = population()
    cases = {
        "each five times, in any order": (True, True),
        "five frames nearly the same, in order": (False, False),
        "five frames nearly the same, shuffled": (False, True),
    }
    rows = []
    for case, (are_copies, is_shuffled) in cases.items():
        tally = Tally("repeats", case, truth)
        for run, samples in draws(truth, runs, 400):
            rng = np.random.default_rng(run)
            five = np.repeat(np.arange(400), 5)
            five = rng.permutation(five) if is_shuffled else five
            hashes = five.astype(np.uint64) if are_copies else np.arange(2000, dtype=np.uint64)
            drawn = samples.rows(five)
            if not are_copies:
                noise = rng.normal(0, 1e-4, drawn.score.shape).astype(np.float32)
                drawn = replace(drawn, score=np.clip(drawn.score + noise, 0, 1))
            noted = bool(find_independence(hashes, drawn.score, drawn.label[:, -1]).notes)
            tally.add(calibrate_once(drawn, DROP, hashes=hashes, seed=run), noted=noted)
        rows.append(tally.row())
    return rows


def by_heart(table: ExitTable, rows: np.ndarray) -> ExitTable:
    """Return a table in which all exits are right, and sure, on some samples, as on those that trained the network."""
    right, score, label = table.right.copy(), table.score.copy(), table.label.copy()
    right[rows], label[rows] = True, label[rows, -1:]
    score[rows] = 1 - (1 - score[rows]) / 5
    differs = (label != label[:, -1:]).astype(np.int8)
    return replace(table, right=right, reference_right=right[:, -1], score=score, label=label, differs=differs)


def training(runs: int) -> list[dict[str, Any]]:
    truth, rows = population(), []
    known = KnownAccuracy("default.json", float(truth.right[:2000, -1].mean()), 2000)
    for share in (0.5, 0.9):
        tally = Tally("training", f"{share:.0%} of the samples trained it", truth)
        for run, samples in draws(truth, runs, 2000):
            drawn = by_heart(samples, np.arange(int(share * 2000)))
            drawn = drawn.rows(np.random.default_rng(run).permutation(2000))
            notes = compare_accuracy(drawn.right[:, -1], known, chance=0.1)
            tally.add(calibrate_once(drawn, DROP, seed=run), noted=any("trained on" in note for note in notes))
        rows.append(tally.row())
    return rows


def machine(runs: int) -> list[dict[str, Any]]:
    truth, rows = population(), []
    mean, many = truth.costs.latency_s, np.random.default_rng(0).gamma(100, 0.01, 20_000)
    truth = replace(truth, costs=Costs(tuple(cost * many for cost in mean)))
    targets = {
        "mean latency": Target(goal="accuracy", max_latency_s=0.6),
        "lateness": Target(goal="accuracy", deadline_s=0.9, max_late=0.2),
        "drop and mean latency": Target(max_drop=0.02, max_latency_s=0.8),
    }
    for spread in (0.10, 0.05, 0.03):
        for name, target in targets.items():
            tally = Tally("machine", f"{name}, speed differs by {spread:.0%}", truth)
            for run, samples in draws(truth, runs, 2000):
                rng = np.random.default_rng(run)
                sessions, measured = [], []
                for speed in np.exp(rng.normal(-(spread**2) / 2, spread, 3)):  # beside it, again, and for the proof
                    times = tuple(speed * cost * rng.gamma(100, 0.01, 200) for cost in mean)
                    sessions.append(speed * rng.normal(1, 0.003, PARTS))
                    measured.append(Costs(times, machine_noise=machine_noise(times, sessions)))
                drawn = replace(samples, costs=measured[1], proof=measured[2])
                tally.add(calibrate_once(drawn, {"default": target}, seed=run))
            rows.append(tally.row())
    return rows


def imbalance(runs: int) -> list[dict[str, Any]]:
    every = population(count=2 * POOL, classes=2)
    is_second = np.where(every.right[:, 0], every.label[:, 0], 1 - every.label[:, 0]) == 1
    second = np.flatnonzero(is_second)
    truth = every.rows(np.r_[np.flatnonzero(~is_second)[: 98 * POOL // 100], second[: 98 * POOL // 9900]])
    return [plain("imbalance", f"99:1, n = {n}", truth, DROP, runs, n) for n in (500, 2000)]


def careful(runs: int) -> list[dict[str, Any]]:
    truth = population()
    outside = by_heart(population(count=OUTSIDE, seed=SEEDS["outside data"]), np.arange(OUTSIDE))
    tally, early = Tally("careful", "outside data learnt by heart", truth), 0
    for run, samples in draws(truth, runs, 2000):
        points = calibrate_once(samples, DROP, outside=outside, seed=run)
        tally.add(points)
        early += any(point.exits_early and point.certificate is not None for point in points.values())
    path = lay_candidates(outside, (0.5,) * (outside.exits - 1), DROP["default"], tested=2000)
    first = float((outside.score[:, :-1] >= path[0]).any(1).mean())
    print(f"{'':11}early exit promised in {early} of {runs}; at the first candidate {first:.1%} leave early")
    return [tally.row() | {"early": early, "first": first}]


def overlap(runs: int) -> list[dict[str, Any]]:
    hashes = np.random.default_rng(0).integers(0, 2**63, 3000).astype(np.uint64)
    arrays = np.zeros((3000, 1), np.float32)

    def chosen(rows: np.ndarray) -> SampleSet:
        return SampleSet(Samples((arrays[rows],)), np.zeros(len(rows), np.int64), hashes[rows], str(rows[:1]))

    data = chosen(np.arange(2000))
    try:
        _check_outside(data, chosen(np.arange(2000)[::-1]), DROP, 10)
        said = "NOT SEEN"
    except UsageError:
        said = "refused"
    left, notes = _check_outside(data, chosen(np.arange(1500, 3000)), DROP, 10)
    print(f"{'':11}data in another order: {said}; a third in data too: {len(left)} of 1500 are left, {len(notes)} note")
    truth, rows = population(), []
    power = np.linspace(2.0, 3.0, truth.exits)
    truth = replace(truth, costs=replace(truth.costs, power_w=power))
    for noise in (0.01, 0.05):
        tally = Tally("overlap", f"mean energy, power off by {noise:.0%}", truth)
        for run, samples in draws(truth, runs, 2000):
            rng = np.random.default_rng(run)
            rounds = power * (1 + noise * math.sqrt(8) * rng.standard_normal((8, truth.exits)))
            times = tuple(cost * rng.gamma(100, 0.01, 200) for cost in truth.costs.latency_s)
            own = rounds.std(0, ddof=1) / math.sqrt(8) / rounds.mean(0)
            costs = Costs(times, power_w=rounds.mean(0), power_noise=own)
            target = Target(goal="accuracy", max_energy_j=1.6)
            tally.add(calibrate_once(replace(samples, costs=costs, proof=costs), {"default": target}, seed=run))
        rows.append(tally.row() | {"same": said, "left": len(left)})
    return rows


def held(runs: int) -> list[dict[str, Any]]:
    truth = population()
    accuracy = float(truth.right[:, -1].mean())
    three = {name: Target(max_drop=most) for name, most in (("a", 0.01), ("b", 0.005), ("c", 0.02))}
    mixed = {
        "a": Target(max_drop=0.01),
        "b": Target(min_accuracy=accuracy - 0.02),
        "c": Target(max_disagreement=0.05),
    }
    several = {"default": Target(max_drop=0.015, max_disagreement=0.05, min_accuracy=accuracy - 0.02)}
    coarse = replace(truth, score=np.round(truth.score, 1))
    noise = np.random.default_rng(1)
    useless = truth.score.copy()
    useless[:, 0] = noise.random(len(truth))
    worse = truth.right.copy()
    flipped = noise.random(len(truth)) < 0.05  # the last exit spoils some answers that the one before had right
    worse[:, -1] &= ~flipped
    label = truth.label.copy()
    label[flipped, -1] = (label[flipped, -1] + 1) % 10
    differs = (label != label[:, -1:]).astype(np.int8)
    spoilt = replace(truth, right=worse, reference_right=worse[:, -1], label=label, differs=differs)
    cases: dict[str, tuple[ExitTable, dict[str, Target], int]] = {
        "min_accuracy": (truth, {"default": Target(min_accuracy=accuracy - 0.01)}, 2000),
        "disagreement": (truth, {"default": Target(max_disagreement=0.03)}, 2000),
        "several limits": (truth, several, 2000),
        "three points, any broken": (truth, three, 2000),
        "three points, mixed limits": (truth, mixed, 2000),
        "ties": (coarse, DROP, 2000),
        "a useless first exit": (replace(truth, score=useless), DROP, 2000),
        "an earlier exit is better": (spoilt, DROP, 2000),
        "two exits": (population(exits=2), DROP, 2000),
        "five exits": (population(exits=5), DROP, 2000),
        "99.9 % accuracy": (population(hard=0.25), {"default": Target(max_drop=0.005)}, 2000),
        "n = 200, drop of 2 %": (truth, {"default": Target(max_drop=0.02)}, 200),
    }
    return [plain("held", case, table, targets, runs, n) for case, (table, targets, n) in cases.items()]


JOBS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    part.__name__: part for part in (reported, again, repeats, training, machine, imbalance, careful, overlap, held)
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(JOBS):
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(JOBS)}.")
    print(HEAD, flush=True)
    rows = [row for name in options.parts or JOBS for row in JOBS[name](options.runs)]
    if options.json:
        options.json.write_text(json.dumps({"seeds": SEEDS, "confidence": CONFIDENCE, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
