"""Do promises of a mean loss hold, and how often are true ones given? Many calibrations whose truth fresh samples tell.

python tests/benchmarks/promises.py [--bundle build/segmentation/network.offramp] [--calibrations 300] [--samples 2000]
    [--pool 150000] [--fresh 50000] [--json result.json] [PART ...]

broken    what every exit says of canvases of digits is recorded once. Each calibration draws samples from the pool, searches and
          certifies as `calibrate` does, for a limit on the mean loss added, on the mean loss, and on the share of wrong answers
          added, where an answer is wrong if its loss is above that of three in ten: how often fresh canvases break the promise,
          and the mean cost, in multiply-accumulates, where 1 is the whole network. Beside it, along the same candidates, the
          test that bets without recalculating what it still has to win
power     along one path of thresholds: how often each test certifies a candidate whose true loss added is a given part of the
          limit; at 1 it may do so with the chance of error
known     the same on differences of -1, 0 and 1 of known chances: a true drop of 0.4 % where 1 % is promised, and one of 1 %

The pool is parted into samples that no two calibrations share if it is large enough: --pool 600000, which takes half an hour.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from offramp.bundle import Target, open_bundle
from offramp.calibrate.certify.exact_tests import MOST_BET, certify_drop, certify_mean
from offramp.calibrate.certify.paths import lay_candidates
from offramp.calibrate.certify.promises import certify_path
from offramp.calibrate.certify.questions import part_of_chance
from offramp.calibrate.measure.tables import Costs, ExitTable, exits_taken, mean_at, values_at
from offramp.calibrate.requests import LEAST_SELECTING, SELECTING_SHARE
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.objective import limit_values
from offramp.calibrate.search.picks import best_thresholds
from offramp.tests.fakes.configurations import fake_configuration

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "samples"), str(ROOT / "samples" / "quickstart"), str(ROOT / "samples" / "segmentation")]

MOST, CONFIDENCE = 0.02, 0.9

DELTA = (1 - CONFIDENCE) * part_of_chance(1)

PARTS_OF_LIMIT = 0.25, 0.5, 0.75, 1.0

SEEDS = {"canvases": "1000 + the number of each 5,000", "draws": 0, "path": 1, "known": 2}

CHUNK = 5000

KNOWN_LIMIT, KNOWN_DELTA, KNOWN_DROPS = 0.01, 0.1, (0.004, 0.01)

KNOWN = (1000, 0.005), (1000, 0.03), (4000, 0.01), (4000, 0.03)


class Recorded(NamedTuple):
    """What every exit says of samples: losses and scores, float32 (N, exits), and what leaving costs, 1 at the last exit."""

    loss: np.ndarray
    score: np.ndarray
    costs: np.ndarray

    def rows(self, rows: Any) -> "Recorded":
        return self._replace(loss=self.loss[rows], score=self.score[rows])

    def table(self, wrong_above: float | None = None) -> ExitTable:
        """Return the table that `calibrate` makes of losses, or of answers that are wrong if their loss is above a limit."""
        right = 1 - self.loss.astype(np.float64) if wrong_above is None else self.loss <= wrong_above
        return ExitTable(
            score=self.score,
            label=np.full(self.loss.shape, -1),
            right=right,
            reference_right=right[:, -1],
            differs=np.abs(right - right[:, -1:].astype(np.float64)),
            costs=Costs(tuple(np.full(2, cost) for cost in self.costs)),
        )


def plain_bets(values, limit, *, least, most, delta):
    """Bet against a mean without recalculating what is still to be won (Waudby-Smith and Ramdas, 2024, the plug-in bet)."""
    x, m = (np.asarray(values, np.float64) - least) / (most - least), (limit - least) / (most - least)
    past = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (past + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (past + 1)
    bet = np.sqrt(2 * math.log(1 / delta) / (len(x) * np.r_[0.25, variance[:-1]]))
    money = np.cumsum(np.log1p(np.minimum(bet, MOST_BET / (1 - m)) * (m - x)))
    return bool(money.max() >= math.log(1 / delta))


def exact(values, limit, *, least, most, delta):
    return certify_drop(int((values > 0).sum()), int((values < 0).sum()), len(values), eps=limit, delta=delta)


TESTS: dict[str, Callable[..., bool]] = {"exact": exact, "recalculating bets": certify_mean, "plain bets": plain_bets}


def record_chunk(path: str, chunk: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw canvases and return their losses and scores."""
    import canvases
    import torch

    import segmentation
    from offramp.runtime import load_uncalibrated

    torch.set_num_threads(1)
    drawn = canvases.draw("promises", count, 1000 + chunk)
    losses, scores = [], []
    with load_uncalibrated(path) as net:
        for first in range(0, count, 250):
            rows = slice(first, first + 250)
            answers = net.every_exit(drawn.images[rows], size=16)
            losses.append(np.stack([segmentation.miss(parts, drawn.masks[rows]) for parts in answers.answers], 1))
            scores.append(answers.score)
    return np.concatenate(losses).astype(np.float32), np.concatenate(scores)


