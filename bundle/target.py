"""What a calibration is asked for: what to optimise, and under which limits."""

import math
from typing import Literal

import msgspec

from ..errors import UsageError, unknown_name
from ..units import show_value
from .manifest import Record

Goal = Literal["latency", "energy", "accuracy"]

GOALS = {"latency": "the least mean latency", "energy": "the least mean energy", "accuracy": "the best accuracy"}

LOSS_LIMITS = ("min_accuracy", "max_drop", "max_disagreement")
"""Limits that ask for late exits; the others ask for early ones."""

MAX_LATE = 0.01
"""How many may miss a deadline where nothing is said: it is then the 99th percentile's limit."""


class Target(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What to optimise, and under which limits; all limits that are given are kept at once.

    Attributes:
        goal: `latency` or `energy`, whose mean is to be least, or `accuracy`, which is to be best (without labels: agreement with
            the whole network). By default the latency under limits of accuracy, and the accuracy under others alone.
        min_accuracy: the least accuracy, as a fraction.
        max_drop: the largest accuracy drop against the whole network of the bundle's first variant, as a fraction (0.01 is one
            percent).
        max_disagreement: the largest share of inputs that get another label than that network gives them. Needs no labels.
        max_latency_s: the largest mean latency in seconds.
        deadline_s, max_late: the largest share of inputs that may take longer than a time in seconds; one percent by default.
        max_energy_j: the largest mean energy of an inference in joules, the board's rest included.

    Raises:
        UsageError: nothing is limited, or something is out of range.
    """

    goal: Goal | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None
    max_disagreement: float | None = None
    max_latency_s: float | None = None
    deadline_s: float | None = None
    max_late: float | None = None
    max_energy_j: float | None = None

    def __post_init__(self) -> None:
        for name in Target.__struct_fields__:
            value = getattr(self, name)
            if (
                name != "goal"
                and value is not None
                and (isinstance(value, bool) or not isinstance(value, (int, float)))
            ):
                raise UsageError(f"{name} is a number, not {value!r}.")
        for name in (*LOSS_LIMITS, "max_late"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"{name} is a fraction from 0 to below 1 (0.01 is one percent), not {value}.")
        for name, unit in (
            ("max_latency_s", "time in seconds"),
            ("deadline_s", "time in seconds"),
            ("max_energy_j", "energy in joules"),
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
        if not self.limits:
            raise UsageError("A target needs a limit, such as max_drop=0.01 or max_latency_s=0.002.")
        careful = any(name in LOSS_LIMITS for name in self.limits)
        if self.goal is None:
            msgspec.structs.force_setattr(self, "goal", "latency" if careful else "accuracy")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name; of a deadline the share that may be late, as `max_late`."""
        names = (*LOSS_LIMITS, "max_latency_s", "max_late", "max_energy_j")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def needs_labels(self) -> bool:
        """Whether it takes labels to tell that it is met."""
        return self.min_accuracy is not None or self.max_drop is not None

    @property
    def needs_energy(self) -> bool:
        """Whether it takes a meter."""
        return self.goal == "energy" or self.max_energy_j is not None

    def __str__(self) -> str:
        return f"{GOALS[self.goal or 'latency']} with {self.describe_limits()}"

    def describe_limits(self) -> str:
        """Say in words what is limited."""
        said = [describe_limit(name, value, self) for name, value in self.limits.items()]
        return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def describe_limit(name: str, value: float, target: Target) -> str:
    """Say one limit in words."""
    shown = show_value(name, value)
    match name:
        case "min_accuracy":
            return f"an accuracy of at least {shown}"
        case "max_drop":
            return f"an accuracy drop of at most {shown}"
        case "max_disagreement":
            return f"at most {shown} disagreement with the whole network"
        case "max_latency_s":
            return f"a mean latency of at most {shown}"
        case "max_late":
            return f"at most {shown} of the inputs later than {show_value('deadline_s', target.deadline_s or 0.0)}"
        case _:
            return f"a mean energy of at most {shown}"
