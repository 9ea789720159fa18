"""The best set of exits: by the records first, then the best few as they are measured; and what stands beside it."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np

from ...bundle import Bundle, Target
from ...calibrate.measure.tables import exits_taken
from ...errors import TargetError
from ...export import attach
from ...files import write_atomically
from ...runtime.chain.samples import Samples
from .costs import ExitCosts, as_costs, fit_costs
from .recording import Halves, Workbench, hash_of
from .result import ExitSet, PlacedExits, Rival
from .search import Exits, Question, Ranked, nearest_exits, rank_sets
from .timing import Timing, measure_sets

__all__ = ["Decision", "decide"]

BEST = 3
"""Sets that are made and measured: the best by the records."""

TIMED_SAMPLES = 1024
"""Samples that latencies are measured on, at most."""

AUTO_FRACTIONS: Sequence[float] = cast(Any, attach).__kwdefaults__["fractions"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The set of exits that was chosen, and all that it was chosen by.

    Attributes:
        exits: the set.
        names, shares: of all places.
        halves: answers of all exits.
        costs: of all exits.
        measured: for some sets, the latency of leaving at each exit.
        question: what sets are compared by.
        ranked: all sets, the best first.
    """

    exits: Exits
    names: tuple[str, ...]
    shares: tuple[float, ...]
    halves: Halves
    costs: ExitCosts
    measured: dict[Exits, np.ndarray]
    question: Question
    ranked: list[Ranked]

    def latency_s(self, exits: Exits) -> np.ndarray:
        """Return the latency of leaving at each exit of a set: measured, or predicted."""
        return self.measured[exits] if exits in self.measured else self.costs.latency_s(exits)

    def describe(self, bundle: str, variant: str, tuned: Halves | None) -> PlacedExits:
        """Return the result.

        Args:
            bundle, variant: where the chosen exits are.
            tuned: answers of the chosen exits after tuning.
        """
        chosen, draws = self._describe_set(self.exits)
        latency_s = self.latency_s(self.exits)
        errors = [np.abs(self.costs.latency_s(exits) / seen - 1).max() for exits, seen in self.measured.items()]
        alike = [self._area(each.exits) for each in self.ranked if len(each.exits) == len(self.exits)]
        return PlacedExits(
            bundle=bundle,
            variant=variant,
            chosen=chosen,
            tuned=None if tuned is None else self._describe_table(self.exits, tuned, latency_s)[0],
            rivals=tuple(self._compare(name, exits, chosen, draws) for name, exits in self._list_rivals()),
            random_area=float(np.mean(alike)),
            random_beaten=float(np.mean(np.array(alike) < chosen.area)),
            sets=len(self.ranked),
            selecting=len(self.halves.selecting),
            reporting=len(self.halves.reporting),
            places=self.names,
            static_s=tuple(self.costs.static_s.tolist()),
            passing_s=tuple(self.costs.passing_s.tolist()),
            prediction_error=float(max(errors)),
        )

    def _list_rivals(self) -> list[tuple[str, Exits]]:
        """Return the sets beside the chosen one, by their names."""
        early, last = len(self.exits) - 1, len(self.names)
        second = next((each.exits for each in self.ranked if each.exits != self.exits), self.exits)
        return [
            ("second best", second),
            ("auto", nearest_exits(self.shares, AUTO_FRACTIONS)),
            ("equal shares", nearest_exits(self.shares, _equal_fractions(early))),
            *((f"{name} alone", (k, last)) for k, name in enumerate(self.names)),
        ]

    def _compare(self, name: str, exits: Exits, chosen: ExitSet, draws: np.ndarray) -> Rival:
        described, own = self._describe_set(exits)
        low, high = np.quantile(draws - own, (0.025, 0.975)).tolist()
        return Rival(name=name, exits=described, gain=chosen.area - described.area, gain_interval=(low, high))

    def _describe_set(self, exits: Exits) -> tuple[ExitSet, np.ndarray]:
        parts = (table.columns(exits, table.costs) for table in (self.halves.selecting, self.halves.reporting))
        return self._describe_table(exits, Halves(*parts), self.latency_s(exits))

    def _describe_table(self, exits: Exits, halves: Halves, latency_s: np.ndarray) -> tuple[ExitSet, np.ndarray]:
        """Return a set's figures, and the areas of samples drawn anew.

        Args:
            exits: the set.
            halves: answers of its exits alone.
            latency_s: of leaving at each.
        """
        costs = as_costs(latency_s)
        selecting, reporting = (
            msgspec.structs.replace(part, costs=costs) for part in (halves.selecting, halves.reporting)
        )
        curve = self.question.judge(selecting, reporting)
        draws = curve.draw_areas()
        thresholds = self.question.choose_thresholds(selecting)
        figures: dict[str, Any] = {}
        if thresholds is not None and reporting.right is not None:
            taken = exits_taken(reporting.score, thresholds)
            figures["mean_latency_s"] = reporting.mean_at(latency_s, taken)
            figures["accuracy"] = reporting.mean_at(reporting.right, taken)
        low, high = np.quantile(draws, (0.025, 0.975)).tolist()
        described = ExitSet(
            places=tuple(self.names[k] for k in exits[:-1]),
            latency_s=tuple(latency_s.tolist()),
            is_measured=exits in self.measured,
            area=curve.area,
            area_interval=(low, high),
            thresholds=thresholds,
            **figures,
        )
        return described, draws

    def _area(self, exits: Exits) -> float:
        """Return the area of a set on the reporting samples."""
        costs = as_costs(self.latency_s(exits))
        selecting, reporting = (part.columns(exits, costs) for part in (self.halves.selecting, self.halves.reporting))
        return self.question.judge(selecting, reporting).area


