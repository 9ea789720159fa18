"""The user's own metric of all test samples together, such as mAP: shown beside the figures, never promised."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from ..errors import DataError, OfframpError, UsageError, quoted
from ..runtime import Net
from ..runtime.chain.samples import Samples
from .user_code import read_callable

__all__ = ["KeptAnswers", "Metric", "check_size", "compute_metric", "name_metric", "read_metric"]

Metric = Callable[[Any, Any], Any]
"""From the answers to all samples, and what is true of them, to one number."""

MOST_LETTERS = 24
"""Letters of a metric's name that are shown, at most."""

MOST_ANSWER_BYTES = 100_000_000
"""Answers of one network to all samples, kept for the metric; stacked they may lie in memory twice."""


def read_metric(given: "str | Metric | None") -> Metric | None:
    """Return the user's metric, a function or `file.py:function`.

    Raises:
        UsageError: it is neither.
        MissingError, ModelError: as for `read_callable`.
    """
    if given is None or callable(given):
        return given
    if ".py:" not in str(given):
        raise UsageError(f"A metric is a function, or is named file.py:function, not {given!r:.80}.")
    return read_callable(str(given), "metric")


def name_metric(given: "str | Metric | None") -> str | None:
    """Return what a metric is called: the name of its function."""
    if given is None or isinstance(given, str):
        return given and given.rpartition(":")[2][:MOST_LETTERS]
    return str(getattr(given, "__name__", type(given).__name__))[:MOST_LETTERS]


class KeptAnswers:
    """The answers of one network to all samples, each at the exit where it left.

    Args:
        taken: the exit of each sample, among those of the network, int64 (N,).
    """

    def __init__(self, taken: np.ndarray) -> None:
        self._taken, self._bytes, self._lock = taken, 0, Lock()
        self._kept: dict[str, list[np.ndarray | None]] = {}

    def add(self, rows: slice, answers: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Keep the answers to some samples, of which every exit's are given. Several threads may add at the same time.

        Raises:
            DataError: there are more than fit.
        """
        taken = self._taken[rows]
        found = {name: [answers[k][name][j].copy() for j, k in enumerate(taken)] for name in answers[0]}
        with self._lock:
            for name, arrays in found.items():
                self._kept.setdefault(name, [None] * len(self._taken))[rows] = arrays
                self._bytes += sum(array.nbytes for array in arrays)
        _refuse_large(self._bytes, len(self._taken))

    def take(self) -> dict[str, Any]:
        """Return them by the names of their parts, (N, ...), or a list of arrays where their shapes differ; they are kept no
        longer.
        """
        return {name: _stack(self._kept.pop(name)) for name in list(self._kept)}


def _stack(arrays: list[np.ndarray | None]) -> Any:
    kinds = {(array.shape, array.dtype) for array in arrays if array is not None}
    if len(kinds) != 1:
        return arrays
    shape, dtype = kinds.pop()
    stacked = np.empty((len(arrays), *shape), dtype)
    for i, array in enumerate(arrays):
        stacked[i], arrays[i] = array, None  # so that nothing lies in memory twice
    return stacked


def check_size(nets: Mapping[str, Net], x: Samples) -> None:
    """See that the answers to all samples can be kept, by those to the first one, before anything is measured.

    Raises:
        DataError: they cannot.
    """
    for net in nets.values():
        answers = net.every_exit(x[0:1]).answers or ()
        largest = max((sum(part.nbytes for part in answer.values()) for answer in answers), default=0)
        _refuse_large(largest * len(x), len(x))


def _refuse_large(size: int, samples: int) -> None:
    if size > MOST_ANSWER_BYTES:
        raise DataError(
            f"A metric takes the answers to all samples at once, and those to {samples} samples need more than "
            f"{MOST_ANSWER_BYTES // 1_000_000} MB: give fewer samples (about {samples * MOST_ANSWER_BYTES // size} fit), let the "
            "network answer with less (such as classes in place of their scores), or leave the metric out."
        )


def compute_metric(metric: Metric, answers: Any, truth: Any, network: str) -> float:
    """Return a metric of the answers of one network.

    Raises:
        DataError: it raises, or gives no finite number.
    """
    try:
        given = metric(answers, copy.deepcopy(truth))  # a function may change its arguments in place
        value = np.asarray(given)
        number = float(value.item()) if value.size == 1 and value.dtype.kind in "iufb" else math.nan
    except OfframpError:
        raise
    except (Exception, SystemExit) as error:  # a script may end with sys.exit()
        raise DataError(
            f"The metric of {network} cannot be computed: {type(error).__name__}: {quoted(error)}"
        ) from error
    if not math.isfinite(number):
        raise DataError(f"The metric of {network} is {quoted(repr(given))}; it gives one finite number.")
    return number
