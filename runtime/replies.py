"""What a stream answers, and what became of its inputs."""

from msgspec import Struct

from .chain.results import Result

__all__ = ["Reply", "StreamStats"]


class Reply(Struct, frozen=True, gc=False):
    """The answer to one input of a stream.

    Attributes:
        number: which input it is, counted from 0 as they came; dropped ones count.
        result: the network's answer.
        label: its label, smoothed over the last inputs if the stream has a window.
        waited_s: time from coming to the start of its call.
        hurried: True if it left at the first exit because too many inputs waited. Nothing is promised of it then.

    Example:
        >>> from offramp.runtime import Reply, Result
        >>> Reply(number=0, result=Result(3, 0.98, 0, 0.0002), label=3, waited_s=0.0).result.exit
        0
    """

    number: int
    result: Result
    label: int
    waited_s: float
    hurried: bool = False


class StreamStats(Struct, frozen=True, kw_only=True):
    """What became of the inputs of a stream: `came` is the sum of `answered`, `dropped`, `refused` and `waiting`.

    Attributes:
        came: how many came.
        answered: how many were answered, the hurried ones included.
        hurried: how many left at the first exit because too many waited.
        reused: how many of the answered got the last answer again.
        dropped: how many were dropped unanswered.
        refused: how many raised an error, such as one that holds NaN.
        waiting: how many wait, or are being answered.

    Example:
        >>> from offramp.runtime import Stream, load_uncalibrated
        >>> Stream(load_uncalibrated("digits.offramp")).stats().came
        0
    """

    came: int
    answered: int
    hurried: int
    dropped: int
    refused: int
    waiting: int
    reused: int = 0
