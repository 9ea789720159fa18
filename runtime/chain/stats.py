"""What a running network tells of itself: how often each exit was taken, how long it took, and what power the board drew."""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from msgspec import Struct

from ...devices.state import BoardState, State
from ...devices.watch import Power, Watch

RECENT_CALLS = 4096
"""So many calls make the latency percentiles."""

MOST_UNSEEN = 0.1
"""The share of the time that may pass unseen, until joules per inference say nothing."""

LATENCY_PERCENTILES = (50, 90, 99, 99.9)


class Stats(Struct, frozen=True, kw_only=True):
    """What a network has done since it was loaded, or since the last reset.

    Attributes:
        inferences: samples that were answered, one by one or in batches.
        exit_counts, exit_shares: how many of them left at each exit, and their share; shares are 0 where there are none.
        latency_s: `mean`, `p50`, `p90`, `p99`, `p99.9` and `most` of the last 4096 calls with one sample; empty before the first.
        power: what the board drew; None where the network was loaded without a meter.
        energy_per_inference_j: the board's energy, its rest included, over the inferences of this network and its clones; None
            where it is not known. `power.grade` says what kind of joules these are.
        state: the board's clocks and temperature now, and what throttles it.
    """

    inferences: int
    exit_counts: tuple[int, ...]
    exit_shares: tuple[float, ...]
    latency_s: dict[str, float]
    power: Power | None
    energy_per_inference_j: float | None
    state: State


class Family:
    """The tallies of a network and its clones, which share the board's power; of those that are gone only the sum is kept."""

    def __init__(self) -> None:
        self.tallies: list[Tally] = []
        self.gone = 0

    def count(self) -> int:
        """Return how many samples all of them have answered."""
        return self.gone + sum(sum(one.counts) for one in list(self.tallies))

    def bury(self, tally: "Tally") -> None:
        """Keep nothing of a tally but what it adds to the sum."""
        self.tallies.remove(tally)
        self.gone += sum(tally.counts)

    def clear(self) -> None:
        """Begin anew."""
        self.gone = 0
        for one in list(self.tallies):
            one.counts[:] = [0] * len(one.counts)
            one.recent.clear()


class Tally:
    """Counts the answers of one network."""

    def __init__(self, exits: int, family: Family) -> None:
        self.counts = [0] * exits
        self.recent: deque[int] = deque(maxlen=RECENT_CALLS)
        self.family = family
        family.tallies.append(self)

    def add(self, exits: np.ndarray) -> None:
        """Count a batch, by the exits that were taken."""
        for k, count in enumerate(np.bincount(exits, minlength=len(self.counts)).tolist()):
            self.counts[k] += count


@lru_cache(maxsize=1)
def _board_state() -> BoardState:
    """Look once for what tells the board's state."""
    return BoardState()


def make_stats(counts: tuple[int, ...], recent: Sequence[int], family: Family, watch: Watch | None) -> Stats:
    """Make the statistics of a network: its answers by exit, nanoseconds of its last calls, those it shares its power with."""
    power = watch.power() if watch else None
    return Stats(
        inferences=sum(counts),
        exit_counts=counts,
        exit_shares=tuple(count / max(1, sum(counts)) for count in counts),
        latency_s=_latencies(recent),
        power=power,
        energy_per_inference_j=_share_out(power, family.count()),
        state=power.state if power and power.meter else _board_state()(),
    )


def _latencies(recent: Sequence[int]) -> dict[str, float]:
    if not recent:
        return {}
    seconds = np.array(recent) * 1e-9
    values = np.percentile(seconds, LATENCY_PERCENTILES, method="inverted_cdf").tolist()
    named = {f"p{p}": value for p, value in zip(LATENCY_PERCENTILES, values, strict=True)}
    return {"mean": float(seconds.mean()), **named, "most": float(seconds.max())}


def _share_out(power: Power | None, inferences: int) -> float | None:
    """Return joules per inference; None where there are no inferences, or where too much of the time went unseen."""
    if power is None or power.mean_w is None or not inferences:
        return None
    time_s = power.seen_s + power.unseen_s
    return power.mean_w * time_s / inferences if power.unseen_s <= MOST_UNSEEN * time_s else None
