"""Do promises of rules for reuse hold? Many draws of clips from populations whose truth is known.

    python tests/benchmarks/reuse.py [--draws 500] [--clips 3000] [--json result.json] [SCENARIO ...]

A small network is run on every sample of a population of clips, and every candidate beside it as `calibrate_reuse` does. A draw
takes some of the clips, with replacement, and finds a rule at 90 % confidence; the truth is the mean over the population.

calm     a scene drifts slowly, with noise
cuts     from time to time it becomes another one
rare     one clip in twenty changes at every sample by as little as the others do in ten, where the answer is uncertain
edge     no network: at each candidate a clip loses much or nothing, and the truth is just above the limit from the first one on,
         so that each rule that is found is a broken promise

For each limit and number of clips: how often the promise was broken, with its binomial error; how often no rule was found; the
mean share of samples that got an old answer, and that of the best candidate by the truth.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from offramp.calibrate.labels import hash_set
from offramp.calibrate.parts import Parts
from offramp.calibrate.reuse_rules import DIFFERENCES, Recorded, certify_rule, record_clips
from offramp.errors import TargetError
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.runtime.chain.samples import Samples
from offramp.tests.zoo.dense import write_onnx

DELTA, FRAMES, FEATURES = 0.1, 24, 16
LIMITS, COUNTS = (0.02, 0.05), (60, 200, 600)
SCENARIOS = ("calm", "cuts", "rare", "edge")
SEEDS = {"population": 0, "draws": 1}


def film(scenario: str, clips: int) -> np.ndarray:
    """Return clips of a scenario, float32 (clips, FRAMES, FEATURES)."""
    rng = np.random.default_rng([SEEDS["population"], SCENARIOS.index(scenario)])
    scene = rng.standard_normal((clips, 1, FEATURES))
    pace = rng.lognormal(-3.5, 0.7, (clips, 1, 1))  # clips are not alike
    if scenario == "rare":
        pace[rng.random(clips) < 0.05] = 0.3
    x = scene + np.cumsum(pace * rng.standard_normal((clips, FRAMES, FEATURES)), axis=1)
    if scenario == "cuts":
        for clip, frame in np.argwhere(rng.random((clips, FRAMES)) < 1 / 20):
            x[clip, frame:] += 1.4 * rng.standard_normal(FEATURES)
    x += 0.02 * rng.standard_normal(x.shape)
    return x.astype(np.float32)


def populate(scenario: str, clips: int, limit: float) -> Recorded:
    """Return what each candidate does to each clip of a population."""
    if scenario == "edge":
        rng = np.random.default_rng(SEEDS["population"])
        losses = np.zeros((clips, len(DIFFERENCES)))
        losses[rng.permutation(clips)[: int(clips * limit / 0.9) + 1]] = 0.9
        return Recorded(losses, np.tile(np.linspace(0.5, 0.9, len(DIFFERENCES)), (clips, 1)))
    x = film(scenario, clips)
    samples = hash_set(Samples((x.reshape(-1, FEATURES),)), None)
    parts = Parts(tuple(map(str, range(clips))), np.repeat(np.arange(clips), FRAMES))
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(write_onnx(Path(folder) / "net.onnx"), None, Path(folder) / "net.offramp")
        with load_uncalibrated(bundle) as net:
            net.thresholds = (0.98, 2.0)
            return record_clips(net, samples, parts, "max_disagreement", 10)


def draw(population: Recorded, limit: float, count: int, draws: int) -> dict[str, float]:
    """Find a rule on each of many draws; return how often it is false, and what it saves."""
    rng = np.random.default_rng([SEEDS["draws"], count])
    truth, shares = population.losses.mean(axis=0), population.shares.mean(axis=0)
    broken, none, saved = 0, 0, 0.0
    for _ in range(draws):
        rows = rng.integers(len(population.losses), size=count)
        try:
            step = certify_rule(
                Recorded(population.losses[rows], population.shares[rows]), "max_disagreement", limit, delta=DELTA
            )
        except TargetError:
            none += 1
            continue
        broken += truth[step] > limit
        saved += float(shares[step])
    share = broken / draws
    best = max((float(s) for t, s in zip(truth, shares, strict=True) if t <= limit), default=0.0)
    return {
        "broken": share,
        "error": (share * (1 - share) / draws) ** 0.5,
        "none": none / draws,
        "reused": saved / max(1, draws - none),
        "best": best,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--clips", type=int, default=3000, help="how many make a population")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    print("scenario  limit  clips   broken  (error)   no rule   reused     best")
    for scenario in options.scenarios or SCENARIOS:
        population = None
        for limit in LIMITS:
            if population is None or scenario == "edge":
                population = populate(scenario, options.clips, limit)
            for count in COUNTS:
                row = draw(population, limit, count, options.draws)
                found[f"{scenario} {limit} {count}"] = row
                print(
                    f"{scenario:8}  {limit:5.0%}  {count:5}  {row['broken']:7.1%}  {row['error']:6.1%}  {row['none']:8.1%}"
                    f"  {row['reused']:7.1%}  {row['best']:7.1%}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps({"draws": options.draws, "clips": options.clips, "result": found}, indent=1))


if __name__ == "__main__":
    main()
