"""Does a fitted rule pay? Its mean cost at the same promise beside the other rules', on what a real network says.

CIFAR10=FOLDER python tests/benchmarks/fitted.py --network samples/cifar10/resnets.py:resnet \\
    --data tests/benchmarks/cifar10_samples.py:test --outside tests/benchmarks/cifar10_samples.py:held [--splits 200] [--json F]

The samples of --outside fit the scores, with labels and without. Those of --data are taken for the population, from which each
split draws with replacement, chooses and certifies as `calibrate` does: a drop of at most 1 % with 90 % confidence. An exit costs
its multiply-accumulates; 1 is the whole network. `ranks` is the area under the curve by which a score tells right from wrong, at
each exit but the last. `saved` is of the mean cost with max_softmax, and its standard error is over the splits, which draw the
same samples for every rule.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from certify import Population, split_path
from offramp.export.cut.fitted_rule import ExitWeights, read_features, score_features
from offramp.export.variants.fitted_scores import fit_exit


class Said(NamedTuple):
    """What every exit says of samples: logits (N, exits, classes), and labels (N,)."""

    logits: np.ndarray
    y: np.ndarray


def softmax_rules(said: Said) -> dict[str, np.ndarray]:
    z = said.logits.astype(np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    two = np.sort(p, -1)[..., -2:]
    entropy = 1 + (p * np.log(np.maximum(p, 1e-300))).sum(-1) / math.log(p.shape[-1])
    return {"max_softmax": two[..., 1], "margin": two[..., 1] - two[..., 0], "entropy": entropy}


def fitted_rule(fit: Said, judged: Said, *, has_labels: bool) -> np.ndarray:
    """Return the scores that `export.gate` writes into the graph, of the judged samples."""
    label, scores = fit.logits.argmax(-1), []
    for k in range(fit.logits.shape[1] - 1):
        same = label[:, k] == label[:, -1]
        keeps = (label[:, k] == fit.y) | (label[:, -1] != fit.y) if has_labels else same
        features = read_features(fit.logits[:, k], label, k, most_lead=np.inf, is_probability=False)
        weights = ExitWeights(*fit_exit(features, keeps), most_lead=float(features[:, 1].max()))
        ours = read_features(
            judged.logits[:, k], judged.logits.argmax(-1), k, most_lead=weights.most_lead, is_probability=False
        )
        scores.append(score_features(ours, weights))
    return np.stack([*scores, softmax_rules(judged)["max_softmax"][:, -1]], 1)


def area(score: np.ndarray, right: np.ndarray) -> float:
    ranks, many = rankdata(score), int(right.sum())
    return float((ranks[right].sum() - many * (many + 1) / 2) / (many * (len(right) - many)))


def compare(fit: Said, judged: Said, costs: np.ndarray, *, splits: int) -> list[dict[str, Any]]:
    """Draw samples, calibrate by every rule, and judge; print and return the rows."""
    right, label = judged.logits.argmax(-1) == judged.y[:, None], judged.logits.argmax(-1)
    rules = softmax_rules(judged) | {
        "fitted with labels": fitted_rule(fit, judged, has_labels=True),
        "fitted without": fitted_rule(fit, judged, has_labels=False),
    }
    rows = []
    print("    n  rule                broken  mean cost  saved (error)  ranks")
    for n in (1000, 5000):
        drawn = [np.random.default_rng([n, i]).choice(len(label), n) for i in range(splits)]
        found: dict[str, np.ndarray] = {}
        for rule, score in rules.items():
            table = {"label": label, "score": score.astype(np.float32), "correct": right}
            judgements = [split_path(Population(table, table, costs), [each]) for each in drawn]
            found[rule] = np.array(judgements)
            saved = 1 - found[rule][:, 1] / found["max_softmax"][:, 1].mean()
            base = 1 - found["max_softmax"][:, 1] / found["max_softmax"][:, 1].mean()
            ranks = [area(score[:, k], right[:, k]) for k in range(len(costs) - 1)]
            row = {
                "n": n,
                "rule": rule,
                "broken": float(found[rule][:, 0].mean()),
                "cost": float(found[rule][:, 1].mean()),
                "saved": float((saved - base).mean()),
                "error": float((saved - base).std() / math.sqrt(splits)),
                "ranks": ranks,
            }
            rows.append(row)
            print(
                f"{n:5}  {rule:18} {row['broken']:7.3f} {row['cost']:10.4f} {row['saved']:7.2%} {row['error']:7.2%}  "
                + " ".join(f"{rank:.4f}" for rank in ranks),
                flush=True,
            )
    return rows


def record(options: argparse.Namespace) -> tuple[Said, Said, np.ndarray]:
    """Return what the exits say of the samples that fit and of those that judge, and what leaving costs."""
    from offramp.cli.inputs import load_network, load_samples
    from offramp.export import export
    from offramp.runtime import load_uncalibrated

    with tempfile.TemporaryDirectory() as folder:
        example = load_samples(options.data)[0][:3]
        bundle = export(load_network(options.network), example, Path(folder) / "n.offramp")
        said = []
        with load_uncalibrated(bundle, logits=True) as net:
            for source in (options.outside, options.data):
                x, y = load_samples(source, bundle.manifest)
                said.append(Said(net.every_exit(x).logits, np.asarray(y)))
    macs = np.array([exit_.macs for exit_ in bundle.manifest.variants[0].exits], float)
    return said[0], said[1], macs / macs[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--json", type=Path)
    for name in ("network", "data", "outside"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    fit, judged, costs = record(options)
    rows = compare(fit, judged, costs, splits=options.splits)
    if options.json:
        options.json.write_text(json.dumps({"splits": options.splits, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
