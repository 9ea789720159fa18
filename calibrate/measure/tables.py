"""Answers and costs by exit, from which every figure is computed."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace


class Costs(Struct, frozen=True):
    """What leaving at each exit costs.

    Attributes:
        times_s: the latencies that were measured, one float64 array per exit.
        power_w: what the board draws meanwhile, float64 (exits,); None where it was not measured.
    """

    times_s: tuple[np.ndarray, ...]
    power_w: np.ndarray | None = None

    @property
    def latency_s(self) -> np.ndarray:
        """Mean latency, float64 (exits,)."""
        return np.array([times.mean() for times in self.times_s])

    @property
    def energy_j(self) -> np.ndarray | None:
        """Mean energy, float64 (exits,)."""
        return None if self.power_w is None else self.power_w * self.latency_s

    def scaled(self, factor: float) -> "Costs":
        """Return the costs of a machine that takes so many times as long; it draws the same meanwhile."""
        return Costs(tuple(times * factor for times in self.times_s), self.power_w)

    def late(self, deadline_s: float) -> np.ndarray:
        """Return the share of latencies above a deadline, float64 (exits,)."""
        return np.array([(times > deadline_s).mean() for times in self.times_s])


class Table(Struct, frozen=True, kw_only=True):
    """What a way to run gives for some samples, leaving at each of its exits.

    Attributes:
        score: float32 (N, exits).
        label: what it says, whole numbers (N, exits).
        right: whether the label is right, bool (N, exits); None without labels.
        whole: whether that of the yardstick is, the whole network of the first variant, bool (N,); None without labels.
        differs: whether the label is another than the yardstick's, int8 (N, exits).
        costs: of leaving at each exit.
        proof: costs that were measured after everything was chosen, by which those are promised; None where none are limited.
        is_whole: whether this is the yardstick itself.
    """

    score: np.ndarray
    label: np.ndarray
    right: np.ndarray | None
    whole: np.ndarray | None
    differs: np.ndarray
    costs: Costs
    proof: Costs | None = None
    is_whole: bool = False

    def __len__(self) -> int:
        return len(self.score)

    @property
    def wrong(self) -> np.ndarray:
        """Whether the label is wrong, or without labels, another than the yardstick's: int8 (N, exits)."""
        return self.differs if self.right is None else (~self.right).astype(np.int8)

    @property
    def lost(self) -> np.ndarray:
        """1 where only the yardstick is right, -1 where it alone is not: int8 (N, exits); without labels, where they differ."""
        if self.right is None or self.whole is None:
            return self.differs
        return self.whole[:, None].astype(np.int8) - self.right.astype(np.int8)

    @property
    def lost_at_most(self) -> np.ndarray:
        """As `lost`, or more: every label that is another than the last exit's counts as lost. It is less noisy."""
        changes = self.label != self.label[:, -1:]
        return np.asarray(np.minimum(self.lost[:, -1:] + changes, 1), np.int8)

    def rows(self, rows: np.ndarray) -> "Table":
        """Return the table of some of the samples."""
        right, whole = (None if part is None else part[rows] for part in (self.right, self.whole))
        score, label, differs = self.score[rows], self.label[rows], self.differs[rows]
        return replace(self, score=score, label=label, right=right, whole=whole, differs=differs)

    def columns(self, exits: Sequence[int], costs: Costs) -> "Table":
        """Return the table of a chain with some of the exits."""
        right = None if self.right is None else self.right[:, exits]
        score, label, differs = self.score[:, exits], self.label[:, exits], self.differs[:, exits]
        return replace(self, score=score, label=label, right=right, differs=differs, costs=costs)


def mean_of(value: np.ndarray, taken: np.ndarray) -> float:
    """Return the mean of what leaving at each exit gives, over samples that leave at the exits `taken`, int64 (N,)."""
    return float(at_exits(value, taken).mean())


def at_exits(value: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return what each sample gives that leaves at its exit of `taken`: (N,)."""
    return np.asarray(value[taken] if value.ndim == 1 else value[np.arange(len(taken)), taken])


def exits_taken(score: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Return the exit at which each sample leaves: int64 (N,) from scores (N, exits)."""
    if not len(thresholds):
        return np.zeros(len(score), np.int64)
    sure = score[:, :-1] >= np.asarray(thresholds, np.float32)
    return np.asarray(np.where(sure.any(axis=1), sure.argmax(axis=1), score.shape[1] - 1))