def decide(
    bundle: Bundle,
    x: Samples,
    halves: Halves,
    places: Sequence[tuple[str, float]],
    target: Target | None,
    bench: Workbench,
) -> Decision:
    """Choose the best set of exits.

    Args:
        bundle: with exits at all places; variants are made in it.
        x: samples to measure on.
        halves: what its exits answer.
        places: the name of each, and its share of the work.
        target: what sets are compared by; None for the area.
        bench: where it is measured.

    Raises:
        TargetError: no set meets the target.
    """
    names, shares = zip(*places, strict=True)
    count = len(names)
    every = tuple(range(count + 1))
    fitted = dict.fromkeys([every, (*every[:-1:2], count), (*(every[1:-1:2] or (0,)), count)])
    timing = _measure_once(bundle, x, list(fitted), bench, statics=every)
    whole_s = timing.whole_s
    costs = fit_costs(
        [timing.statics[k] * whole_s for k in every],
        {exits: [each * whole_s for each in latency] for exits, latency in timing.chains},
    )
    question = Question(chance=1 / bundle.manifest.classes, until_s=whole_s, target=target)
    ranked = rank_sets(halves.selecting, costs, question, bench.progress)
    _check_met(ranked[0].worth, question, halves)
    early = len(ranked[0].exits) - 1
    best = [each.exits for each in ranked[:BEST]]
    beside = [nearest_exits(shares, fractions) for fractions in (AUTO_FRACTIONS, _equal_fractions(early))]
    again = _measure_once(bundle, x, list(dict.fromkeys([*best, *beside])), bench)
    measured = {exits: np.array(latency) * whole_s for exits, latency in again.chains}

    worth = {
        exits: question.worth_of(halves.selecting.columns(exits, as_costs(latency_s)))
        for exits, latency_s in measured.items()
    }
    _check_met(max(worth.values()), question, halves)
    return Decision(
        exits=max(worth, key=lambda exits: worth[exits]),
        names=names,
        shares=shares,
        halves=halves,
        costs=costs,
        measured=measured,
        question=question,
        ranked=ranked,
    )


def _check_met(worth: float, question: Question, halves: Halves) -> None:
    """Refuse a target that not even the best set meets.

    Raises:
        TargetError: the best set is worth nothing.
    """
    right = halves.selecting.reference_right
    if worth == -np.inf and right is not None:
        raise TargetError(
            f"No set of exits meets the target, {question.target}, on the {len(halves.selecting)} selecting samples. The last "
            f"exit is right for {right.mean():.2%} of them; the whole network takes "
            f"{question.until_s * 1e6:.0f} us."
        )


def _equal_fractions(early: int) -> list[float]:
    return [(i + 1) / (early + 1) for i in range(early)]


def _measure_once(
    bundle: Bundle, x: Samples, sets: list[Exits], bench: Workbench, statics: Sequence[int] = ()
) -> Timing:
    """Measure sets of exits, or take what an earlier call measured here."""
    key = hash_of(bundle.variant().digest, sets, statics, bench.seconds, bench.key)
    path = bench.folder / f"latencies-{key}.json"
    if not path.exists():
        timing = measure_sets(
            bundle,
            x[:TIMED_SAMPLES],
            sets,
            statics=statics,
            device=bench.device,
            threads=bench.threads,
            seconds=bench.seconds,
            progress=bench.progress,
        )
        write_atomically(path, msgspec.json.encode(timing))
    return msgspec.json.decode(path.read_bytes(), type=Timing)
