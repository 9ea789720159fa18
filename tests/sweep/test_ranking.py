"""Trials are ranked by what they cost where they meet the target, and by accuracy where they do not."""

import numpy as np
import pytest

from offramp.bundle import Target
from offramp.sweep.ranking import lay_tradeoffs, rank
from offramp.sweep.settings import Choices
from offramp.sweep.table import TrialRow
from offramp.sweep.trials import trial_folder


@pytest.fixture
def record(tmp_path):
    def record(trial, wrong, macs=(10, 100), variant="fp32"):
        """Write the answers of two exits to ten samples: each exit is wrong about the last ones, of which it is least sure."""
        right = np.arange(10)[:, None] >= np.array(wrong)
        score = np.tile(np.linspace(0.1, 1, 10, dtype=np.float32)[:, None], 2)
        folder = trial_folder(tmp_path, trial)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"rung0.{variant}.npz", score=score, wrong=(~right).astype(np.int8))
        accuracy = tuple(right.mean(0).tolist())
        return TrialRow(
            trial=trial,
            rung=0,
            epochs=1,
            choices=Choices(),
            seed=0,
            versions={},
            variant=variant,
            accuracy=accuracy,
            macs=macs,
        )

    return record


def test_the_cheapest_that_meets_the_target_is_first_and_the_others_by_accuracy(record, tmp_path):
    # At most 10 % may be lost against the best whole network, which is right about all.
    rows = [
        record(0, (5, 0)),
        record(1, (3, 2)),
        record(2, (2, 1)),
        record(3, (9, 3), macs=(1, 100)),
        TrialRow(trial=4, rung=0, epochs=1, choices=Choices(), seed=0, versions={}, failed="too small"),
    ]
    ranked = rank(rows, tmp_path, Target(max_drop=0.1), 2)
    assert [row.trial for row in ranked] == [2, 0, 1, 3, 4]
    standings = [row.standing for row in ranked]
    assert [each and (each.met, each.place, each.stays) for each in standings] == [
        (True, 1, True),
        (True, 2, True),
        (False, 3, False),
        (False, 4, False),
        None,
    ]
    assert standings[0].macs == pytest.approx(0.8 * 10 + 0.2 * 100) and standings[0].accuracy == pytest.approx(0.9)
    assert standings[1].macs == pytest.approx(0.6 * 10 + 0.4 * 100) and standings[1].accuracy == pytest.approx(0.9)


def test_a_trial_stands_as_its_best_form_and_equals_by_their_number(record, tmp_path):
    rows = [record(0, (5, 0)), record(1, (5, 0)), record(1, (1, 0), variant="int8"), record(2, (5, 0))]
    ranked = rank(rows, tmp_path, Target(min_accuracy=0.9), 1)
    assert [(row.trial, row.variant) for row in ranked] == [(1, "fp32"), (1, "int8"), (0, "fp32"), (2, "fp32")]
    assert [row.standing.place for row in ranked] == [1, 1, 2, 3]


def test_the_points_of_a_form_cost_more_the_more_accurate_they_are(record, tmp_path):
    points = lay_tradeoffs(record(0, (5, 0)), tmp_path)
    assert points == sorted(points) and points[-1] == (pytest.approx(55), 1.0)


def test_a_rung_of_which_all_failed_has_no_standings(tmp_path):
    failed = TrialRow(trial=0, rung=0, epochs=1, choices=Choices(), seed=0, versions={}, failed="too small")
    assert rank([failed], tmp_path, Target(max_drop=0.1), 1) == [failed]
