"""Labels smoothed over time: a new one holds when it leads among the last answers."""

from collections import Counter, deque
from collections.abc import Sequence
from numbers import Integral

import numpy as np

from ..errors import UsageError

__all__ = ["Votes", "check_count", "smooth_labels"]

MOST_WINDOW = 10_000
"""The longest window that can be asked for."""


class Votes:
    """Smooths labels over the last answers."""

    def __init__(self, window: int, lead: int) -> None:
        check_count("window", window, MOST_WINDOW)
        check_count("lead", lead, int(window))
        self._last: deque[int] = deque(maxlen=int(window))
        self._lead = lead
        self._label: int | None = None

    def count(self, label: int) -> int:
        """Count an answer; return the label that holds now."""
        self._last.append(label)
        if self._label is None or self._last.maxlen == 1:
            self._label = label
            return label
        votes = Counter(self._last)
        other, most = votes.most_common(1)[0]
        if most - votes[self._label] >= self._lead:
            self._label = other
        return self._label


def smooth_labels(labels: Sequence[int] | np.ndarray, *, window: int, lead: int = 1) -> np.ndarray:
    """Smooth labels in the order of time as a `Stream` does, to see on recorded inputs what that changes.

    Args:
        labels: of inputs that followed each other, (N,).
        window, lead: as for `Stream`.

    Returns:
        The label that held at each input, int64 (N,).

    Raises:
        UsageError: `window` or `lead` is out of range.

    Example:
        >>> from offramp.runtime import smooth_labels
        >>> smooth_labels([0, 0, 1, 0, 1, 1, 1], window=3).tolist()
        [0, 0, 0, 0, 1, 1, 1]
    """
    votes = Votes(window, lead)
    return np.array([votes.count(int(label)) for label in labels], np.int64)


def check_count(name: str, value: object, most: int) -> None:
    """Refuse an argument that is no whole number from 1 to `most`."""
    if not isinstance(value, Integral) or not 1 <= int(value) <= most:
        raise UsageError(f"{name} is a whole number from 1 to {most}, not {value!r:.30}.")
