"""The samples that report a point also chose its step; what they report must be true in the mean all the same."""

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Target
from offramp.calibrate.certify.choice_bias import correct
from offramp.calibrate.certify.paths import lay_candidates
from offramp.calibrate.certify.promises import certify_path
from offramp.calibrate.measure.tables import exits_taken, values_at
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.predictions import predict_point
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.zoo.exit_tables import UNEVEN, make_table

DELTA = 0.1


@pytest.fixture(scope="module")
def population():
    """A population of 20,000 samples, from which others are drawn with replacement; a path, and what is lost at each step."""
    table = make_table(20_000, exits=4, temperatures=UNEVEN[:4], seed=1)
    target = Target(max_drop=0.05)
    path = lay_candidates(table.rows(slice(0, 400)), (0.9, 0.8, 0.8), target, tested=200)
    taken = [exits_taken(table.score, thresholds.tolist()) for thresholds in path]
    lost, differs = (
        np.array([values_at(values, step).mean() for step in taken]) for values in (table.lost, table.differs)
    )
    return table, target, path, lost, differs


def test_the_reported_drop_and_disagreement_are_true_in_the_mean(population):
    table, target, path, lost, differs = population
    rng, configuration = np.random.default_rng(0), fake_configuration("synthetic", 4)
    errors, seen, covered = [], [], []
    for _ in range(100):
        reporting = table.rows(rng.integers(0, len(table), 200))
        step, _ = certify_path(reporting, target, path, delta=DELTA)
        if step is None:
            continue
        chain = Contender(configuration=configuration, static=None, selecting=table, reporting=reporting)
        raw = predict_point(chain, tuple(path[step].tolist()), target)
        point = correct(raw, reporting, path, delta=DELTA)
        assert point.choice_bias == pytest.approx(point.drop - raw.drop)
        assert point.full_accuracy - point.accuracy == pytest.approx(point.drop)
        assert point.own_disagreement == point.disagreement  # its last exit is the reference
        seen.append(raw.drop - lost[step])
        errors.append((point.drop - lost[step], point.disagreement - differs[step]))
        covered.append(point.drop_interval[0] <= lost[step] <= point.drop_interval[1])
    error = np.std(seen) / len(seen) ** 0.5
    assert len(seen) > 60 and np.mean(seen) < -3 * error  # uncorrected it is too good
    assert np.abs(np.mean(errors, axis=0)).max() < 2 * error
    assert np.mean(covered) > 0.9


def test_a_candidate_that_lets_nobody_leave_has_no_bias(population):
    table, target, path, *_ = population
    reporting = table.rows(slice(0, 200))
    chain = Contender(
        configuration=fake_configuration("synthetic", 4), static=None, selecting=table, reporting=reporting
    )
    point = predict_point(chain, tuple(path[0].tolist()), target)
    assert correct(point, reporting, path, delta=DELTA) == point


def test_a_limit_of_time_changes_the_correction_no_more_than_it_changes_the_test(population):
    """With one, losses are tested at half the chance of error, and so the correction is."""
    table, target, path, *_ = population
    reporting = table.rows(slice(0, 200))
    chain = Contender(
        configuration=fake_configuration("synthetic", 4), static=None, selecting=table, reporting=reporting
    )
    points = []
    for limited, delta in (target, DELTA), (replace(target, max_latency_s=1e9), 2 * DELTA):
        step, _ = certify_path(reporting, limited, path, delta=delta)
        points.append(correct(predict_point(chain, tuple(path[step].tolist()), limited), reporting, path, delta=delta))
    assert points[0].choice_bias > 0 and replace(points[1], target=target) == points[0]
