"""The last answer given again while the first stage's features hardly change.

    features of stage 0 --> leaves at exit 0 by its threshold? --yes--> that answer, which is kept with its features
                                                |no
                            near to the features that were kept? --yes--> the answer that was kept, marked
                                                |no
                            the later stages run --> their answer, which is kept with its features

The rule is that of Difference Detection (Sponner, Servadei, Waschneck, Wille and Kumar, arXiv 2403.07958): a sample is compared
with the one that was really answered last, not with the one before it, so that a scene that drifts slowly is not followed for
ever. They compare what the first exit answers, and before it is asked. Here the first stage's features are compared, as temporal
early exits for video do (Sabet, Hare, Al-Hashimi and Merrett, arXiv 2106.11208), by a norm that needs no training; and only where
the first exit is not sure, since a fresh answer costs no more than an old one.
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from msgspec.structs import replace

from ...bundle import Reuse
from ...errors import UsageError
from .deadlines import MOST_DEADLINE_S
from .results import Result
from .runner import Setup

if TYPE_CHECKING:
    from .net import Net

__all__ = ["LastAnswer", "ReuseDeadline", "Reuser"]

_sum_squares = np.einsum  # a dot product would start the threads of NumPy's BLAS


class LastAnswer(Protocol):
    """What a call asks behind its first stage, and tells its answer, while the features are in memory."""

    def find(self, setup: Setup) -> Result | None:
        """Return the answer to give again, or None."""

    def keep(self, setup: Setup, result: Result) -> None:
        """Take the answer of a stage."""


class ReuseDeadline(float):
    """A deadline that brings along what is asked for the last answer. Whatever wraps the call of a network hands it on.

    Args:
        last_answer: what is asked.
        deadline_s: the deadline; None is none.
    """

    last_answer: LastAnswer

    def __new__(cls, last_answer: LastAnswer, deadline_s: float | None = None) -> "ReuseDeadline":
        """Return the deadline."""
        self = super().__new__(cls, MOST_DEADLINE_S if deadline_s is None else deadline_s)
        self.last_answer = last_answer
        return self


class Reuser:
    """Calls a network, and gives its last answer again where a rule allows it. For one thread, and for samples in order.

    Args:
        net: the network.
        rule: the rule; None takes that of the operating point in use, while the network runs at that point's thresholds.

    Attributes:
        reused: how often an answer was given again.

    Raises:
        UsageError: no later stage reads what the first one writes, or that lies in a device's own memory.
    """

    def __init__(self, net: "Net", rule: Reuse | None = None) -> None:
        self.reused = 0
        self._net, self._given, self._no_deadline = net, rule, ReuseDeadline(self)
        self._names = [tensor.name for tensor in net._stages[0].outputs]
        if not self._names:
            raise UsageError("The first stage hands nothing on that could be compared from one input to the next.")
        self._setup: Setup | None = None
        self._last: Result | None = None
        self._row, self._most_change = 0, 0.0
        if net._setup.memory is not None:  # else it is there with the first sample
            self._turn_to(net._setup)

    def __call__(self, x: object, deadline_s: float | None = None) -> Result:
        """Answer a sample, or give the last answer again."""
        return self._net(x, self._no_deadline if deadline_s is None else ReuseDeadline(self, deadline_s))

    def find(self, setup: Setup) -> Result | None:
        """Return the last answer, if it is to be given again to the sample whose features are in memory; else None."""
        if setup is not self._setup:
            self._turn_to(setup)
        if self._last is None or self._rule is None or self._row >= self._rule.most_in_row:
            return None
        change = 0.0
        for view, kept, room in self._features:
            np.subtract(view, kept, room)
            flat = room.reshape(-1)
            change += float(_sum_squares("i,i", flat, flat))
        if not change <= self._most_change:  # NaN is no small change
            return None
        self._row += 1
        self.reused += 1
        return _copy(self._last)

    def keep(self, setup: Setup, result: Result) -> None:
        """Keep an answer and the features in memory, unless the answer is not what the operating point would say."""
        if setup is not self._setup:
            self._turn_to(setup)
        if self._rule is None or result.cut or result.fault:
            return
        size = 0.0
        for view, kept, _ in self._features:
            kept[...] = view
            flat = kept.reshape(-1)
            size += float(_sum_squares("i,i", flat, flat))
        self._last, self._row, self._most_change = _copy(result), 0, self._rule.difference**2 * size

    def forget(self) -> None:
        """Forget the last answer: the next sample is of another scene."""
        self._last, self._row, self._most_change = None, 0, 0.0

    def _turn_to(self, setup: Setup) -> None:
        """Take another rule, and other memory: the network was switched, or the sample has another length."""
        assert setup.memory is not None
        point, views = setup.point, setup.memory.single.views
        if lacking := [name for name in self._names if name not in views]:
            raise UsageError(
                f"What the first stage hands on ({lacking[0]}) stays on its device, where it is not compared."
            )
        is_at_point = point is not None and setup.thresholds == point.thresholds
        self._rule = self._given or (point.reuse if is_at_point and point is not None else None)
        places = [views[name] for name in self._names]
        self._features = [(place, *(np.empty(place.shape, np.float32) for _ in range(2))) for place in places]
        self._setup = setup
        self.forget()


def _copy(result: Result) -> Result:
    """Return a result whose arrays nobody else may change."""
    if result.logits is None and result.answer is None:
        return result
    logits = None if result.logits is None else result.logits.copy()
    answer = None if result.answer is None else {name: part.copy() for name, part in result.answer.items()}
    return replace(result, logits=logits, answer=answer)
