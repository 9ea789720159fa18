"""Targets: what they take, and how they are said."""

import numpy as np
import pytest

from offramp.bundle import Target
from offramp.errors import UsageError


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, "needs a limit"),
        ({"goal": "accuracy"}, "needs a limit"),
        ({"max_drop": 1.0}, "fraction from 0 to below 1"),
        ({"max_drop": 1e-320}, "which no samples can show: give 0, or at least 1e-09"),
        ({"min_accuracy": -0.1}, "min_accuracy is a fraction"),
        ({"max_latency_s": 0}, "above 0"),
        ({"max_late": 0.1}, "give both"),
        ({"goal": "latencey", "max_drop": 0.1}, "Did you mean 'latency'"),
    ],
)
def test_a_target_has_a_limit_in_its_range(limits, words):
    with pytest.raises(UsageError, match=words):
        Target(**limits)


def test_a_target_says_what_it_asks_for():
    assert str(Target(max_drop=0.01)) == "the least mean latency with an accuracy drop of at most 1.00%"
    target = Target(deadline_s=0.002, max_energy_j=0.004, min_accuracy=0.9)
    assert (target.goal, target.max_late) == ("latency", 0.01)
    assert str(target) == (
        "the least mean latency with an accuracy of at least 90.00%, at most 1.00% of the inputs later than 2000 us and a mean "
        "energy of at most 4 mJ"
    )
    assert Target(max_latency_s=1.0).goal == "accuracy"
    assert str(Target(max_latency_s=1.0).of_losses()).startswith("the least loss with")


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_limits_may_be_numbers_of_numpys(number):
    assert repr(Target(max_drop=number(0.25))) == repr(Target(max_drop=0.25))
