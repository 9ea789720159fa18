"""A class or group that loses most, of those that a target limits one by one."""

from .record import Positive, Record

__all__ = ["WorstPart"]


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

    name: str
    of: Positive
    samples: Positive
    limit: str
    value: float
    interval: tuple[float, float]
