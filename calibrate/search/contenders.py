"""Contenders: the chains and static networks that the search chooses among."""

from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...runtime import EveryExit
from ..judging import DISAGREEMENT, LOSS
from ..labels import UNKNOWN, settle_labels
from ..measure.configurations import Answers, Configuration, Measurements, Reference
from ..measure.tables import Costs, ExitTable
from ..requests import Request
from ..truth import Truth
from .independence import Independence

__all__ = ["Contender", "ContenderKey", "tabulate"]


class ContenderKey(NamedTuple):
    """Identifies a contender: its configuration, and the exit of a static network or None for the chain. Costs do not count."""

    configuration: Configuration
    static: int | None


class Contender(Struct, frozen=True, kw_only=True, eq=False):
    """A configuration's chain, or the static network that ends at one of its exits, as tables.

    Attributes:
        configuration: the configuration it belongs to.
        static: the exit at which a static network ends; None for the chain.
        selecting, reporting: of the samples that select, and of those that report.
    """

    configuration: Configuration
    static: int | None
    selecting: ExitTable
    reporting: ExitTable

    def __str__(self) -> str:
        name = "chain" if self.static is None else f"static network to exit {self.static}"
        return f"{name} of {self.configuration}"

    @property
    def key(self) -> ContenderKey:
        """Identifies the contender; two with the same key differ only in their costs."""
        return ContenderKey(self.configuration, self.static)

    @property
    def placement(self) -> tuple[str, ...]:
        """The device of each stage; of a static network its only device."""
        placement = self.configuration.placement
        return placement if self.static is None else placement[self.static : self.static + 1]

    def with_costs(self, costs: Costs, proof: Costs | None = None) -> "Contender":
        """Return the contender with other costs."""
        selecting = replace(self.selecting, costs=costs)
        return replace(self, selecting=selecting, reporting=replace(self.reporting, costs=costs, proof=proof))

    def with_answers(
        self, answers: EveryExit, measured: Measurements, request: Request, independence: Independence
    ) -> "Contender":
        """Return a static network with other answers to the reporting samples; see `tabulate`."""
        _, rows = independence.split(request.order, request.selecting)
        table = _make_table(answers, measured.reference.answers, request.samples.y, self.reporting.costs).rows(rows)
        own = replace(
            self.reporting,
            score=table.score,
            label=table.label,
            right=table.right,
            reference_right=table.reference_right,
            differs=table.differs,
        )
        return replace(self, reporting=own)

    def scaled(self, reference_s: float) -> "Contender":
        """Return the contender with the latencies it has when the reference takes `reference_s`."""
        return self.with_costs(self.selecting.costs.scaled(self.configuration.drift(reference_s)))


def tabulate(measured: Measurements, request: Request, independence: Independence) -> list[Contender]:
    """Return every configuration's chain, followed by its static networks, each with the latencies measured beside it."""
    return [
        contender
        for configuration in measured.configurations
        for contender in _tabulate_configuration(configuration, measured.reference, request, independence)
    ]


def _tabulate_configuration(
    configuration: Configuration,
    reference: Reference,
    request: Request,
    independence: Independence,
) -> list[Contender]:
    given = [
        replace(
            table,
            independent=independence.share,
            groups=independence.groups if independence.are_given else None,
            parts=request.find_parts(reference.answers.label[:, -1]),
        )
        for table in _make_tables(configuration, configuration.answers, reference.answers, request.samples.y)
    ]
    rows = independence.split(request.order, request.selecting)
    selecting, reporting = ([table.rows(part) for table in given] for part in rows)
    if configuration.outside_answers is not None:
        assert request.outside is not None and reference.outside_answers is not None
        answers, whole = configuration.outside_answers, reference.outside_answers
        parts = request.find_parts(whole.label[:, -1], request.outside)
        tables = _make_tables(configuration, answers, whole, request.outside.y)
        selecting = [replace(table, parts=parts) for table in tables]
    if configuration is reference.configuration:
        selecting[-1], reporting[-1] = (replace(tables[-1], is_reference=True) for tables in (selecting, reporting))
    exits = [None, *range(len(configuration.statics))]
    return [
        Contender(configuration=configuration, static=static, selecting=selecting[i], reporting=reporting[i])
        for i, static in enumerate(exits)
    ]


def _make_tables(
    configuration: Configuration, answers: Answers, reference: EveryExit, y: "np.ndarray | Truth | None"
) -> list[ExitTable]:
    """Return the tables of a configuration's chain and of its static networks."""
    chain = _make_table(answers.chain, reference, y, configuration.chain)
    statics = zip(answers.statics, configuration.statics, strict=True)
    return [chain, *(_make_table(static, reference, y, costs) for static, costs in statics)]


def _make_table(answers: EveryExit, reference: EveryExit, y: "np.ndarray | Truth | None", costs: Costs) -> ExitTable:
    known = None
    if isinstance(y, np.ndarray) and (y == UNKNOWN).any():
        known, y = y != UNKNOWN, settle_labels(y, reference.label[:, 0])
    right, whole = _find_right(answers, y), _find_right(reference, y)
    if right is not None and whole is not None and _is_binary(right) and _is_binary(whole):
        right, whole = right.astype(bool), whole.astype(bool)  # as labels are, so that the exact test serves
    return ExitTable(
        score=answers.score,
        label=answers.label,
        right=right,
        reference_right=None if whole is None else whole[:, 0],
        differs=_find_differing(answers, reference, right, whole),
        costs=costs,
        known=known,
    )


def _find_right(answers: EveryExit, y: "np.ndarray | Truth | None") -> np.ndarray | None:
    """Return which labels are right, bool (N, exits), or 1 less the losses; None if it is not known."""
    if answers.answers is None:
        return np.asarray(answers.label == y[:, None]) if isinstance(y, np.ndarray) else None
    if LOSS not in answers.answers[0]:
        return None
    return np.asarray(1 - np.stack([parts[LOSS] for parts in answers.answers], 1).astype(np.float64))


def _find_differing(
    answers: EveryExit, reference: EveryExit, right: np.ndarray | None, whole: np.ndarray | None
) -> np.ndarray:
    """Return which labels are others than the reference's, int8 (N, exits), or disagreements; else how far losses differ."""
    if answers.answers is None:
        differs: np.ndarray = (answers.label != reference.label).astype(np.int8)
        return differs
    if DISAGREEMENT in answers.answers[0]:
        values = np.stack([parts[DISAGREEMENT] for parts in answers.answers], 1).astype(np.float64)
    else:
        assert right is not None and whole is not None
        values = np.abs(right.astype(np.float64) - whole)
    return values.astype(np.int8) if _is_binary(values) else values


def _is_binary(values: np.ndarray) -> bool:
    return bool(((values == 0) | (values == 1)).all())
