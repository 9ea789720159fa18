"""Which trials of a rung are best: those that meet the target at the least mean multiply-accumulates, by the judging samples."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from ..bundle import Target
from ..calibrate.measure.tables import exits_taken
from ..calibrate.search.thresholds import Limit, Problem, solve
from .table import Standing, TrialRow, read_answers
from .trials import trial_folder

__all__ = ["find_reference", "lay_tradeoffs", "rank"]

VALUES, FINE_VALUES = 16, 64
"""Candidates per exit of the whole grid of thresholds, and of the finer one around the best."""

LOSSES = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""What a form may lose against its own whole network, at the points that are drawn of it."""


def find_reference(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the row whose whole network is most accurate, among the first forms of trials; None if all failed.

    It is the first variant of the sweep's bundle, and so what `calibrate` counts drops against.
    """
    firsts = {row.trial: row for row in reversed(rows) if not row.failed}
    return max(firsts.values(), key=lambda row: (row.accuracy[-1], -row.trial), default=None)


def rank(rows: Sequence[TrialRow], folder: Path, target: Target, stays: int) -> list[TrialRow]:
    """Return the rows of a rung with their standings, the best trial first; failed ones have none, and come last.

    Trials that meet the target come first, the one with the least mean multiply-accumulates in front, and among equals the most
    accurate; then the others, the most accurate in front. A trial stands as its best form does. The number decides what is left.

    Args:
        rows: of one rung.
        folder: the sweep's.
        target: what is wanted; a drop is against the reference of this rung.
        stays: so many trials stay.
    """
    reference = find_reference(rows)
    if reference is None:
        return list(rows)
    least = _least_accuracy(target, reference.accuracy[-1])
    standings = [None if row.failed else _find_standing(row, folder, least) for row in rows]
    best: dict[int, tuple[bool, float, float, int]] = {}
    for row, standing in zip(rows, standings, strict=True):
        if standing is not None:
            figures = (standing.macs, -standing.accuracy)
            merit = (not standing.met, *(figures if standing.met else figures[::-1]), row.trial)
            best[row.trial] = min(best.get(row.trial, merit), merit)
    places = {trial: place for place, trial in enumerate(sorted(best, key=lambda trial: best[trial]), 1)}
    placed = [
        row
        if standing is None
        else replace(row, standing=replace(standing, place=places[row.trial], stays=places[row.trial] <= stays))
        for row, standing in zip(rows, standings, strict=True)
    ]
    return sorted(placed, key=lambda row: places.get(row.trial, len(places) + 1))  # which keeps the order of equals


def lay_tradeoffs(row: TrialRow, folder: Path) -> list[tuple[float, float]]:
    """Return mean multiply-accumulates and accuracies that thresholds of a row reach, by rising accuracy."""
    points = {
        (standing.macs, standing.accuracy)
        for loss in LOSSES
        if (standing := _find_standing(row, folder, row.accuracy[-1] - loss)).met
    }
    return sorted(points, key=lambda point: (point[1], point[0]))


def _least_accuracy(target: Target, reference: float) -> float:
    limits = [
        -1.0 if target.min_accuracy is None else target.min_accuracy,
        -1.0 if target.max_loss is None else 1 - target.max_loss,
        -1.0 if target.max_drop is None else reference - target.max_drop,
    ]
    return max(limits)


def _find_standing(row: TrialRow, folder: Path, least_accuracy: float) -> Standing:
    """Find a row's thresholds with the least mean multiply-accumulates at an accuracy."""
    score, wrong = read_answers(trial_folder(folder, row.trial), row)
    macs = np.array(row.macs, np.float64)
    # A share of counts is compared with a difference of such shares, whose last digits differ.
    limit = Limit(wrong, 1 - least_accuracy + 1e-9)
    thresholds = solve(Problem(score, macs, wrong, (limit,)), values=VALUES, fine_values=FINE_VALUES)
    if thresholds is None:
        exit_ = int(np.argmax(row.accuracy))
        return Standing(met=False, macs=float(macs[exit_]), accuracy=row.accuracy[exit_], thresholds=())
    taken = exits_taken(score, thresholds)
    accuracy = float((wrong[np.arange(len(taken)), taken] == 0).mean())
    return Standing(met=True, macs=float(macs[taken].mean()), accuracy=accuracy, thresholds=thresholds)
