"""The target of a calibration: a goal and limits, checked when it is made."""

import math
from numbers import Real
from typing import Literal

import msgspec

from ..errors import UsageError, unknown_name
from ..units import show_value
from .record import Record

__all__ = ["GOALS", "LOSS_LIMITS", "MAX_LATE", "Goal", "Target", "describe_limit"]

Goal = Literal["latency", "energy", "accuracy"]

GOALS = {"latency": "the least mean latency", "energy": "the least mean energy", "accuracy": "the best accuracy"}

By = Literal["class", "group"]

BY = ("class", "group")
"""What `Target.by` may be."""

LEAST_FRACTION = 1e-9
"""The smallest limit above 0 of a share: to show it takes billions of samples."""

LOSS_LIMITS = ("min_accuracy", "max_loss", "max_drop", "max_disagreement")
"""Limits of what is lost, which ask for late exits; limits of time and energy ask for early ones."""

MAX_LATE = 0.01
"""The share of inputs that may miss a deadline by default, which makes it a limit of the 99th percentile."""


class Target(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A goal and limits. A point meets the target if it is within all the limits that are given.

    Attributes:
        goal: `latency` or `energy`, whose mean shall be least, or `accuracy`, which shall be best (without labels: agreement with
            the whole network). By default `latency` if accuracy, drop or disagreement is limited, and else `accuracy`.
        min_accuracy: the least accuracy, as a fraction.
        max_drop: the largest accuracy drop against the reference, the whole network of the bundle's first variant, as a fraction
            (0.01 is one percent).
        max_disagreement: the largest share of inputs that get another label than the reference gives them. Needs no labels.
        max_latency_s: the largest mean latency in seconds.
        deadline_s, max_late: a time in seconds, and the largest share of inputs that may take longer; one percent by default.
        max_energy_j: the largest mean energy of an inference in joules, the rest of the board included.
        link_j_per_byte: the energy of each byte that goes to a stage on a server or comes back. It is added to what the meter
            reads: give it where the meter does not see the link.
        max_loss: the largest mean loss, from 0 to 1; of a network that classifies the largest share of wrong labels.
        by: `class` or `group`: the limits of what is lost hold in each class, or in each of the groups that `calibrate` is given,
            and not only over all samples. Limits of time and energy hold over all.
        counts: what accuracy and drop are made of: `labels` that are right or wrong, or `losses` from 0 to 1 of answers that are
            no labels. Then accuracy is 1 less the mean loss, and the drop is the mean loss added. `calibrate` sets it.

    Raises:
        UsageError: no limit is given, or a value is out of range.

    Example:
        >>> from offramp.bundle import Target
        >>> print(Target(max_drop=0.01))
        the least mean latency with an accuracy drop of at most 1.00%
        >>> Target(deadline_s=0.002).limits
        {'max_late': 0.01}
    """

    goal: Goal | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None
    max_disagreement: float | None = None
    max_latency_s: float | None = None
    deadline_s: float | None = None
    max_late: float | None = None
    max_energy_j: float | None = None
    link_j_per_byte: float | None = None
    max_loss: float | None = None
    counts: Literal["labels", "losses"] = "labels"
    by: By | None = None

    def __post_init__(self) -> None:
        for name in Target.__struct_fields__:
            value = getattr(self, name)
            if name in ("goal", "counts", "by") or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Real):
                raise UsageError(f"{name} is a number, not {value!r}.")
            if not isinstance(value, int):  # NumPy's may be of 32 bits
                msgspec.structs.force_setattr(self, name, float(value))
        for name in (*LOSS_LIMITS, "max_late"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"{name} is a fraction from 0 to below 1 (0.01 is one percent), not {value}.")
            if value is not None and 0 < value < LEAST_FRACTION:
                raise UsageError(f"{name} is {value}, which no samples can show: give 0, or at least {LEAST_FRACTION}.")
        for name, unit in (
            ("max_latency_s", "time in seconds"),
            ("deadline_s", "time in seconds"),
            ("max_energy_j", "energy in joules"),
            ("link_j_per_byte", "energy in joules"),
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} is a {unit} above 0, not {value}.")
        if self.max_late is not None and self.deadline_s is None:
            raise UsageError("max_late says how many may be later than deadline_s: give both.")
        if self.deadline_s is not None and self.max_late is None:
            msgspec.structs.force_setattr(self, "max_late", MAX_LATE)
        if self.goal is not None and self.goal not in list(GOALS):
            raise unknown_name("goal", str(self.goal), GOALS)
        if self.by is not None and self.by not in BY:
            raise unknown_name("by", str(self.by), BY)
        if self.by is not None and not set(self.limits) & set(LOSS_LIMITS):
            raise UsageError(f"by={self.by!r} needs a limit of what each {self.by} may lose, such as max_drop=0.01.")
        if self.link_j_per_byte is not None and not self.needs_energy:
            raise UsageError("link_j_per_byte is part of an energy: give max_energy_j, or goal='energy', too.")
        if not self.limits:
            raise UsageError("A target needs a limit, such as max_drop=0.01 or max_latency_s=0.002.")
        if self.goal is None:
            limits_loss = any(name in LOSS_LIMITS for name in self.limits)
            msgspec.structs.force_setattr(self, "goal", "latency" if limits_loss else "accuracy")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name. A deadline is there as `max_late`, the share that may miss it."""
        names = (*LOSS_LIMITS, "max_latency_s", "max_late", "max_energy_j")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def needs_labels(self) -> bool:
        """Whether only labels can show that the target is met."""
        return not (self.min_accuracy is self.max_loss is self.max_drop is None)

    def of_losses(self) -> "Target":
        """Return the same target for answers that are judged by losses."""
        return msgspec.structs.replace(self, counts="losses")

    @property
    def needs_energy(self) -> bool:
        """Whether only a meter can show that the target is met."""
        return self.goal == "energy" or self.max_energy_j is not None

    def __str__(self) -> str:
        is_of_losses = self.goal == "accuracy" and self.counts == "losses"
        goal = "the least loss" if is_of_losses else GOALS[self.goal or "latency"]
        return f"{goal} with {self.describe_limits()}"

    def describe_limits(self) -> str:
        """Say all limits in words: `an accuracy of at least 90.00% and a mean energy of at most 4 mJ`."""
        texts = [
            describe_limit(name, value, self) + (self.where if name in LOSS_LIMITS else "")
            for name, value in self.limits.items()
        ]
        return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)

    @property
    def where(self) -> str:
        """Where limits of what is lost hold, in words: ` in every class`; nothing if they hold over all samples."""
        return "" if self.by is None else f" in every {self.by}"


def describe_limit(name: str, value: float, target: Target) -> str:
    """Say one limit in words: `an accuracy drop of at most 1.00%`."""
    shown = show_value(name, value)
    match name:
        case "min_accuracy" if target.counts == "losses":
            return f"a mean loss of at most {show_value('max_loss', 1 - value)}"
        case "min_accuracy":
            return f"an accuracy of at least {shown}"
        case "max_loss" if target.counts == "losses":
            return f"a mean loss of at most {shown}"
        case "max_loss":
            return f"a share of wrong labels of at most {shown}"
        case "max_drop" if target.counts == "losses":
            return f"a mean loss of at most {shown} more than the whole network's"
        case "max_drop":
            return f"an accuracy drop of at most {shown}"
        case "max_disagreement" if target.counts == "losses":
            return f"a mean disagreement of at most {shown} with the whole network"
        case "max_disagreement":
            return f"at most {shown} disagreement with the whole network"
        case "max_latency_s":
            return f"a mean latency of at most {shown}"
        case "max_late":
            return f"at most {shown} of the inputs later than {show_value('deadline_s', target.deadline_s or 0.0)}"
        case _:
            return f"a mean energy of at most {shown}"
