"""The statistics of a running network: how often each exit was taken, how long calls took, and what power the board drew."""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from ...devices.state import BoardState, State
from .lazy import Loads

if TYPE_CHECKING:  # most products watch no power
    from ...devices.watch import Power, Watch
    from ..audit.figures import FieldAudit
    from .faults import FaultCounts

RECENT_CALLS = 4096
"""The latency percentiles are those of so many calls."""

MOST_UNSEEN = 0.1
"""If the meter missed more than this share of the time, joules per inference are not known."""

LEAST_COMPARED = 100
"""Fewer calls are not compared with what was calibrated: the first ones are slow."""

FAR = 1.5
"""A mean latency is far from the calibrated one if one of them is so many times the other."""

LATENCY_PERCENTILES = (50, 90, 99, 99.9)


class Stats(Struct, frozen=True, kw_only=True):
    """What a network has done since it was loaded, or since the last reset.

    Attributes:
        inferences: the number of samples answered, one by one or in batches.
        exit_counts: how many samples left at each exit, by its number as in `Result.exit`.
        exit_shares: the same as shares of `inferences`; all 0 before the first sample.
        latency_s: `mean`, `p50`, `p90`, `p99`, `p99.9` and `most` of the last 4096 calls with one sample; empty before the first.
        power: what the board drew; None if the network was loaded without a meter.
        energy_per_inference_j: the whole board's energy, divided by the inferences of this network and its clones; None if it is
            not known. `power.grade` says how the joules were got.
        state: the board's clocks and temperature now, and what throttles it.
        slowdown: how many times as long the calls took, in the mean, as was calibrated for the exits that were taken; None if
            that is unknown, or before 100 calls.
        notice: says if calls take much longer, or shorter, than the operating point was calibrated with; empty if they do not.
        cut: how many calls left before they would have, because of their deadline.
        late: how many calls answered after their deadline.
        lazy: what stages that are loaded when they are used have done; None if there are none. `slowdown` leaves out calls that
            went as far.
        faults: what has failed; None unless the network was loaded with `on_fault` or `stage_limit_s`.
        audit: what a random share of the inputs shows of the promise; None if the network was loaded without `audit`.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime import load_uncalibrated
        >>> net = load_uncalibrated("digits.offramp")
        >>> result = net(np.load("test.npz")["x"][0])
        >>> net.stats().inferences, net.stats().power
        (1, None)
    """

    inferences: int
    exit_counts: tuple[int, ...]
    exit_shares: tuple[float, ...]
    latency_s: dict[str, float]
    power: "Power | None"
    energy_per_inference_j: float | None
    state: State
    notice: str = ""
    slowdown: float | None = None
    cut: int = 0
    late: int = 0
    lazy: Loads | None = None
    faults: "FaultCounts | None" = None
    audit: "FieldAudit | None" = None


class Family:
    """The tallies of a network and its clones, which share the board's power.

    Attributes:
        tallies: those of the networks that live.
        earlier: the number of samples answered by networks that are closed or collected.
    """

    def __init__(self) -> None:
        self.tallies: list[Tally] = []
        self.earlier = 0

    def count(self) -> int:
        """Return how many samples all networks have answered."""
        return self.earlier + sum(sum(tally.counts) for tally in list(self.tallies))

    def forget(self, tally: "Tally") -> None:
        """Drop the tally of a network that goes; its number of samples stays in the sum."""
        self.tallies.remove(tally)
        self.earlier += sum(tally.counts)

    def clear(self) -> None:
        """Set every count to 0."""
        self.earlier = 0
        for tally in list(self.tallies):
            tally.counts[:] = [0] * len(tally.counts)
            tally.recent.clear()
            tally.recent_exits.clear()
            tally.cut = tally.late = tally.untimed = 0


