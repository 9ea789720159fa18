import numpy as np
import pytest

from offramp.calibrate.intervals import mean_error, paired_drop, ratio_error


def test_the_interval_agrees_with_the_published_formula():
    # Bonett and Price 2012: n = 200, 20 lost, 8 won: p12 = 21/202, p21 = 9/202
    right = np.r_[np.zeros(20, bool), np.ones(180, bool)]
    full = np.r_[np.ones(20, bool), np.zeros(8, bool), np.ones(172, bool)]
    drop, (low, high) = paired_drop(right, full)
    p, q = 21 / 202, 9 / 202
    half = 1.959964 * ((p + q - (p - q) ** 2) / 202) ** 0.5
    assert (drop, low, high) == pytest.approx((0.06, p - q - half, p - q + half))


def test_no_disagreement_still_has_a_width():
    drop, (low, high) = paired_drop(np.ones(100, bool), np.ones(100, bool))
    assert drop == 0 and low < 0 < high < 0.04


@pytest.mark.parametrize(("lost", "won", "n"), [(0.02, 0.01, 500), (0.01, 0.001, 1500), (0.05, 0.05, 200)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(lost, won, n):
    rng, hits, runs = np.random.default_rng(0), 0, 4000
    for a, b, _ in rng.multinomial(n, [lost, won, 1 - lost - won], runs):
        full = np.r_[np.ones(a, bool), np.zeros(b, bool), np.ones(n - a - b, bool)]
        right = np.r_[np.zeros(a, bool), np.ones(n - a, bool)]
        _, (low, high) = paired_drop(right, full)
        hits += low <= lost - won <= high
    assert 0.93 <= hits / runs <= 0.985


def test_values_that_are_alike_within_blocks_have_a_larger_error():
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(10.0, 1.0, 200), 16)
    values = level + rng.normal(0.0, 0.1, level.shape)
    assert mean_error(values, 16) == pytest.approx(1 / 200**0.5, rel=0.15)
    assert mean_error(values, 1) < 0.3 * mean_error(values, 16)
    assert ratio_error(values, 2 * level, 16) < 0.01 * mean_error(values, 16)  # they drift together
    assert mean_error(values[:5], 16) == 0.0
