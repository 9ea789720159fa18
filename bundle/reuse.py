"""The temporal rule of an operating point: when the last answer is given again, and what is promised of that."""

from typing import Annotated

from msgspec import Meta

from ..errors import UsageError
from ..units import show_confidence, show_share, show_time
from .record import Count, Positive, Record, Seconds, Share, Text

__all__ = ["Reuse"]

LEAST_SAVED = 0.02
"""The share of the mean time that a rule must save, else it does not pay."""

LOSSES = {"max_disagreement": "changes at most {} of the answers", "max_drop": "costs at most {} of accuracy"}


class Reuse(Record, frozen=True, kw_only=True):
    """When a stream gives its last answer again: the first stage's features have hardly changed since that was made.

    `calibrate_reuse` finds one for each operating point, with a promise. One that is made by hand promises nothing.

    Attributes:
        difference: how far the features may be from those of the sample that was answered last: the norm of the change over
            the norm of what they were. 0.1 is a change by a tenth.
        most_in_row: how often one answer is given again at most. Then a sample runs on, however little has changed.
        limit, most: what is limited, `max_disagreement` or `max_drop`, and to what: against the same operating point that runs
            every sample on. Empty and 1 if nothing is promised.
        confidence: all rules that were made together keep their limits with at least this probability over the clips drawn.
        rules: how many were made together.
        clips, samples: how many clips, and samples in them, the rule was tested on.
        loss: what it lost on these, the mean over clips of the share that is limited.
        share: the share of samples that got the last answer again, the mean over clips.
        latency_s, plain_latency_s: mean time of a sample with the rule and without it, measured in turn on some of the clips.

    Raises:
        UsageError: `difference` is below 0, or `most_in_row` below 1.

    Example:
        >>> from offramp.bundle import Reuse
        >>> Reuse(difference=0.1).promise
        'Nothing is promised of answers that are given again: this rule was not calibrated.'
    """

    difference: Annotated[float, Meta(ge=0)]
    most_in_row: Positive = 10
    limit: Text = ""
    most: Share = 1.0
    confidence: Share | None = None
    rules: Positive = 1
    clips: Count = 0
    samples: Count = 0
    loss: float = 0.0
    share: Share = 0.0
    latency_s: Seconds | None = None
    plain_latency_s: Seconds | None = None

    def __post_init__(self) -> None:
        if not self.difference >= 0 or self.most_in_row < 1:
            raise UsageError(
                f"A rule for reuse has a difference of 0 or more, not {self.difference}, and gives an answer again once or more "
                f"in a row, not {self.most_in_row} times."
            )

    @property
    def promise(self) -> str:
        """What is promised, in words."""
        if self.confidence is None or self.limit not in LOSSES:
            return "Nothing is promised of answers that are given again: this rule was not calibrated."
        what = LOSSES[self.limit].format(show_share(self.most))
        all_ = f" (all {self.rules} rules together)" if self.rules > 1 else ""
        return (
            f"With {show_confidence(1 - self.confidence)} confidence{all_}, giving the last answer again {what}, in the "
            f"mean over clips like these {self.clips}, beside running every sample on."
        )

    @property
    def pays(self) -> bool:
        """True if a sample surely takes less time with the rule, as far as that was measured."""
        times = self.latency_s, self.plain_latency_s
        return times[0] is not None and times[1] is not None and times[0] <= (1 - LEAST_SAVED) * times[1]

    @property
    def verdict(self) -> str:
        """`pays` in words."""
        if self.latency_s is None or self.plain_latency_s is None:
            return "What the rule saves was not measured."
        times = f"{show_time(self.latency_s)} a sample with the rule, {show_time(self.plain_latency_s)} without"
        if self.pays:
            return f"It pays: {times}. The last answer is given again to {show_share(self.share)} of the samples."
        return f"It does not pay, leave it out: {times}. The first stage and the comparison of its features always run."