class Tally:
    """Counts the answers of one network.

    Attributes:
        counts: answers by exit.
        recent, recent_exits: nanoseconds of the last calls with one sample, and the exit of each.
        cut, late: calls that left early because of their deadline, and calls that missed it.
        untimed: answers that are not among the calls with one sample: those of batches and of `anytime`.
        family: the tallies of this network and its clones.
    """

    def __init__(self, exits: int, family: Family) -> None:
        self.counts = [0] * exits
        self.cut = self.late = self.untimed = 0
        self.recent: deque[int] = deque(maxlen=RECENT_CALLS)
        self.recent_exits: deque[int] = deque(maxlen=RECENT_CALLS)
        self.family = family
        family.tallies.append(self)

    def add(self, exits: np.ndarray) -> None:
        """Count a batch whose samples left at these exits."""
        self.untimed += len(exits)
        for k, count in enumerate(np.bincount(exits, minlength=len(self.counts)).tolist()):
            self.counts[k] += count


@lru_cache(maxsize=1)
def _board_state() -> BoardState:
    """Return the reader of the board's state; its files are looked for once."""
    return BoardState()


def make_stats(
    counts: tuple[int, ...],
    recent: Sequence[int],
    recent_exits: Sequence[int],
    tally: Tally,
    watch: "Watch | None",
    expected_s: Sequence[float] = (),
    lazy: Loads | None = None,
) -> Stats:
    """Make the statistics of a network.

    Args:
        counts: its answers by exit.
        recent, recent_exits: nanoseconds of its last calls with one sample, and the exit of each.
        tally: its tally, and by that those of its clones, which share the board's power.
        watch: what watches the power.
        expected_s: latency of leaving at each exit, as it was calibrated, up to the last that is to be compared; may be empty.
        lazy: what its lazy stages have done.
    """
    power = watch.power() if watch else None
    slowdown = _find_slowdown(recent, recent_exits, expected_s)
    return Stats(
        inferences=sum(counts),
        exit_counts=counts,
        exit_shares=tuple(count / max(1, sum(counts)) for count in counts),
        latency_s=_latencies(recent),
        notice=_describe_slowdown(slowdown),
        slowdown=slowdown,
        power=power,
        energy_per_inference_j=_share_out(power, tally.family.count()),
        state=power.state if power and power.meter else _board_state()(),
        cut=tally.cut,
        late=tally.late,
        lazy=lazy,
    )


def _latencies(recent: Sequence[int]) -> dict[str, float]:
    if not recent:
        return {}
    seconds = np.array(recent) * 1e-9
    values = np.percentile(seconds, LATENCY_PERCENTILES, method="inverted_cdf").tolist()
    named = {f"p{p}": value for p, value in zip(LATENCY_PERCENTILES, values, strict=True)}
    return {"mean": float(seconds.mean()), **named, "most": float(seconds.max())}


def _find_slowdown(recent: Sequence[int], exits: Sequence[int], expected_s: Sequence[float]) -> float | None:
    """Return how many times as long the mean call took as the calibration makes of the exits that were taken."""
    pairs = zip(reversed(recent), reversed(exits), strict=False)  # an interruption may have left one without the other
    compared = [(spent, expected_s[k]) for spent, k in pairs if k < len(expected_s)]
    if len(compared) < LEAST_COMPARED:
        return None
    spent, expected = np.mean(compared, axis=0).tolist()
    return spent * 1e-9 / expected if expected > 0 else None


def _describe_slowdown(slowdown: float | None) -> str:
    """Say if the mean latency is far from the calibrated one."""
    if slowdown is None or 1 / FAR <= slowdown <= FAR:
        return ""
    return (
        f"calls take {slowdown:.2g} times as long as was calibrated for the exits that were taken: the pace, the load or the "
        "clocks are others than then. Calibrate as the product runs (--every)."
    )


def _share_out(power: "Power | None", inferences: int) -> float | None:
    """Return joules per inference; None if there was no inference, or if the meter missed too much of the time."""
    if power is None or power.mean_w is None or not inferences:
        return None
    time_s = power.seen_s + power.unseen_s
    return power.mean_w * time_s / inferences if power.unseen_s <= MOST_UNSEEN * time_s else None
