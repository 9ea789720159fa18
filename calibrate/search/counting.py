"""Means and errors for every choice of thresholds at once, by counting samples in bins of scores.

Each exit's score is binned on its candidate thresholds. For exit k, the joint histogram of the bins of exits 0 to k, summed up
along every axis, gives the samples that leave at k for every choice of the thresholds 0 to k: those below the threshold at each
earlier exit and not at k. Added up over the exits, that is exactly what brute force would count.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from ..intervals import paired_error

__all__ = ["Means", "bin_scores", "count_means"]


class Means(Struct, frozen=True):
    """Means and their standard errors, with an axis for each threshold."""

    mean: np.ndarray
    error: np.ndarray


class _Sums(Struct, frozen=True):
    """Two sums for every choice of thresholds: of values and their squares; of int8 how many are 1, and how many -1."""

    first: np.ndarray
    second: np.ndarray


def bin_scores(score: np.ndarray, grids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return for each exit but the last the bin of each sample: how many of the rising candidates its score reaches."""
    return [np.searchsorted(grid, score[:, k], side="right") for k, grid in enumerate(grids)]


def count_means(
    bins: Sequence[np.ndarray], sizes: Sequence[int], samples: int, values: Sequence[np.ndarray]
) -> list[Means]:
    """Return the means of some values for every choice of thresholds.

    Args:
        bins: of each exit but the last, as `bin_scores` gives them.
        sizes: how many candidates each of these exits has.
        samples: how many samples there are.
        values: of leaving at each exit, each as `Limit.values`. An array that stands twice is counted once.
    """
    distinct = {id(each): each for each in values}
    sums = {key: _start_sums(each, sizes) for key, each in distinct.items()}
    early = np.zeros(sizes)
    rows, index = np.arange(samples), np.zeros(samples, np.int64)
    for k in range(len(sizes)):
        exit_bin = bins[k][rows]
        joint = index * (sizes[k] + 1) + exit_bin
        broadcast = (slice(None),) * (k + 1) + (None,) * (len(sizes) - k - 1)
        leaving = _count_leaving(joint, sizes[: k + 1])[broadcast]
        early += leaving
        for key, each in distinct.items():
            if each.ndim == 1:
                sums[key].first[...] += (each[k] - each[-1]) * leaving
                sums[key].second[...] += (each[k] - each[-1]) ** 2 * leaving
            else:
                _add_changes(sums[key], each[rows, k], each[rows, -1], joint, sizes[: k + 1], broadcast)
        if sizes[k] == 1:  # a single candidate: samples that leave here cannot change later counts
            stay = exit_bin == 0
            rows, index = rows[stay], index[stay]
        else:
            index = joint
    means = {key: _finish(each, sums[key], early, samples) for key, each in distinct.items()}
    return [means[id(each)] for each in values]


def _start_sums(values: np.ndarray, sizes: Sequence[int]) -> _Sums:
    """Return the sums when all samples run to the last exit; each exit then adds the changes of those that leave there."""
    sums = _Sums(np.zeros(sizes), np.zeros(sizes))
    if values.ndim == 2 and values.dtype.kind == "f":
        sums.first[...], sums.second[...] = values[:, -1].sum(), (values[:, -1] ** 2).sum()
    elif values.ndim == 2:
        sums.first[...], sums.second[...] = (values[:, -1] > 0).sum(), (values[:, -1] < 0).sum()
    return sums


def _add_changes(
    sums: _Sums,
    value: np.ndarray,
    last: np.ndarray,
    joint: np.ndarray,
    sizes: Sequence[int],
    broadcast: tuple[slice | None, ...],
) -> None:
    """Add the values, and their squares, of samples that leave at an exit, less those that they have at the last exit.

    Of int8 it counts instead how many are 1, and how many -1, which are few.
    """
    if value.dtype.kind == "f":
        sums.first[...] += _count_leaving(joint, sizes, value - last)[broadcast]
        sums.second[...] += _count_leaving(joint, sizes, value**2 - last**2)[broadcast]
        return
    for counts, sign in ((sums.first, 1), (sums.second, -1)):
        for has_sign, factor in ((value * sign > 0, 1), (last * sign > 0, -1)):
            if has_sign.any():
                counts += factor * _count_leaving(joint[has_sign], sizes)[broadcast]


def _finish(values: np.ndarray, sums: _Sums, early: np.ndarray, samples: int) -> Means:
    if values.ndim == 1:  # relative to the last exit's value, so that a large common part costs no precision
        saved = sums.first / samples
        error = np.sqrt(np.maximum(sums.second / samples - saved**2, 0) / samples)
        return Means(np.asarray(values[-1] + saved), error)
    # If no sample leaves early and the last exit is the reference itself, the difference is 0 without error.
    is_exact = (early == 0) & (not values[:, -1].any())
    if values.dtype.kind == "f":  # as `paired_error`, of which the sum of squares is the number of samples lost and won
        spread = (sums.second + 2) - sums.first**2 / (samples + 2)
        error = np.where(is_exact, 0.0, np.sqrt(np.maximum(spread, 0)) / (samples + 2))
        return Means(np.asarray(sums.first / samples), error)
    error = np.where(is_exact, 0.0, paired_error(sums.first, sums.second, samples))
    return Means(np.asarray((sums.first - sums.second) / samples), error)


def _count_leaving(index: np.ndarray, sizes: Sequence[int], weights: np.ndarray | None = None) -> np.ndarray:
    """Count, for every choice of thresholds, the samples below all thresholds but the last and at or above the last.

    Args:
        index: joint bins; exits before the last that have a single candidate are left out of them.
        sizes: how many candidates each exit has.
        weights: what each sample counts for; None for 1.
    """
    shape = [size + 1 if size > 1 else 1 for size in sizes[:-1]]
    length = int(np.prod(shape)) * (sizes[-1] + 1)
    counts = np.bincount(index, weights, minlength=length).reshape(*shape, sizes[-1] + 1)
    for axis, size in enumerate(sizes[:-1]):
        if size > 1:
            counts = np.cumsum(counts, axis=axis).take(np.arange(size), axis=axis)
    return np.asarray(counts.sum(axis=-1, keepdims=True) - np.cumsum(counts, axis=-1))[..., : sizes[-1]]
