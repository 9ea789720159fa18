import numpy as np
import pytest
from scipy import optimize

from offramp.calibrate.intervals import mean_error, mean_interval, ratio_error


def paired_drop(right, full, **options):
    lost = full.astype(np.int8) - right
    return lost.mean(), mean_interval(lost, **options)


@pytest.mark.parametrize(("lost", "won"), [(20, 8), (0, 6), (9, 0)])
def test_the_intervals_ends_are_the_drops_of_a_score_of_two_standard_errors(lost, won):
    n = 200
    right = np.r_[np.zeros(lost, bool), np.ones(n - lost, bool)]
    full = np.r_[np.ones(lost, bool), np.zeros(won, bool), np.ones(n - lost - won, bool)]
    drop, ends = paired_drop(right, full)
    assert drop == pytest.approx((lost - won) / n) and ends[0] < drop < ends[1]
    for end in ends:
        # the share won that is likeliest at this drop: the nuisance of the score

        def surprise(q, end=end):
            return -(lost * np.log(q + end) + won * np.log(q) + (n - lost - won) * np.log(1 - 2 * q - end))

        bounds = max(0.0, -end) + 1e-12, (1 - end) / 2 - 1e-12
        q = optimize.minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        error = (n * (2 * q + end - end**2)) ** 0.5
        assert abs(lost - won - n * end) / error == pytest.approx(1.959964, abs=1e-3)


def test_no_disagreement_still_has_a_width():
    drop, (low, high) = paired_drop(np.ones(100, bool), np.ones(100, bool))
    assert drop == 0 and low < 0 < high < 0.04
    assert paired_drop(np.ones(100, bool), np.ones(100, bool), independent=0.2)[1][1] > 3 * high


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(0.02, 0.01, 500), (0.01, 0.001, 1500), (0.05, 0.05, 200), (0.005, 0, 600)]
)
def test_the_interval_covers_the_truth_about_as_often_as_it_says(lost, won, n):
    rng, hits, runs = np.random.default_rng(0), 0, 4000
    for a, b, _ in rng.multinomial(n, [lost, won, 1 - lost - won], runs):
        full = np.r_[np.ones(a, bool), np.zeros(b, bool), np.ones(n - a - b, bool)]
        right = np.r_[np.zeros(a, bool), np.ones(n - a, bool)]
        _, (low, high) = paired_drop(right, full)
        hits += low <= lost - won <= high
    assert 0.94 <= hits / runs <= 0.985


@pytest.mark.parametrize(("groups", "size", "lost", "alike"), [(100, 5, 0.002, 0.0), (60, 20, 0.02, 0.05)])
def test_the_interval_over_groups_covers_the_truth_too_though_often_none_shows_a_loss(groups, size, lost, alike):
    rng, number, hits, runs = np.random.default_rng(0), np.repeat(np.arange(groups), size), 0, 400
    for _ in range(runs):
        share = (
            rng.beta(lost * (1 / alike - 1), (1 - lost) * (1 / alike - 1), groups) if alike else np.full(groups, lost)
        )
        low, high = mean_interval((rng.random(len(number)) < share[number]).astype(np.int8), number)
        hits += low <= lost <= high
    assert hits / runs >= 0.92


def test_values_that_are_alike_within_blocks_have_a_larger_error():
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(10.0, 1.0, 200), 16)
    values = level + rng.normal(0.0, 0.1, level.shape)
    assert mean_error(values, 16) == pytest.approx(1 / 200**0.5, rel=0.15)
    assert mean_error(values, 1) < 0.3 * mean_error(values, 16)
    assert ratio_error(values, 2 * level, 16) < 0.01 * mean_error(values, 16)  # they drift together
    assert mean_error(values[:5], 16) == 0.0
