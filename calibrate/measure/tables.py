"""Answers and costs by exit, from which every figure is computed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...bundle.manifest import NO_LABEL
from ..parts import Parts, group_means
from .energy import ExitEnergies

__all__ = ["Costs", "ExitTable", "PartTable", "exits_taken", "mean_at", "values_at"]


class Costs(Struct, frozen=True):
    """What leaving at each exit costs.

    Attributes:
        times_s: measured latencies, one float64 array per exit.
        power_w: mean power of the board while each exit runs, float64 (exits,); None if energy was not measured.
        power_noise: relative standard error of that power, float64 (exits,); 0 if it is stated.
        waiting_j: energy of the board at rest from the start of one call to the start of the next, where `power_w` is the power
            above rest; 0 if calls are made back to back.
        noise: relative standard error of the mean latency beside other networks; see `noise.comparison_noise`.
        machine_noise: relative standard error of the mean latency at other times on this machine; see `noise.machine_noise`.
        joined: True if stages ran as one where an exit is never taken.
    """

    times_s: tuple[np.ndarray, ...]
    power_w: np.ndarray | None = None
    power_noise: np.ndarray | float = 0.0
    waiting_j: float = 0.0
    noise: float = 0.0
    machine_noise: float = 0.0
    joined: bool = False

    @property
    def latency_s(self) -> np.ndarray:
        """Mean latency, float64 (exits,)."""
        return np.array([times.mean() for times in self.times_s])

    @property
    def energy_j(self) -> np.ndarray | None:
        """Mean energy, float64 (exits,)."""
        return None if self.power_w is None else self.energy_at(self.latency_s)

    def energy_at(self, latency_s: np.ndarray) -> np.ndarray:
        """Return the energy of latencies, float64 (exits,)."""
        assert self.power_w is not None
        return np.asarray(self.power_w * latency_s + self.waiting_j)

    def with_power_of(self, other: "Costs", exits: slice | list[int] = slice(None)) -> "Costs":
        """Return the costs with the power of others, of all exits or of some."""
        power_w = None if other.power_w is None else other.power_w[exits]
        noise = other.power_noise[exits] if isinstance(other.power_noise, np.ndarray) else other.power_noise
        return replace(self, power_w=power_w, power_noise=noise, waiting_j=other.waiting_j)

    def with_energies(self, energies: ExitEnergies) -> "Costs":
        """Return the costs with the power that was measured, or stated."""
        exits, waiting_j = energies.exits, 0.0
        joules = [each.energy_j for each in exits]
        if energies.every_s is not None and all(each.net_j is not None for each in exits):
            joules = [each.net_j or 0.0 for each in exits]
            waiting_j = float(np.mean([each.energy_j - net_j for each, net_j in zip(exits, joules, strict=True)]))
        power_w = np.array([energy_j / each.latency_s for energy_j, each in zip(joules, exits, strict=True)])
        noise = np.array([each.noise for each in exits])
        return replace(self, power_w=power_w, power_noise=noise, waiting_j=waiting_j)

    def with_link(self, link_j: np.ndarray) -> "Costs":
        """Return the costs with the energy of what goes to stages on servers and comes back, float64 (exits,)."""
        return self if self.power_w is None else replace(self, power_w=self.power_w + link_j / self.latency_s)

    def scaled(self, factor: float) -> "Costs":
        """Return the costs on a machine that is `factor` times as slow and draws the same power."""
        return replace(self, times_s=tuple(times * factor for times in self.times_s))

    def late_shares(self, deadline_s: float) -> np.ndarray:
        """Return the share of latencies above a deadline, float64 (exits,)."""
        return np.array([(times > deadline_s).mean() for times in self.times_s])


class ExitTable(Struct, frozen=True, kw_only=True):
    """Answers of every exit to some samples, and what leaving there costs. A static network is a table of one exit.

    Attributes:
        score: float32 (N, exits).
        label: the label each exit gives, whole numbers (N, exits).
        right: True if that label is right, bool (N, exits); None without labels. Of a network that does not classify 1 less the
            loss, float64; bool if every loss is 0 or 1.
        reference_right: the same of the reference, (N,); None without labels.
        differs: 1 if the label is another than the reference's, int8 (N, exits); of other answers the disagreement, float64, or
            int8 if every one is 0 or 1.
        costs: of leaving at each exit.
        proof: costs measured again after everything was chosen, for promises of costs; None if no cost is limited.
        known: which labels are known, bool (N,); None if all or none are. Where one is not, `right` and `reference_right` are as
            if the reference were right: nothing is lost where a label is the reference's, and else as much as can be.
        is_reference: True if this is the reference itself.
        independent: the share of the samples that count as independent: 0.2 if each stands there five times. With groups, of
            the groups.
        groups: the number of each sample's group, int64 (N,): samples of one depend on each other, and every mean is one over
            groups, which count alike. None if each sample is one of its own.
        parts: of each of which a limit may have to hold, by the name in `Target.by`.
    """

    score: np.ndarray
    label: np.ndarray
    right: np.ndarray | None
    reference_right: np.ndarray | None
    differs: np.ndarray
    costs: Costs
    proof: Costs | None = None
    known: np.ndarray | None = None
    is_reference: bool = False
    independent: float = 1.0
    groups: np.ndarray | None = None
    parts: dict[str, Parts] = {}

    def __len__(self) -> int:
        return len(self.score)

    @property
    def exits(self) -> int:
        """How many exits there are."""
        return int(self.score.shape[1])

    @property
    def draws(self) -> int:
        """How many samples, or groups, were drawn."""
        return len(self) if self.groups is None else len(np.unique(self.groups))

    @property
    def wrong(self) -> np.ndarray:
        """1 if the label is wrong, int8 (N, exits), or the loss, float64; without labels, `differs`."""
        if self.right is None:
            return self.differs
        return (~self.right).astype(np.int8) if self.right.dtype == bool else 1 - self.right

    @property
    def lost(self) -> np.ndarray:
        """1 if only the reference is right, -1 if only this exit is, else 0: int8 (N, exits); without labels, `differs`.

        Of a network that does not classify, the loss that is added, float64 from -1 to 1.
        """
        if self.right is None or self.reference_right is None:
            return self.differs
        if self.right.dtype != bool:
            return np.asarray(self.reference_right[:, None] - self.right)
        return self.reference_right[:, None].astype(np.int8) - self.right.astype(np.int8)

    @property
    def lost_at_most(self) -> np.ndarray:
        """An upper bound of `lost` with less noise: every label that is another than the last exit's counts as lost.

        Of a network that does not classify it is `lost`.
        """
        if self.lost.dtype.kind == "f" or (self.label == NO_LABEL).all():
            return self.lost
        changes = self.label != self.label[:, -1:]
        return np.asarray(np.minimum(self.lost[:, -1:] + changes, 1), np.int8)

    def rows(self, rows: np.ndarray | slice) -> "ExitTable":
        """Return the table of some of the samples."""
        parts = (self.right, self.reference_right, self.known, self.groups)
        right, reference, known, groups = (None if part is None else part[rows] for part in parts)
        return replace(
            self,
            score=self.score[rows],
            label=self.label[rows],
            right=right,
            reference_right=reference,
            differs=self.differs[rows],
            known=known,
            groups=groups,
            parts={by: parts.rows(rows) for by, parts in self.parts.items()},
        )

    def each_part(self, by: str | None) -> "list[PartTable]":
        """Return each of the parts in which limits must hold; all samples as one, without a name, if they hold over all."""
        if by is None or by not in self.parts:  # samples from outside have no groups
            return [PartTable("", np.arange(len(self)), self)]
        return [PartTable(name, rows, self.rows(rows)) for name, rows in self.parts[by].each()]

    def lacking(self, by: str | None) -> list[str]:
        """Return the names of the parts in which limits must hold and of which no sample is here."""
        return self.parts[by].lacking if by is not None and by in self.parts else []

    def per_draw(self, seen: np.ndarray) -> np.ndarray:
        """Return the values of what was drawn independently: of each sample as they are, or the mean of each group."""
        return seen if self.groups is None else group_means(seen, self.groups)

    def mean_at(self, values: np.ndarray, taken: np.ndarray) -> float:
        """Return the mean of `values_at`, over samples or over groups."""
        return float(self.per_draw(values_at(values, taken)).mean())

    def exit_shares(self, taken: np.ndarray) -> np.ndarray:
        """Return the share of samples that leave at each exit, float64 (exits,), the mean over groups if there are any."""
        weights = None if self.groups is None else 1 / np.bincount(self.groups)[self.groups]
        shares = np.bincount(taken, weights, minlength=self.exits)
        return np.asarray(shares / shares.sum())

    def columns(self, exits: Sequence[int], costs: Costs) -> "ExitTable":
        """Return the table of a chain with some of the exits, at other costs."""
        right = None if self.right is None else self.right[:, exits]
        score, label, differs = self.score[:, exits], self.label[:, exits], self.differs[:, exits]
        return replace(self, score=score, label=label, right=right, differs=differs, costs=costs)


class PartTable(NamedTuple):
    """A part of a table's samples: its name, its rows, and its own table."""

    name: str
    rows: np.ndarray
    table: ExitTable


def values_at(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return each sample's value at the exit it takes, (N,).

    Args:
        values: of leaving at each exit: (exits,) if it is the same for all samples, else (N, exits).
        taken: the exit that each sample takes, int64 (N,).
    """
    return np.asarray(values[taken] if values.ndim == 1 else values[np.arange(len(taken)), taken])


def mean_at(values: np.ndarray, taken: np.ndarray) -> float:
    """Return the mean of `values_at`."""
    return float(values_at(values, taken).mean())


def exits_taken(score: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Return the exit at which each sample leaves: int64 (N,) from scores (N, exits)."""
    if not len(thresholds):
        return np.zeros(len(score), np.int64)
    is_sure = score[:, :-1] >= np.asarray(thresholds, np.float32)
    return np.asarray(np.where(is_sure.any(axis=1), is_sure.argmax(axis=1), score.shape[1] - 1))
