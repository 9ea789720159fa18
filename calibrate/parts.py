"""Samples that belong together: groups whose members depend on each other, and classes of each of which something is promised."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from ..errors import DataError, ModelError, UsageError, quoted

__all__ = ["Parts", "group_means", "name_classes", "read_groups", "read_own_groups"]

MOST_NAME = 60
"""Letters of a group's name that are kept, about: names stand in calibrations and messages."""

HOW_TO_GIVE = "one number or text for each sample, such as the person or the clip that it comes from"


class Parts(Struct, frozen=True):
    """Which part each sample belongs to.

    Attributes:
        names: of the parts.
        number: of each sample's part, int64 (N,): an index into the names.
    """

    names: tuple[str, ...]
    number: np.ndarray

    def rows(self, rows: np.ndarray | slice) -> "Parts":
        """Return the parts of some of the samples."""
        return Parts(self.names, self.number[rows])

    def each(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name of each part that has samples, and their rows."""
        order = np.argsort(self.number, kind="stable")
        numbers, starts = np.unique(self.number[order], return_index=True)
        for number, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            yield self.names[number], rows

    @property
    def count(self) -> int:
        """How many parts have samples."""
        return len(np.unique(self.number))

    @property
    def lacking(self) -> list[str]:
        """The names of the parts that have no samples."""
        return [self.names[k] for k in np.setdiff1d(np.arange(len(self.names)), self.number)]

    def shuffled(self, rng: np.random.Generator) -> "Parts":
        """Return the same parts numbered in a random order, which does not depend on how many samples each has."""
        order = rng.permutation(len(self.names))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return Parts(tuple(self.names[i] for i in order), place[self.number])


def group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the mean of each group, float64, in the order of the groups' numbers.

    Args:
        values: of each sample, (N,).
        groups: the number of its group, int64 (N,).
    """
    sizes = np.bincount(groups)
    has_samples = sizes > 0
    return np.asarray(np.bincount(groups, values)[has_samples] / sizes[has_samples])


def read_groups(
    given: "Sequence[Any] | np.ndarray | Callable[[Any], Any] | None", x: Any, samples: int
) -> Parts | None:
    """Return which group each sample belongs to, in the order in which the groups first appear; None if none are given.

    Args:
        given: for each sample the number or name of its group, (N,), or a function that returns them for the samples.
        x: the samples as the user gave them.
        samples: how many there are.

    Raises:
        DataError: there is not one for each sample, or one is missing.
        UsageError: a text was given, which names groups on the command line only.
        ModelError: the function fails.
    """
    if given is None:
        return None
    if isinstance(given, str):
        raise UsageError(
            f"groups is {HOW_TO_GIVE}, not {given!r:.60}. load_grouped reads such a column with the samples; the command line "
            "takes its name as --groups."
        )
    if callable(given):
        try:
            given = given(x)
        except Exception as error:  # it is the user's
            raise ModelError(f"The function of the groups failed: {type(error).__name__}: {error}") from error
    try:
        groups = np.asarray(given)
    except ValueError:
        groups = np.empty(0)
    if groups.shape != (samples,):
        raise DataError(f"There are {samples} samples but groups of shape {groups.shape}: give {HOW_TO_GIVE}.")
    if groups.dtype.kind == "O":
        is_missing = np.array([name is None or name != name for name in groups.tolist()])
        groups = np.array([str(name) for name in groups.tolist()])
    elif groups.dtype.kind in "biufUS":
        is_missing = np.isnan(groups) if groups.dtype.kind == "f" else np.zeros(samples, bool)
    else:
        raise DataError(f"The groups are {groups.dtype}: give {HOW_TO_GIVE}.")
    is_missing = is_missing | (groups == groups.dtype.type() if groups.dtype.kind in "US" else False)
    if is_missing.any():
        raise DataError(f"Sample {int(is_missing.argmax())} has no group: give {HOW_TO_GIVE}.")
    distinct, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return Parts(tuple(_write_name(name) for name in distinct[order].tolist()), place[inverse].astype(np.int64))


def read_own_groups(given: Any, x: Any, samples: int) -> Parts | None:
    """Return groups as `read_groups` does; None too if each sample is a group of its own."""
    parts = read_groups(given, x, samples)
    return None if parts is None or parts.count == samples else parts


def _write_name(name: Any) -> str:
    return quoted(name.decode("utf-8", "replace") if isinstance(name, bytes) else name, MOST_NAME)


def name_classes(labels: np.ndarray, class_names: Sequence[str] | None) -> Parts:
    """Return the classes of samples as parts: those that have samples.

    Args:
        labels: int64 (N,).
        class_names: the bundle's; None if it names none.
    """
    distinct, number = np.unique(labels, return_inverse=True)
    names = [class_names[k] if class_names else str(k) for k in distinct.tolist()]
    return Parts(tuple(_write_name(name) for name in names), number.astype(np.int64))
