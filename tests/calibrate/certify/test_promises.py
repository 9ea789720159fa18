from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Certificate, Target
from offramp.calibrate.certify.exact_tests import thin
from offramp.calibrate.certify.points import describe_promise, make_points, record_tested
from offramp.calibrate.certify.promises import bound_cost, certify_path
from offramp.calibrate.measure.noise import machine_noise, part_medians
from offramp.calibrate.measure.tables import Costs, ExitTable, exits_taken, mean_at
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.independence import Independence, split
from offramp.calibrate.search.picks import Pick
from offramp.runtime import EveryExit
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.zoo.exit_tables import UNEVEN, make_table

PATH = np.zeros((1, 0), np.float32)
"""The path of a static network: one candidate without thresholds."""


def static_network(costs, samples=1000):
    """A network of one exit that is always right, at some costs."""
    right = np.ones((samples, 1), bool)
    return ExitTable(
        score=np.ones((samples, 1), np.float32),
        label=np.zeros((samples, 1), np.int64),
        right=right,
        reference_right=right[:, 0],
        differs=np.zeros((samples, 1), np.int8),
        costs=costs,
        proof=costs,
    )


@pytest.mark.parametrize("limits", [{"max_latency_s": 1.05e-3}, {"deadline_s": 1.05e-3, "max_late": 0.5}])
def test_a_machine_that_drifts_breaks_few_promises_of_latency(limits):
    # the speed of each measurement is off by 10 %: promises at 1.05 ms would be broken by 3 of 10 machines
    rng, target, promised, broken = np.random.default_rng(0), Target(goal="accuracy", **limits), 0, 0
    for _ in range(400):
        truth_s = 1e-3 * np.exp(0.2 * rng.standard_normal())
        sessions = truth_s * np.exp(0.1 * rng.standard_normal((3, 1))) * np.exp(0.01 * rng.standard_normal((3, 400)))
        noise = machine_noise([sessions[-1]], [part_medians(session) for session in sessions])
        step, _ = certify_path(static_network(Costs((sessions[-1],), machine_noise=noise)), target, PATH, delta=0.1)
        promised += step is not None
        broken += step is not None and bool(truth_s > 1.05e-3)
    assert promised > 100 and broken <= 0.1 * 400


def test_what_cannot_be_promised_is_named_by_what_is_counted():
    labels, losses = Target(max_drop=0), Target(max_drop=0).of_losses()
    table = static_network(Costs((np.ones(10),)))
    table = replace(table, right=np.zeros((1000, 1), bool))
    assert certify_path(table, labels, PATH, delta=0.1)[1].endswith("shows that an accuracy drop is 0.")
    assert certify_path(table, losses, PATH, delta=0.1)[1].endswith("shows that a mean loss added is 0.")


def test_the_noise_of_the_machine_moves_the_bound_and_stands_in_the_words():
    times = 1e-3 * np.exp(0.01 * np.random.default_rng(0).standard_normal(500))
    target = Target(max_latency_s=1.1e-3)
    steady, noisy = (bound_cost(Costs((times,), machine_noise=x), "max_latency_s", target, 0.1)[0] for x in (0.0, 0.06))
    assert noisy == pytest.approx(1.12 * steady)
    step, why = certify_path(static_network(Costs((times,), machine_noise=0.06)), target, PATH, delta=0.1)
    assert step is None and "may have, as far as its measurement is uncertain, a mean latency of 11" in why
    words = describe_promise(Certificate(target.limits, 0.9, 1, 1000, 0, 1, machine_noise=0.06), target)
    assert words.endswith(
        "is at most 1100 us, by 1000 samples taken as independent, on a machine up to 12.0% slower than it was measured."
    )


