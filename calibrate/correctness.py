"""How right the networks of a comparison are: by labels, or by the losses of other answers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from ..progress import Progress
from ..runtime import EveryExit, Net, Result
from ..runtime.chain.samples import Samples
from .benchmark import MeasuredLimit
from .intervals import Z95, mean_drop, paired_drop, share_interval
from .judging import DISAGREEMENT, LOSS, Judge, Judging, ReferenceAnswers
from .measure.answers import record_answers
from .truth import Truth

__all__ = ["Correctness", "judge_labels", "judge_losses", "measure_mean"]


class Correctness(Struct, frozen=True):
    """How right networks are.

    Attributes:
        right: by network, of each sample whether its label is right, bool (N,), or 1 less its loss, float64.
        differs: of each sample whether early exit gives another label than the whole network, or the disagreement.
    """

    right: dict[str, np.ndarray]
    differs: np.ndarray

    def drop(self) -> tuple[float, tuple[float, float]]:
        """Return what early exit loses against the whole network, and its 95 % interval."""
        compare = paired_drop if self.right["early"].dtype == bool else mean_drop
        return compare(self.right["early"], self.right["whole"])


def judge_labels(results: Mapping[str, Sequence[Result]], y: np.ndarray) -> Correctness:
    """Compare the labels of networks with the true ones, and early exit's with the whole network's."""
    labels = {name: np.array([result.label for result in each]) for name, each in results.items()}
    return Correctness({name: label == y for name, label in labels.items()}, labels["early"] != labels["whole"])


def judge_losses(
    nets: Mapping[str, Net],
    results: Mapping[str, Sequence[Result]],
    x: Samples,
    y: Truth,
    judging: Judging,
    *,
    progress: Progress,
) -> Correctness:
    """Run networks once more to judge their answers, of which results hold none, at the exits that the results name.

    Args:
        nets: `early`, the chain, and `whole` and others, static networks.
        results: of the same networks.
        x, y: the samples, and what is true of them.
        judging: the functions.
        progress: is told what is recorded.
    """
    judge = Judge(judging, y, ReferenceAnswers(nets["whole"]) if judging.disagreement is not None else None)
    taken = np.array([result.exit for result in results["early"]])
    right, far = {}, {}
    for name, net in nets.items():
        answers = record_answers(net, x, progress=progress, judge=judge)
        columns = taken if name == "early" else np.zeros(len(x), np.int64)
        right[name] = 1 - _take(answers, LOSS, columns)
        if judging.disagreement is not None:
            far[name] = _take(answers, DISAGREEMENT, columns)
    differs = far["early"] if far else np.abs(right["early"] - right["whole"])
    return Correctness(right, differs)


def measure_mean(values: np.ndarray) -> MeasuredLimit:
    """Return a mean and its 95 % interval: Wilson's of a share, else a normal one."""
    mean = float(values.mean())
    if values.dtype == bool:
        return MeasuredLimit(mean, *share_interval(int(values.sum()), len(values)))
    half = Z95 * float(values.std()) / math.sqrt(len(values))
    return MeasuredLimit(mean, mean - half, mean + half)


def _take(answers: EveryExit, name: str, columns: np.ndarray) -> np.ndarray:
    values = np.stack([parts[name] for parts in answers.answers or ()], 1).astype(np.float64)
    return np.asarray(values[np.arange(len(columns)), columns])
