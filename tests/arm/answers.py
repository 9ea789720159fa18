"""What the bundles of a folder answer on one device, at every exit and with thresholds; answers of two machines are compared.

    python tests/arm/answers.py FOLDER DEVICE OUT [REFERENCE]

Beside each bundle NAME.offramp lies NAME.npz with its inputs, in order. OUT and REFERENCE are files of answers.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np

from offramp.bundle import open_bundle
from offramp.errors import OfframpError
from offramp.runtime import load_uncalibrated

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 2e-2}
"""How far scores may be apart, by the precision of the variant. A Cortex-A76 computes fp16 in half precision, which x86-64 does
not; in int8 a value that lies between two steps may be rounded to either. In fp32 engines differ by less than 3e-5."""


class Answers(msgspec.Struct):
    """What a variant answers on a device.

    Attributes:
        problem: why it does not run there; else empty, and the rest is filled.
        labels, scores: of each sample, at each exit.
        leads: how much likelier the label is than any other class; of a reference only.
        thresholds: half of the samples that came so far leave at each exit.
        exits, taken: where each sample leaves with them, and its label there.
    """

    variant: str
    precision: str
    problem: str = ""
    labels: list[list[int]] = []
    scores: list[list[float]] = []
    leads: list[list[float]] = []
    thresholds: list[float] = []
    exits: list[int] = []
    taken: list[int] = []


def record(folder, device, reference):
    """Return the answers of every variant in the folder, by `bundle variant`; thresholds are those of the reference, if any."""
    found = {}
    for path in sorted(folder.glob("*.offramp")):
        with np.load(path.with_suffix(".npz")) as file:
            inputs = tuple(file[name] for name in file.files)
        bundle = open_bundle(path)
        for variant in bundle.manifest.variants:
            key = f"{path.stem} {variant.name}"
            answers = Answers(
                variant.name, variant.precision, thresholds=reference[key].thresholds if reference else []
            )
            try:
                _fill(answers, bundle, device, inputs)
            except OfframpError as error:
                answers.problem = str(error)
            found[key] = answers
    return found


def _fill(answers, bundle, device, inputs):
    x = inputs if len(inputs) > 1 else inputs[0]
    if not answers.thresholds:
        with load_uncalibrated(bundle, device, variant=answers.variant, logits=True) as net:
            logits = net.every_exit(x).logits
        likely = np.exp(logits - logits.max(-1, keepdims=True))
        second, first = np.sort(likely / likely.sum(-1, keepdims=True))[..., -2:].transpose(2, 0, 1)
        answers.leads = (first - second).tolist()
    with load_uncalibrated(bundle, device, variant=answers.variant) as net:
        every = net.every_exit(x)
        net.thresholds = answers.thresholds or _split_at_each_exit(every.score)
        left = net.batch(x)
        answers.thresholds = list(net.thresholds)
    answers.labels, answers.scores = every.label.tolist(), every.score.tolist()
    answers.exits, answers.taken = left.exit.tolist(), left.label.tolist()


def _split_at_each_exit(scores):
    """Thresholds at which half of the samples that reach an exit leave there, in the middle between two scores."""
    thresholds, here = [], np.ones(len(scores), bool)
    for score in scores.T[:-1]:
        thresholds.append(float(np.median(score[here])))
        here &= score < thresholds[-1]
    return thresholds


def compare(reference, found):
    """Return the largest difference of a score, and sentences that say what differs more than rounding may."""
    tolerance, wrong = TOLERANCES[found.precision], []
    scores, others = np.array(reference.scores), np.array(found.scores)
    apart = float(np.abs(scores - others).max())
    if not apart <= tolerance:
        wrong.append(f"a score differs by {apart:.2g}")
    clear = np.array(reference.leads) > tolerance
    if count := int((clear & (np.array(reference.labels) != found.labels)).sum()):
        wrong.append(f"{count} of {clear.size} labels differ")
    near = np.abs(scores[:, :-1] - reference.thresholds) <= tolerance
    settled = ~np.logical_or.accumulate(near, axis=1)[
        np.arange(len(near)), np.minimum(reference.exits, near.shape[1] - 1)
    ]
    if count := int((settled & (np.array(reference.exits) != found.exits)).sum()):
        wrong.append(f"{count} of {len(settled)} samples leave at another exit")
    same = settled & clear[np.arange(len(clear)), reference.exits]
    if count := int((same & (np.array(reference.taken) != found.taken)).sum()):
        wrong.append(f"{count} of {len(settled)} samples leave with another label")
    return apart, wrong


def read(path):
    return msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Answers])


if __name__ == "__main__":
    _, folder, device, out, *reference = sys.argv
    Path(out).write_bytes(msgspec.json.encode(record(Path(folder), device, read(reference[0]) if reference else {})))
