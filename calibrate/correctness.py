"""How right the networks of a comparison are: by labels, or by the losses of other answers."""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from ..bundle.findings import WorstPart
from ..progress import Progress
from ..runtime import EveryExit, Net, Result
from ..runtime.chain.samples import Samples
from .benchmark import MeasuredLimit
from .dataset_metric import KeptAnswers, Metric, compute_metric
from .intervals import mean_interval, share_interval
from .judging import DISAGREEMENT, LOSS, Judge, Judging, ReferenceAnswers
from .measure.answers import record_answers
from .parts import Parts, group_means
from .search.worst_parts import rank_parts
from .truth import Truth

__all__ = ["Correctness", "judge_labels", "judge_losses", "measure_mean"]

NETWORKS = {"early": "early exit", "whole": "the whole static network", "single": "the best static network"}
"""The networks of a comparison by name, as messages call them."""


class Correctness(Struct, frozen=True):
    """How right networks are.

    Attributes:
        right: by network, of each sample whether its label is right, bool (N,), or 1 less its loss, float64.
        differs: of each sample whether early exit gives another label than the whole network, or the disagreement.
        metrics: the user's metric by network; empty without one.
        groups: the number of each sample's group, int64 (N,): means are over groups. None if each is one of its own.
    """

    right: dict[str, np.ndarray]
    differs: np.ndarray
    metrics: dict[str, float]
    groups: np.ndarray | None = None

    @property
    def lost(self) -> np.ndarray:
        """What early exit loses on each sample against the whole network: int8 of -1, 0 and 1, or float64."""
        return self.lost_by("early")

    def lost_by(self, name: str) -> np.ndarray:
        """What a network loses on each sample against the whole network, as `lost`."""
        own, whole = self.right[name], self.right["whole"]
        return whole.astype(np.int8) - own.astype(np.int8) if own.dtype == bool else whole - own

    @property
    def group_count(self) -> int | None:
        """How many groups there are; None without groups."""
        return None if self.groups is None else len(np.unique(self.groups))

    def drop(self, name: str = "early") -> MeasuredLimit:
        """Return what a network loses against the whole network, and its 95 % interval."""
        return self.measure_mean(self.lost_by(name))

    def per_draw(self, values: np.ndarray) -> np.ndarray:
        """Return the values of what was drawn independently: of each sample as they are, or the mean of each group."""
        return values if self.groups is None else group_means(values, self.groups)

    def measure_mean(self, values: np.ndarray) -> MeasuredLimit:
        """Return a mean and its 95 % interval, over groups if there are any."""
        return measure_mean(values, self.groups)

    def find_worst(self, parts: Parts, name: str, values: np.ndarray) -> tuple[WorstPart, ...]:
        """Return the parts with the largest means of values that a limit limits; see `worst_parts.rank_parts`."""
        return rank_parts(
            [(part, values[rows], None if self.groups is None else self.groups[rows]) for part, rows in parts.each()],
            name,
        )


def judge_labels(results: Mapping[str, Sequence[Result]], y: np.ndarray, metric: Metric | None) -> Correctness:
    """Compare the labels of networks with the true ones, and early exit's with the whole network's."""
    labels = {name: np.array([result.label for result in each]) for name, each in results.items()}
    metrics = {}
    for name, each in results.items():
        if metric is None:
            break
        answers = {"label": labels[name].copy(), "score": np.array([result.score for result in each], np.float32)}
        metrics[name] = compute_metric(metric, answers, y, NETWORKS.get(name, name))
    right = {name: label == y for name, label in labels.items()}
    return Correctness(right, labels["early"] != labels["whole"], metrics)


def judge_losses(
    nets: Mapping[str, Net],
    results: Mapping[str, Sequence[Result]],
    x: Samples,
    y: Truth,
    judging: Judging,
    *,
    metric: Metric | None,
    progress: Progress,
) -> Correctness:
    """Run networks once more to judge their answers, of which results hold none, at the exits that the results name.

    Args:
        nets: `early`, the chain, and `whole` and others, static networks.
        results: of the same networks.
        x, y: the samples, and what is true of them.
        judging: the functions.
        metric: the user's; None without one.
        progress: is told what is recorded.
    """
    reference = ReferenceAnswers(nets["whole"]) if judging.disagreement is not None else None
    right, far, metrics = {}, {}, {}
    for name, net in nets.items():
        columns = (
            np.array([result.exit for result in results[name]]) if len(net.exits) > 1 else np.zeros(len(x), np.int64)
        )
        kept = KeptAnswers(columns)
        judge = Judge(judging, y, reference, kept.add if metric is not None else None)
        answers = record_answers(net, x, progress=progress, judge=judge)
        if metric is not None:
            metrics[name] = compute_metric(metric, kept.take(), y.read(), NETWORKS.get(name, name))
        right[name] = 1 - _take(answers, LOSS, columns)
        if judging.disagreement is not None:
            far[name] = _take(answers, DISAGREEMENT, columns)
    differs = far["early"] if far else np.abs(right["early"] - right["whole"])
    return Correctness(right, differs, metrics)


def measure_mean(values: np.ndarray, groups: np.ndarray | None = None) -> MeasuredLimit:
    """Return a mean and its 95 % interval: Wilson's of a share, `mean_interval` of others and of groups.

    Args:
        values: of each sample, (N,).
        groups: the number of each sample's group, int64 (N,), over which the mean is; None without groups.
    """
    if groups is None and values.dtype == bool:
        return MeasuredLimit(float(values.mean()), *share_interval(int(values.sum()), len(values)))
    low, high = mean_interval(values, groups)
    mean = float((values if groups is None else group_means(values, groups)).mean())
    return MeasuredLimit(mean, max(0.0, low) if values.dtype == bool else low, high)


def _take(answers: EveryExit, name: str, columns: np.ndarray) -> np.ndarray:
    values = np.stack([parts[name] for parts in answers.answers or ()], 1).astype(np.float64)
    return np.asarray(values[np.arange(len(columns)), columns])
