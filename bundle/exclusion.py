"""A variant that takes no part in the search of a calibration."""

from .record import Record, Seconds, Share, Text, Texts

__all__ = ["Exclusion"]


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
