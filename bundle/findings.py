"""What a calibration found beside its points: variants that were barred, and the classes or groups that lose most."""

from collections.abc import Sequence

from ..units import show_share
from .record import Positive, Record, Seconds, Share, Text, Texts

__all__ = ["Exclusion", "Spread", "WorstPart", "show_worst"]

WORDS = {
    "max_drop": "a drop",
    "max_disagreement": "a disagreement with the whole network",
    "max_loss": "a mean loss",
    "min_accuracy": "a share of wrong labels",
}
"""What each limit limits, in words."""


class Exclusion(Record, frozen=True, kw_only=True):
    """A compressed variant that was barred from the search, because it is slower or much worse than its parent on this device.

    Attributes:
        variant, placement: the variant, and the device of each of its stages.
        parent: the variant it was compared with.
        latency_s, parent_latency_s: median latency to the last exit.
        accuracy, parent_accuracy: share of right labels on the selecting samples, at the exit that loses most beyond the limit;
            at the last exit if none does. None if unknown.
        reason: why it was barred, in words.
    """

    variant: Text
    placement: Texts
    parent: Text
    latency_s: Seconds
    parent_latency_s: Seconds
    accuracy: Share | None
    parent_accuracy: Share | None
    reason: Text


class Spread(Record, frozen=True):
    """How long a point with the same thresholds takes on the boards of a fleet.

    Attributes:
        boards, kinds: how many boards measured it, and of how many kinds they are; a promise is proven on each.
        least_s, median_s, most_s: mean latencies: the fastest board's, the lower median, and the slowest board's.
        slowest: the name of the slowest board.
    """

    boards: Positive
    kinds: Positive
    least_s: Seconds
    median_s: Seconds
    most_s: Seconds
    slowest: Text


class WorstPart(Record, frozen=True):
    """What one of the classes or groups loses. Those that lose most stand first.

    Attributes:
        name: of the class or group.
        of: how many there are.
        samples: how many of its samples give the value.
        limit: the limit that the value stands beside: `max_drop`, `max_disagreement`, `max_loss`, or `min_accuracy`, where the
            value is the share of wrong labels.
        value: the mean that is limited.
        interval: its 95 % interval; those of all classes or groups hold together.
    """

    name: Text
    of: Positive
    samples: Positive
    limit: Text
    value: float
    interval: tuple[float, float]


def show_worst(worst: Sequence[WorstPart]) -> str:
    """Name the class or group that loses most: `worst of 10: cat, a drop of 1.20% on 212 samples (0.10% to 3.70%)`."""
    first = worst[0]
    name = f"'{first.name}'" if "," in first.name else first.name
    low, high = map(show_share, first.interval)
    return (
        f"worst of {first.of}: {name}, {WORDS.get(first.limit, first.limit)} of {show_share(first.value)} on "
        f"{first.samples} samples (95 % interval {low} to {high}, of all {first.of} together)"
    )
