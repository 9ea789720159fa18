import math

import numpy as np
import pytest
from scipy import optimize, stats

from offramp.bundle import Target
from offramp.bundle.manifest import NEVER
from offramp.calibrate.certify.exact_tests import (
    NUISANCE_POINTS,
    certify_drop,
    certify_mean,
    critical_z,
    share_bound,
    size_of,
)
from offramp.calibrate.certify.paths import lay_candidates, lay_path
from offramp.calibrate.intervals import noninferiority_z
from offramp.calibrate.measure.tables import Costs, ExitTable, exits_taken
from offramp.tests.zoo.exit_tables import UNEVEN, exit_table


@pytest.mark.parametrize(("lost", "won"), [(3, 1), (0, 0), (0, 7), (12, 2), (1, 12), (40, 30)])
def test_the_statistic_is_the_score_at_the_likeliest_nuisance(lost, won):
    n, eps = 400, 0.02

    def surprise(q):  # q of the won, q + eps of the lost
        return -(stats.multinomial.logpmf([lost, won, n - lost - won], n, [q + eps, q, 1 - 2 * q - eps]))

    q = optimize.minimize_scalar(
        surprise, bounds=(1e-12, (1 - eps) / 2 - 1e-12), method="bounded", options={"xatol": 1e-12}
    ).x
    expected = (lost - won - n * eps) / math.sqrt(n * (2 * q + eps - eps**2))
    assert noninferiority_z(lost, won, n, eps) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("n", "eps", "z"), [(12, 0.1, -1.0), (25, 0.05, -0.5), (25, 0.2, -1.4)])
def test_the_size_equals_that_of_all_outcomes_counted(n, eps, z):
    shares = np.array([0.0, 0.01, 0.1, 0.3, (1 - eps) / 2])
    expected = np.zeros(len(shares))
    for lost in range(n + 1):
        for won in range(n + 1 - lost):
            if noninferiority_z(lost, won, n, eps) <= z:
                chances = [[q + eps, q, max(0.0, 1 - 2 * q - eps)] for q in shares]
                expected += [stats.multinomial.pmf([lost, won, n - lost - won], n, p) for p in chances]
    assert np.allclose(size_of(z, n, eps, shares), expected, atol=1e-10)


@pytest.mark.parametrize(("n", "eps", "delta"), [(200, 0.05, 0.1), (1000, 0.01, 0.1), (500, 0.02, 0.05)])
def test_the_critical_value_keeps_its_size_at_the_worst_share_and_wastes_little(n, eps, delta):
    z = critical_z(n, eps, delta)
    shares = np.linspace(0, (1 - eps) / 2, 3001)
    sizes = size_of(z, n, eps, shares)
    assert 0.9 * delta < sizes.max() <= delta + 1e-3
    denser = np.linspace(0, 1, NUISANCE_POINTS) ** 2 * (1 - eps) / 2  # at which it is sought
    assert size_of(z, n, eps, denser).max() <= delta
    worst = shares[sizes.argmax()]
    rng = np.random.default_rng(0)
    lost, won, _ = rng.multinomial(n, [worst + eps, worst, 1 - 2 * worst - eps], 40_000).T
    rate = (noninferiority_z(lost, won, n, eps) <= z).mean()
    assert rate <= delta + 4 * math.sqrt(delta / 40_000)


def test_drops_are_certified_by_counts():
    assert certify_drop(0, 0, 1000, eps=0.01, delta=0.1)
    assert certify_drop(4, 4, 1000, eps=0.01, delta=0.1)
    assert not certify_drop(10, 0, 1000, eps=0.01, delta=0.1)
    assert not certify_drop(0, 0, 100, eps=0.01, delta=0.1)  # a hundred samples cannot tell a percent
    assert certify_drop(0, 0, 100, eps=0.0, delta=0.1) and not certify_drop(1, 3, 100, eps=0.0, delta=0.1)


@pytest.mark.parametrize(("count", "n"), [(0, 50), (3, 200), (199, 200), (200, 200)])
def test_a_shares_bound_is_the_exact_one(count, n):
    expected = 1.0 if count == n else stats.beta.ppf(0.9, count + 1, n - count)
    assert share_bound(count, n, delta=0.1) == pytest.approx(expected)


def test_a_limit_of_a_mean_is_promised_no_more_often_than_it_says():
    rng = np.random.default_rng(0)
    costs, shares = np.array([1.0, 2.0, 4.0, 9.0]), np.array([0.5, 0.3, 0.15, 0.05])
    truth = costs @ shares

    def promised(limit):
        draws = (rng.choice(costs, 1000, p=shares) for _ in range(400))
        return np.mean([certify_mean(x, limit, least=1.0, most=9.0, delta=0.1) for x in draws])

    assert promised(truth) <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 400)
    assert promised(1.1 * truth) > 0.8


def test_a_limit_of_a_mean_at_the_edges():
    assert certify_mean(np.full(10, 3.0), 3.0, least=3.0, most=3.0, delta=0.1)
    assert not certify_mean(np.ones(5), 0.9, least=0.0, most=1.0, delta=0.1)
    assert certify_mean(np.zeros(1000), 0.01, least=0.0, most=1.0, delta=0.1)


def test_a_path_is_nested_and_leads_through_its_vector():
    score = exit_table(5000, temperatures=UNEVEN, seed=1)["score"]
    thresholds = (0.99, 0.8, NEVER, 0.7)
    path = lay_path(score, thresholds)
    assert path.dtype == np.float32 and (np.diff(path, axis=0) <= 0).all() and (path[:, 2] == NEVER).all()
    early = [(exits_taken(score, one) < 4).mean() for one in path]
    assert early[0] < 0.02 and early[-1] > 0.95
    through = [(exits_taken(score, one) == exits_taken(score, thresholds)).mean() for one in path]
    assert max(through) > 0.98


def test_a_path_begins_where_nothing_leaves_early_even_if_a_vector_lets_everything_leave():
    """As where the selecting samples are training data, learnt by heart: the first exit is right on all of them."""
    rng = np.random.default_rng(0)
    score = rng.random((400, 3)).astype(np.float32)
    answers = np.zeros((400, 3), int)
    table = ExitTable(
        score=score,
        label=answers,
        right=answers == 0,
        reference_right=answers[:, 2] == 0,
        differs=answers.astype(np.int8),
        costs=Costs(tuple(np.full(2, cost) for cost in (1.0, 2.0, 3.0))),
    )
    path = lay_candidates(table, (0.0, 0.0), Target(max_drop=0.01), tested=400)
    early = np.array([(exits_taken(score, thresholds.tolist()) < 2).mean() for thresholds in path])
    assert (path[0] == NEVER).all() and early[0] == 0
    assert early[1:20].max() < 0.05 and early[-1] == 1 and np.diff(early).max() < 0.06


def test_what_too_few_samples_cannot_prove_is_known_without_the_critical_value():
    """Of 44 samples at a drop of 5 % none is lost in 10.5 % of all draws, of 45 in 9.9 %."""
    assert not certify_drop(0, 0, 44, eps=0.05, delta=0.1) and certify_drop(0, 0, 45, eps=0.05, delta=0.1)
    for lost, won in ((0, 0), (1, 1), (2, 1)):
        z = noninferiority_z(np.asarray(lost), np.asarray(won), 44, 0.05)
        assert z > critical_z(44, 0.05, 0.1)
