"""What a target asks of a way to run: its goal and its limits as values of leaving at each exit.

Everything that can be asked is a mean over the samples of something that depends on the exit at which each leaves. So one table
holds a chain, or a static network, which is a chain of one exit; the search, the figures and the promises all read it.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ..bundle import Target
from ..bundle.target import CAREFUL, show_value
from ..errors import require
from .certify import certify_drop, certify_mean, certify_share, share_bound
from .search import Limit, Problem, exits_taken, search

WORDS = {
    "min_accuracy": ("a share of wrong labels", True),
    "max_drop": ("an accuracy drop", True),
    "max_disagreement": ("a disagreement with the whole network", True),
    "max_latency_s": ("a mean latency", False),
    "max_late": ("a share of late inputs", True),
    "max_energy_j": ("a mean energy", False),
}
"""What each limit limits, in words, and whether that is a share."""


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

    def bound(self, name: str, target: Target, delta: float) -> np.ndarray:
        """Return upper bounds of what a limit limits, float64 (exits,), all true together but for a chance of `delta`.

        Of a share that is late it is exact (Clopper and Pearson); of a mean it is Student's, which takes the mean of some hundred
        latencies to be normal. Power is taken as it was measured.
        """
        each = delta / len(self.times_s)
        if name == "max_late":
            late = [int((times > (target.deadline_s or 0.0)).sum()) for times in self.times_s]
            return np.array([share_bound(k, len(t), delta=each) for k, t in zip(late, self.times_s, strict=True)])
        stdtrit = require("scipy.special", extra="calibrate").stdtrit
        spread = [stdtrit(len(t) - 1, 1 - each) * t.std(ddof=1) / len(t) ** 0.5 for t in self.times_s]
        upper_s: np.ndarray = self.latency_s + np.array(spread)
        return upper_s if self.power_w is None or name == "max_latency_s" else np.asarray(self.power_w * upper_s)


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


def limited(table: Table, target: Target) -> dict[str, tuple[np.ndarray, float]]:
    """Return by each limit's name what leaving at each exit gives, as `search.Limit.value`, and how large its mean may be."""
    found: dict[str, tuple[np.ndarray, float]] = {}
    for name, most in target.limits.items():
        match name:
            case "min_accuracy":
                found[name] = table.wrong, 1 - most
            case "max_drop":
                found[name] = table.lost, most
            case "max_disagreement":
                found[name] = table.differs, most
            case "max_latency_s":
                found[name] = table.costs.latency_s, most
            case "max_late":
                found[name] = table.costs.late(target.deadline_s or 0.0), most
            case _:
                assert table.costs.energy_j is not None
                found[name] = table.costs.energy_j, most
    return found


def goal_of(table: Table, target: Target) -> np.ndarray:
    """Return what the target wants the least of, as `search.Limit.value`."""
    if target.goal == "accuracy":
        return table.wrong
    if target.goal == "energy":
        assert table.costs.energy_j is not None
        return table.costs.energy_j
    return table.costs.latency_s


def find_thresholds(
    table: Table, target: Target, *, margin: float, few: bool = False, coarse: bool = False
) -> tuple[float, ...] | None:
    """Find the thresholds that are best for a target; None where none keep its limits.

    Args:
        table: of the samples that choose.
        target: the target.
        margin: how many standard errors to stay away from the limits, so that other samples keep them too.
        coarse: whether a coarse grid will do.
        few: of few samples the drop is too uncertain to choose by: what is lost at most stands for it.
    """
    lost = table.lost_at_most if few else table.lost
    limits = []
    for name, (value, most) in limited(table, target).items():
        limits.append(Limit(lost if name == "max_drop" else value, most, margin))
    second = table.costs.latency_s if target.goal == "accuracy" else lost
    how = {"values": 16, "fine": 64} if coarse else {}
    return search(Problem(table.score, goal_of(table, target), second, tuple(limits)), **how)


def mean_of(value: np.ndarray, taken: np.ndarray) -> float:
    """Return the mean of what leaving at each exit gives, over samples that leave at the exits `taken`, int64 (N,)."""
    return float(at_exits(value, taken).mean())


def at_exits(value: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return what each sample gives that leaves at its exit of `taken`: (N,)."""
    return np.asarray(value[taken] if value.ndim == 1 else value[np.arange(len(taken)), taken])


def keeps(table: Table, target: Target, taken: np.ndarray) -> bool:
    """Tell whether samples that leave at some exits keep a target's limits."""
    return all(mean_of(value, taken) <= most for value, most in limited(table, target).values())


def certify(table: Table, target: Target, path: np.ndarray, *, delta: float) -> tuple[int | None, str]:
    """Find the last candidate of a path of which all of a target's limits can be promised.

    Args:
        table: of samples that had no part in the path.
        target: the target.
        path: thresholds, float32 (steps, exits - 1), in the order in which they are tested.
        delta: the chance of a false promise.

    Returns:
        Its index, or None and why nothing can be promised.
    """
    found = limited(table, target)
    for name in ("max_drop", "max_disagreement"):
        if found.get(name, (0, 1.0))[1] <= 0 and not table.is_whole:
            return None, f"Nothing is promised: no number of samples shows that {WORDS[name][0]} is 0."
    if costly := [name for name in found if name not in CAREFUL]:
        # One half of what may go wrong is for the exits' costs, the other for how often each is taken.
        delta /= 2
        for name in costly:
            found[name] = (table.proof or table.costs).bound(name, target, delta / len(costly)), found[name][1]
    step, failed = None, ""
    for i, thresholds in enumerate(path):
        taken = exits_taken(table.score, thresholds.tolist())
        failed = next((name for name, one in found.items() if not _holds(table, name, *one, taken, delta)), "")
        if failed:
            break
        step = i
    if step is not None:
        return step, ""
    value, most = found[failed]
    return None, _explain(at_exits(value, exits_taken(table.score, path[0].tolist())), most, failed, delta)


def _holds(table: Table, name: str, value: np.ndarray, most: float, taken: np.ndarray, delta: float) -> bool:
    seen = at_exits(value, taken)
    if name == "max_drop":
        if table.is_whole:
            return True
        return certify_drop(int((seen > 0).sum()), int((seen < 0).sum()), len(seen), eps=most, delta=delta)
    if name == "max_disagreement" and table.is_whole:
        return True
    if value.ndim == 2:
        return certify_share(int(seen.sum()), len(seen), most, delta=delta)
    return certify_mean(seen, most, least=float(value.min()), most=float(value.max()), delta=delta)


def _explain(seen: np.ndarray, most: float, name: str, delta: float) -> str:
    """Say why even the first candidate of a path cannot be promised, and how many samples could."""
    n, mean, z = len(seen), float(seen.mean()), NormalDist().inv_cdf(1 - delta)
    what, share = WORDS[name]
    if mean >= most:
        return f"Nothing is promised: even the most cautious candidate has {what} of {show_value(name, mean)} on these samples."
    # A test passes at about z standard errors; with as many again it passes in most draws.
    spread = max(float(seen.var()), (1.0 if share else float(np.ptp(seen))) / n)
    needed = max(math.log(1 / delta) * (1 - most) / most if share else 0.0, spread * (2 * z / (most - mean)) ** 2)
    return (
        f"Nothing is promised: {n} samples cannot show at {1 - delta:.1%} confidence that {what} is at most "
        f"{show_value(name, most)}. About {max(n + 1, math.ceil(needed / 100) * 100)} could."
    )