def test_the_error_of_a_measured_power_counts_in_a_promise_of_energy():
    times, target = np.full(500, 1e-3), Target(max_energy_j=1.02e-2)
    bounds = [
        bound_cost(Costs((times,), np.array([10.0]), np.array([noise])), "max_energy_j", target, 0.1)[0]
        for noise in (0.0, 0.02)
    ]
    assert bounds[0] == pytest.approx(1e-2) and bounds[1] == pytest.approx(1e-2 * (1 + 1.833 * 0.02), rel=1e-3)


def test_promises_of_energy_hold_though_the_power_was_measured_with_an_error():
    rng, target, promised, broken = np.random.default_rng(1), Target(max_energy_j=1.03e-2), 0, 0
    for _ in range(300):
        truth_w = 10 * np.exp(0.05 * rng.standard_normal())
        rounds = truth_w * (1 + 0.06 * rng.standard_normal(10))
        noise = rounds.std(ddof=1) / 10**0.5 / rounds.mean()
        costs = Costs((np.full(200, 1e-3),), np.array([rounds.mean()]), np.array([noise]))
        step, _ = certify_path(static_network(costs), target, PATH, delta=0.1)
        promised += step is not None
        broken += step is not None and bool(truth_w > 10.3)
    assert promised > 50 and broken <= 0.1 * 300


def test_promises_of_a_mean_cost_hold_though_samples_depend_on_each_other():
    """Each of 200 samples stands there five times. Of 200 drawn from them at random, 7 % prove a mean that is not there."""
    population = make_table(20_000, exits=3, temperatures=UNEVEN[:3], seed=1)
    path = np.full((1, 2), 0.9, np.float32)
    mean_s = mean_at(population.costs.latency_s, exits_taken(population.score, path[0].tolist()))
    rng, delta, promised, runs = np.random.default_rng(0), 0.1, {1.0: 0, 1.25: 0}, 200
    for _ in range(runs):
        rows = rng.permutation(np.repeat(rng.choice(len(population), 200, replace=False), 5))
        table = replace(population.rows(rows), independent=0.2)
        for factor in promised:
            step, _ = certify_path(table, Target(goal="accuracy", max_latency_s=factor * mean_s), path, delta=delta)
            promised[factor] += step is not None
    assert promised[1.0] <= delta / 2 * runs and promised[1.25] >= 0.75 * runs
    assert (thin(table.score[:, 0], len(table)) == table.score[:, 0]).all()


def test_a_static_network_that_is_promised_answers_by_itself():
    """Its answers were taken from the chain, of which some hundred were compared."""
    n, order = 400, np.random.default_rng(0).permutation(400)
    y, independence = np.zeros(n, int), Independence(np.arange(n), 1.0)
    selecting, reporting = split(order, independence.groups, 100)
    table = static_network(Costs((np.array([1e-3, 1.001e-3]),)), n)
    chain, static = (
        Contender(
            configuration=fake_configuration("fp32", 1),
            static=exit_,
            selecting=table.rows(selecting),
            reporting=table.rows(reporting),
        )
        for exit_ in (None, 0)
    )
    wrong = EveryExit((np.arange(n) % 4 == 0).astype(int)[:, None], np.ones((n, 1), np.float32))
    target = {"default": Target(min_accuracy=0.9)}
    samples = SimpleNamespace(x=None, y=y)
    session = SimpleNamespace(
        request=SimpleNamespace(targets=target, samples=samples, order=order, selecting=100),
        open_static=lambda *_: None,
        record=lambda net, x, part: wrong,
    )
    measured = SimpleNamespace(reference=SimpleNamespace(answers=EveryExit(y[:, None], np.ones((n, 1), np.float32))))
    picks = {"default": Pick(chain, None, static)}
    assert make_points(picks, target, [static], confidence=0.9)["default"].is_promised
    own = record_tested(session, picks, measured, independence)
    point = make_points(own, target, [static], confidence=0.9)["default"]
    assert not point.is_promised and not point.met
    assert point.accuracy == pytest.approx(1 - wrong.label[reporting].mean())
