import numpy as np
import pytest

from offramp.bundle import Target
from offramp.bundle.manifest import NO_LABEL
from offramp.calibrate.certify.promises import certify_path
from offramp.calibrate.judging import LOSS
from offramp.calibrate.measure.tables import Costs
from offramp.calibrate.search.contenders import _make_table
from offramp.calibrate.search.objective import find_thresholds
from offramp.calibrate.truth import check_truth
from offramp.runtime import EveryExit

N, COSTS = 2000, Costs(tuple(np.full(9, us * 1e-6) for us in (100, 200, 300)))


def draw():
    """Return the answers of three exits and what is true, as labels and as losses of 0 and 1."""
    rng = np.random.default_rng(0)
    score = rng.uniform(0.4, 1, (N, 3)).astype(np.float32)
    y = rng.integers(0, 5, N)
    label = np.where(rng.uniform(0, 1.02, (N, 3)) < score, y[:, None], (y[:, None] + 1) % 5)
    lost = tuple({LOSS: (label[:, k] != y).astype(np.float32)} for k in range(3))
    return EveryExit(label, score), EveryExit(np.full_like(label, NO_LABEL), score, None, lost), y


def last(answers):
    parts = None if answers.answers is None else answers.answers[-1:]
    return EveryExit(answers.label[:, -1:], answers.score[:, -1:], None, parts)


def test_losses_of_0_and_1_are_tested_as_labels_are():
    labels, losses, y = draw()
    one, other = (
        _make_table(labels, last(labels), y, COSTS),
        _make_table(losses, last(losses), check_truth(y, N), COSTS),
    )
    for name in ("right", "reference_right", "wrong", "lost"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert np.array_equal(
        other.lost_at_most, other.lost
    )  # nothing tells whether an answer is another than the last exit's
    target = Target(max_drop=0.03)
    assert find_thresholds(one, target, margin=0.0) == find_thresholds(other, target.of_losses(), margin=0.0)
    path = np.array([[2, 2], [0.99, 0.97], [0.95, 0.9], [0.8, 0.8]], np.float32)
    assert certify_path(one, target, path, delta=0.1) == certify_path(other, target.of_losses(), path, delta=0.1)


@pytest.mark.parametrize("where", ["an exit", "the reference"])
def test_one_loss_between_0_and_1_makes_all_of_them_means(where):
    _, losses, y = draw()
    whole = last(losses)
    half = {LOSS: np.where(np.arange(N) == 7, np.float32(0.5), losses.answers[-1][LOSS])}
    if where == "an exit":
        losses = EveryExit(losses.label, losses.score, None, (half, *losses.answers[1:]))
    else:
        whole = EveryExit(whole.label, whole.score, None, (half,))
    table = _make_table(losses, whole, check_truth(y, N), COSTS)
    assert table.right.dtype == table.reference_right.dtype == table.lost.dtype == np.float64
