"""Which samples depend on each other: copies, and neighbours that resemble each other, as the frames of a video do.

A promise needs samples that were drawn independently. Samples that depend on each other select together or report together, and
count for fewer than they are.
"""

import math

import numpy as np
from msgspec import Struct

CORRELATION_ERRORS = 4.0
"""Standard errors by which neighbours must resemble each other: independent samples do by luck once in 30,000 times."""

BLOCK_TIMES = 8
"""Dependent samples are split by blocks of neighbours that are so many correlation times long, so that few blocks touch."""

LEAST_BLOCKS = 10
"""There are at least so many blocks."""

LEAST_COPIES = 0.01
"""Copies are mentioned if they are at least this share of the samples."""

__all__ = ["Independence", "check_groups", "find_independence", "split", "split_groups"]


class Independence(Struct, frozen=True):
    """How far samples are independent.

    Attributes:
        groups: which samples belong together, int64 (N,): those of a group have the same number.
        share: for how many independent samples each one counts, in (0, 1]; of given groups, for how many groups each.
        notes: what was seen, in words.
        are_given: True if the user said which samples belong together: promises are then made over groups.
    """

    groups: np.ndarray
    share: float
    notes: tuple[str, ...] = ()
    are_given: bool = False

    def split(self, order: np.ndarray, selecting: int) -> tuple[np.ndarray, np.ndarray]:
        """Split samples so that no group is on both sides; see `split` and `split_groups`."""
        return (split_groups if self.are_given else split)(order, self.groups, selecting)


def find_independence(
    hashes: np.ndarray, score: np.ndarray, labels: np.ndarray, *, has_groups: bool = False
) -> Independence:
    """Find copies, and neighbours whose scores resemble each other more than those of other samples of the same class.

    Copies count by Kish's effective sample size, n^2 / sum(copies^2). Neighbours count by the correlation time of their scores:
    the ranks within their class, in the order in which the samples were given, so that it does not matter if they are sorted by
    class.

    Args:
        hashes: of each sample, uint64 (N,).
        score: of each sample at every exit, float32 (N, exits).
        labels: the class of each sample, (N,).
        has_groups: True if groups were given, of each of which something is promised.
    """
    n = len(hashes)
    _, first, groups, copies = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    share = n / float((copies.astype(np.float64) ** 2).sum())
    notes = []
    if len(first) < (1 - LEAST_COPIES) * n:
        notes.append(
            f"Only {len(first)} of the {n} samples differ: copies count for no more than one in intervals and promises, which "
            f"count {max(1, int(n * share))} samples."
        )
    given = np.sort(first)  # one of each, in the order in which they were given
    time = correlation_time(score[given], labels[given])
    if time > 1:
        length = min(math.ceil(BLOCK_TIMES * time), max(1, len(given) // LEAST_BLOCKS))
        groups = (np.searchsorted(given, first) // length)[groups]
        share /= time
        notes.append(
            f"Neighbouring samples resemble each other, as frames of a video do: they count for about {max(1, int(n * share))} "
            f"independent ones in intervals and promises. Give samples that were drawn one by one, such as every "
            f"{math.ceil(time)}th{'' if has_groups else ', or say which belong together, as of one clip or person (--groups)'}. "
            "If they are independent and only sorted, give them in random order."
        )
    return Independence(groups, share, tuple(notes))


def check_groups(hashes: np.ndarray, groups: np.ndarray) -> Independence:
    """Return how far given groups are independent: copies of a sample in several groups count by Kish, as copies of samples do.

    Args:
        hashes: of each sample, uint64 (N,).
        groups: the number of each sample's group, int64 (N,), in an order that does not depend on the samples.
    """
    _, sample = np.unique(hashes, return_inverse=True)
    pairs = np.unique(np.stack([sample, groups]), axis=1)
    holders = np.bincount(pairs[0]).astype(np.float64)  # in how many groups each different sample is
    share = float(holders.sum() / (holders**2).sum())
    notes: tuple[str, ...] = ()
    if (copied := int((holders > 1)[sample].sum())) > LEAST_COPIES * len(hashes):
        count = len(np.unique(groups))
        notes = (
            f"{copied} of the {len(hashes)} samples are in several groups: groups that share samples are not independent, and "
            f"the {count} groups count for {max(1, int(count * share))}. Give samples that belong together one group.",
        )
    return Independence(groups, share, notes, are_given=True)


def correlation_time(score: np.ndarray, labels: np.ndarray) -> float:
    """Return over how many neighbours scores are correlated: 1 + twice the sum of the correlations at distance 1, 2, ...

    The sum ends where a correlation is no larger than luck makes it (Sokal, Monte Carlo Methods in Statistical Mechanics, 1997).

    Args:
        score: float32 (N, exits), in the order in which samples were given.
        labels: the class of each, (N,).
    """
    n, ranks = len(score), np.zeros(len(score))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            mean = np.mean([_mean_ranks(column) for column in score[rows].T], axis=0)
            ranks[rows] = (mean - mean.mean()) / (mean.std() or 1.0)
    variance, limit = float(ranks @ ranks), CORRELATION_ERRORS / math.sqrt(n)
    if variance == 0:
        return 1.0
    spectrum = np.fft.rfft(ranks, 2 * n)  # padded, so that the last samples are no neighbours of the first
    correlations = np.fft.irfft(np.abs(spectrum) ** 2)[1 : n // 2] / variance
    end = int(np.append(correlations <= limit, True).argmax())
    return 1.0 + 2 * float(correlations[:end].sum())


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, float64 (N,); equal values, such as scores of exactly 1, have the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[places])


def split_groups(order: np.ndarray, groups: np.ndarray, selecting: int) -> tuple[np.ndarray, np.ndarray]:
    """Split given groups: the first ones by their numbers select, about as many as have so many samples, and at most half.

    Which groups select must not depend on their sizes, so that the others are as a product meets them.

    Args:
        order: the samples in random order.
        groups: the number of each sample's group, by its row; groups are numbered at random.
        selecting: how many samples select, about; 0 if others do.

    Returns:
        The rows that select, rising, and the rows that report, in random order.
    """
    numbers = np.unique(groups)
    count = min(len(numbers) // 2, max(1, round(len(numbers) * selecting / len(order)))) if selecting else 0
    is_selecting = np.isin(groups[order], numbers[:count])
    return np.sort(order[is_selecting]), order[~is_selecting]


def split(order: np.ndarray, groups: np.ndarray, selecting: int) -> tuple[np.ndarray, np.ndarray]:
    """Split samples so that no group is on both sides.

    Args:
        order: the samples in random order.
        groups: the group of each sample, by its row.
        selecting: how many samples select, about: whole groups do.

    Returns:
        The rows that select, rising, and the rows that report, in random order.
    """
    if not selecting:
        return order[:0], order
    _, first, inverse = np.unique(groups[order], return_index=True, return_inverse=True)
    drawn = first[inverse]  # when the group of each sample was first drawn
    together = np.argsort(drawn, kind="stable")
    ends = drawn[together]
    cut = int(np.searchsorted(ends, ends[selecting])) or int(np.searchsorted(ends, ends[selecting], side="right"))
    is_selecting = np.isin(np.arange(len(order)), together[:cut])
    return np.sort(order[is_selecting]), order[~is_selecting]
