"""Samples that depend on each other: copies, and frames of a video."""

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Target
from offramp.calibrate.certify.points import make_points
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.independence import correlation_time, find_independence, split
from offramp.calibrate.search.picks import make_picks
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.zoo.exit_tables import UNEVEN, exit_table, make_table, true_losses

TARGET = Target(max_disagreement=0.08)


@pytest.fixture(scope="module")
def population():
    return make_table(20_000, exits=3, temperatures=UNEVEN[:3], seed=1)


def draw(population, kind, rng):
    """Draw a thousand samples, of which each stands there five times if they depend on each other: rows, hashes, scores."""
    if kind == "independent":
        rows = rng.choice(len(population), 1000, replace=False)
        return rows, rows.astype(np.uint64), population.score[rows]
    rows = np.repeat(rng.choice(len(population), 200, replace=False), 5)
    if kind == "shuffled":
        rows = rng.permutation(rows)
    if kind == "frames":  # which resemble each other, but are no copies
        noise = rng.normal(0, 0.003, (1000, 3)).astype(np.float32)
        return rows, np.arange(1000, dtype=np.uint64), population.score[rows] + noise
    return rows, rows.astype(np.uint64), population.score[rows]


def test_independent_samples_count_whole_even_if_they_are_sorted_by_class():
    drawn = exit_table(3000, exits=3, seed=3)
    for order in (np.arange(3000), np.argsort(drawn["y"], kind="stable")):
        for labels in (drawn["y"], drawn["label"][:, -1]):
            by_class = np.argsort(labels, kind="stable") if (order[:2] != [0, 1]).any() else order
            found = find_independence(order.astype(np.uint64), drawn["score"][by_class], labels[by_class])
            assert found.share == 1 and found.notes == () and len(np.unique(found.groups)) == 3000


@pytest.mark.parametrize("exits", [1, 3])
def test_equal_scores_are_no_likeness_of_neighbours(exits):
    """A confident network gives most samples a score of exactly 1."""
    rng = np.random.default_rng(0)
    score = np.minimum(1, 3 * rng.random((2000, exits))).astype(np.float32)
    found = find_independence(np.arange(2000, dtype=np.uint64), score, rng.integers(10, size=2000))
    assert found.share == 1 and found.notes == ()


@pytest.mark.parametrize("kind", ["copies", "shuffled"])
def test_copies_belong_together_and_count_once(population, kind):
    rows, hashes, score = draw(population, kind, np.random.default_rng(0))
    found = find_independence(hashes, score, population.label[rows, -1])
    assert found.share == pytest.approx(0.2)
    assert all(len(np.unique(found.groups[rows == row])) == 1 for row in rows[:50])
    assert found.notes[0].startswith("Only 200 of the 1000 samples differ") and "count 200 samples" in found.notes[0]
    selecting, reporting = split(np.random.default_rng(0).permutation(1000), found.groups, 200)
    assert not set(rows[selecting]) & set(rows[reporting])
    assert 180 <= len(selecting) <= 220 and len(selecting) + len(reporting) == 1000


def test_neighbours_that_resemble_each_other_are_seen(population):
    rows, hashes, score = draw(population, "frames", np.random.default_rng(0))
    found = find_independence(hashes, score, population.label[rows, -1])
    assert 0.1 < found.share < 0.3 and "as frames of a video do" in found.notes[0] and "--groups" in found.notes[0]
    named = find_independence(hashes, score, population.label[rows, -1], has_groups=True)
    assert "--groups" not in named.notes[0]  # they were given
    selecting, reporting = split(np.random.default_rng(0).permutation(1000), found.groups, 200)
    assert len(set(rows[selecting]) & set(rows[reporting])) < 0.25 * len(set(rows[selecting]))


def test_one_sample_that_fills_the_data_leaves_some_for_both_sides():
    groups = np.r_[np.zeros(900, int), np.arange(1, 101)]
    for seed in range(20):
        selecting, reporting = split(np.random.default_rng(seed).permutation(1000), groups, 200)
        assert len(selecting) and len(reporting) and not set(groups[selecting]) & set(groups[reporting])


@pytest.mark.parametrize("kind", ["shuffled", "frames"])
def test_promises_from_samples_that_depend_on_each_other_hold(population, kind):
    """Taken for independent, 29 % are broken, and the interval covers the truth in 66 %."""
    rng, configuration = np.random.default_rng(0), fake_configuration("synthetic", 3)
    broken, covered, runs = 0, 0, 50
    for _ in range(runs):
        rows, hashes, score = draw(population, kind, rng)
        table = replace(population.rows(rows), score=score)
        found = find_independence(hashes, score, table.label[:, -1])
        parts = split(rng.permutation(1000), found.groups, 200)
        selecting, reporting = (replace(table.rows(part), independent=found.share) for part in parts)
        chain = Contender(configuration=configuration, static=None, selecting=selecting, reporting=reporting)
        picks = make_picks([chain], {"default": TARGET})
        point = make_points(picks, {"default": TARGET}, [], confidence=0.9)["default"]
        drop, disagreement = true_losses(population, point.thresholds)
        broken += point.certificate is not None and disagreement > TARGET.max_disagreement
        covered += point.drop_interval[0] <= drop <= point.drop_interval[1]
    assert broken <= 0.16 * runs and covered >= 0.82 * runs
    assert point.certificate.independent < 0.3 * point.certificate.samples and "independent ones" in point.promise


def test_the_correlation_time_is_that_of_a_process_that_is_known():
    """Of x' = 0.8 x + noise it is (1 + 0.8) / (1 - 0.8) = 9."""
    rng, x = np.random.default_rng(0), np.zeros(20_000)
    for i in range(1, len(x)):
        x[i] = 0.8 * x[i - 1] + rng.standard_normal()
    labels = np.zeros(len(x), int)
    assert correlation_time(x[:, None], labels) == pytest.approx(9, rel=0.15)
    assert correlation_time(rng.permutation(x)[:, None], labels) == 1