def record(path: Path, count: int, map_: Callable[..., Any]) -> Recorded:
    macs = np.array([exit_.macs for exit_ in open_bundle(path).manifest.variants[0].exits], float)
    sizes = [min(CHUNK, count - first) for first in range(0, count, CHUNK)]
    parts = []
    for part in map_(record_chunk, [str(path)] * len(sizes), range(len(sizes)), sizes):
        parts.append(part)
        print(f"\rrecorded {sum(len(loss) for loss, _ in parts)} of {count} canvases", end="", flush=True)
    print()
    loss, score = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Recorded(loss, score, macs / macs[-1])


def make_path(recorded: Recorded, target: Target, wrong_above: float | None) -> tuple[ExitTable, np.ndarray]:
    """Search as `calibrate` does; return the samples that test, and the candidates that they test in order."""
    count = len(recorded.loss)
    aside = min(count // 2, max(LEAST_SELECTING, round(SELECTING_SHARE * count)))
    selecting, reporting = (recorded.rows(part).table(wrong_above) for part in (slice(aside), slice(aside, None)))
    configuration = fake_configuration("recorded", selecting.exits)
    chain = Contender(configuration=configuration, static=None, selecting=selecting, reporting=reporting)
    (thresholds,) = best_thresholds([chain], target)
    if thresholds is None:
        return reporting, np.empty((0, selecting.exits - 1), np.float32)
    return reporting, lay_candidates(selecting, thresholds, target, tested=len(reporting))


def follow(table: ExitTable, target: Target, path: np.ndarray, test: Callable[..., bool]) -> int | None:
    """Return the last candidate before the first that a test does not certify; None where that is the first."""
    ((values, most),) = limit_values(table, target).values()
    least, step = (-1.0 if target.max_drop is not None else 0.0), None
    for i, thresholds in enumerate(path):
        seen = values_at(values, exits_taken(table.score, thresholds))
        if not test(seen, most, least=least, most=1.0, delta=DELTA):
            break
        step = i
    return step


def calibrate_once(recorded: Recorded, target: Target, wrong_above: float | None) -> dict[str, np.ndarray | None]:
    """Return the thresholds that are promised, by the way they are tested; None where nothing is."""
    reporting, path = make_path(recorded, target, wrong_above)
    step, _ = certify_path(reporting, target, path, delta=DELTA) if len(path) else (None, "")
    steps = {"as calibrate": step, "plain bets": follow(reporting, target, path, plain_bets)}
    return {way: None if step is None else path[step] for way, step in steps.items()}


def broken(
    pool: Recorded, fresh: Recorded, draws: list[np.ndarray], wrong_above: float, map_: Callable[..., Any]
) -> list[dict[str, Any]]:
    jobs = {
        "mean loss added": (Target(max_drop=MOST), None),
        "mean loss": (Target(max_loss=float(fresh.loss[:, -1].mean()) + MOST), None),
        "share of wrong answers added": (Target(max_drop=MOST), wrong_above),
    }
    rows = []
    print("promised                       most  way           broken  (binomial error)  nothing promised  mean cost")
    for promised, (target, above) in jobs.items():
        truth = fresh.table(above)
        ((values, most),) = limit_values(truth, target).values()
        samples, count = (pool.rows(drawn) for drawn in draws), len(draws)
        found = list(map_(calibrate_once, samples, [target] * count, [above] * count))
        for way in found[0]:
            judged = [judge(each[way], truth, values, fresh.costs) for each in found]
            means, costs = np.array([mean for mean, _ in judged]), [cost for _, cost in judged]
            share = float(np.mean(means > most))
            error = math.sqrt(max(share * (1 - share), DELTA * (1 - DELTA)) / len(draws))
            nothing = float(np.mean([each[way] is None for each in found]))
            row = {"promised": promised, "most": most, "way": way, "broken": share, "error": error}
            rows.append(row | {"nothing": nothing, "cost": float(np.mean(costs))})
            print(
                f"{promised:28} {most:6.2%}  {way:12} {share:7.3f} {error:17.3f} {nothing:17.3f} {rows[-1]['cost']:10.3f}",
                flush=True,
            )
    return rows


def judge(thresholds, truth, values, costs):
    """Return the true mean and the mean cost of what was promised; where nothing was, nothing breaks and all run to the end."""
    if thresholds is None:
        return -1.0, 1.0
    taken = exits_taken(truth.score, thresholds)
    return mean_at(values, taken), float(costs[taken].mean())


def power(pool: Recorded, fresh: Recorded, draws: list[np.ndarray], wrong_above: float) -> list[dict[str, Any]]:
    rows = []
    led = pool.rows(np.random.default_rng(SEEDS["path"]).choice(len(pool.loss), len(draws[0]), replace=False))
    print("promised                      part of the limit  way                 certified")
    for promised, above in (("mean loss added", None), ("share of wrong answers added", wrong_above)):
        target = Target(max_drop=MOST)
        _, path = make_path(led, Target(max_drop=3 * MOST), above)  # further than the limit, so that it is passed
        truth = fresh.table(above)
        means = np.array([mean_at(truth.lost, exits_taken(truth.score, step)) for step in path])
        tables = [pool.rows(rows_[len(rows_) // 5 :]).table(above) for rows_ in draws]
        for part in PARTS_OF_LIMIT:
            step = path[int(np.abs(means - part * MOST).argmin())] if part < 1 else path[int(np.argmax(means >= MOST))]
            true = mean_at(truth.lost, exits_taken(truth.score, step))
            seen = [values_at(table.lost, exits_taken(table.score, step)) for table in tables]
            for way, test in TESTS.items():
                if way == "exact" and above is None:
                    continue
                share = np.mean([test(values, target.max_drop, least=-1.0, most=1.0, delta=DELTA) for values in seen])
                rows.append({"promised": promised, "true": true, "way": way, "certified": float(share)})
                print(f"{promised:28} {true / MOST:18.2f}  {way:18} {share:10.3f}", flush=True)
    return rows


def known(count: int) -> list[dict[str, Any]]:
    rows, rng = [], np.random.default_rng(SEEDS["known"])
    print("    n  share won  true drop  way                 certified")
    for n, won in KNOWN:
        for drop in KNOWN_DROPS:
            chances = [won, 1 - 2 * won - drop, won + drop]
            drawn = [rng.choice([-1.0, 0.0, 1.0], n, p=chances) for _ in range(count)]
            for way, test in TESTS.items():
                share = np.mean([test(x, KNOWN_LIMIT, least=-1.0, most=1.0, delta=KNOWN_DELTA) for x in drawn])
                rows.append({"n": n, "won": won, "drop": drop, "way": way, "certified": float(share)})
                print(f"{n:5} {won:10.1%} {drop:10.1%}  {way:18} {share:10.3f}", flush=True)
    return rows


def draw_samples(pool: int, count: int, samples: int) -> list[np.ndarray]:
    """Return the samples of each calibration: different ones for each if the pool is large enough."""
    rng = np.random.default_rng(SEEDS["draws"])
    if pool >= count * samples:
        return list(rng.permutation(pool)[: count * samples].reshape(count, samples))
    return [rng.choice(pool, samples, replace=False) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--bundle", type=Path, default=ROOT / "build" / "segmentation" / "network.offramp")
    for name, value in (("calibrations", 300), ("samples", 2000), ("pool", 150_000), ("fresh", 50_000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    parts = options.parts or ["broken", "power", "known"]
    if unknown := set(parts) - {"broken", "power", "known"}:
        parser.error(f"There is no part {', '.join(sorted(unknown))}; there are broken, power, known.")
    result: dict[str, Any] = {"seeds": SEEDS, "delta": DELTA}
    if {"broken", "power"} & set(parts):
        if not options.bundle.exists():
            parser.error(f"There is no {options.bundle}: python samples/segmentation/segmentation.py makes it.")
        result |= {name: getattr(options, name) for name in ("calibrations", "samples", "pool", "fresh")}
        draws = draw_samples(options.pool, options.calibrations, options.samples)
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as executor:
            recorded = record(options.bundle, options.pool + options.fresh, executor.map)
            pool, fresh = recorded.rows(slice(options.pool)), recorded.rows(slice(options.pool, None))
            wrong_above = float(np.quantile(fresh.loss[:, -1], 0.7))
            result |= {"whole": float(fresh.loss[:, -1].mean()), "wrong_above": wrong_above}
            if "broken" in parts:
                result["broken"] = broken(pool, fresh, draws, wrong_above, executor.map)
        if "power" in parts:
            result["power"] = power(pool, fresh, draws, wrong_above)
    if "known" in parts:
        result["known"] = known(options.calibrations)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
