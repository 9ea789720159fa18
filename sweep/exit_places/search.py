"""The best set of exits: every set is tried on answers that were recorded once."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from ...bundle import Target
from ...calibrate.measure.tables import ExitTable, exits_taken
from ...calibrate.search.objective import find_thresholds, goal_values
from ...progress import Progress
from .costs import ExitCosts, as_costs
from .curves import Curve, Thresholds, find_best_thresholds, follow

__all__ = ["MOST_EARLY", "Exits", "Question", "Ranked", "nearest_exits", "rank_sets"]

MOST_EARLY = 6
"""Early exits of a set, at most: grids for more are too coarse to tell sets apart."""

Exits = tuple[int, ...]
"""Numbers of exits among all places, rising; the last is that of the network itself."""


class Question(Struct, frozen=True, kw_only=True):
    """What sets of exits are compared by.

    Attributes:
        chance: the accuracy of an answer that takes no time.
        until_s: the mean latency of the whole network.
        target: the target; None for the area under accuracy over latency.
    """

    chance: float
    until_s: float
    target: Target | None = None

    def judge(self, selecting: ExitTable, reporting: ExitTable) -> Curve:
        """Return the curve of thresholds that some samples chose, on others."""
        vectors = find_best_thresholds(selecting, self.chance)
        return follow(reporting, vectors, chance=self.chance, until_s=self.until_s)

    def choose_thresholds(self, selecting: ExitTable) -> Thresholds | None:
        """Return the best thresholds for the target; None if none meet it, or without a target."""
        return None if self.target is None else find_thresholds(selecting, self.target, margin=0.0, is_coarse=True)

    def worth_of(self, selecting: ExitTable) -> float:
        """Return what a set of exits is worth: its area, or less the goal of the target, of which more is better.

        Each half of the samples is judged by thresholds of the other half: more exits have more thresholds, which fit the samples
        that choose them better than others.
        """
        halves = [selecting.rows(slice(start, None, 2)) for start in (0, 1)]
        return float(np.mean([self._worth_on(half, other) for half, other in (halves, halves[::-1])]))

    def _worth_on(self, selecting: ExitTable, reporting: ExitTable) -> float:
        if self.target is None:
            return self.judge(selecting, reporting).area
        thresholds = self.choose_thresholds(selecting)
        if thresholds is None:
            return -np.inf
        return -reporting.mean_at(goal_values(reporting, self.target), exits_taken(reporting.score, thresholds))


class Ranked(Struct, frozen=True):
    """A set of exits and what it is worth by the selecting samples."""

    exits: Exits
    worth: float


def rank_sets(table: ExitTable, costs: ExitCosts, question: Question, progress: Progress) -> list[Ranked]:
    """Return every set of exits, the best first; of equals the smaller one comes first.

    Args:
        table: answers of all exits to the selecting samples.
        costs: of all exits.
        question: what they are compared by.
        progress: is told after each set.
    """
    sets = list(_all_sets(table.exits))
    ranked = []
    for i, exits in enumerate(sets):
        part = table.columns(exits, as_costs(costs.latency_s(exits)))
        ranked.append(Ranked(exits, question.worth_of(part)))
        progress("trying sets of exits", i + 1, len(sets))
    return sorted(ranked, key=lambda each: -each.worth)


def _all_sets(exits: int) -> Iterator[Exits]:
    """Yield every set of one early exit or more with the last one, smaller ones first."""
    for size in range(1, min(exits - 1, MOST_EARLY) + 1):
        for early in itertools.combinations(range(exits - 1), size):
            yield (*early, exits - 1)


def nearest_exits(shares: Sequence[float], fractions: Sequence[float]) -> Exits:
    """Return the exits nearest to fractions of the work, each once, and the last.

    Args:
        shares: of the work at each place.
        fractions: of the work.
    """
    nearest = {int(np.abs(np.array(shares) - fraction).argmin()) for fraction in fractions}
    return (*sorted(nearest), len(shares))
