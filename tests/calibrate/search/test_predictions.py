"""What a point is predicted to cost and lose."""

from itertools import pairwise

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Target
from offramp.bundle.manifest import NO_LABEL
from offramp.calibrate.measure.tables import Costs, ExitTable
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.predictions import predict_point
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.zoo.exit_tables import make_table


def test_a_chain_knows_how_often_it_disagrees_with_its_own_last_exit():
    label = np.array([[0, 0], [1, 2], [1, 2], [3, 3]])
    table = ExitTable(
        score=np.array([[0.9, 1], [0.9, 1], [0.1, 1], [0.9, 1]], np.float32),
        label=label,
        right=None,
        reference_right=None,
        differs=np.array([[1, 1], [1, 0], [1, 0], [0, 0]], np.int8),  # the reference is another variant
        costs=Costs((np.array([1e-3, 1e-3]), np.array([2e-3, 2e-3]))),
    )

    def predict(table):
        chain = Contender(configuration=fake_configuration("int8", 2), static=None, selecting=table, reporting=table)
        return predict_point(chain, (0.5,), Target(max_disagreement=0.9))

    point = predict(table)
    assert (point.own_disagreement, point.disagreement) == (0.25, 0.5)
    assert predict(replace(table, label=np.full_like(label, NO_LABEL))).own_disagreement is None


def test_bins_of_scores_are_chosen_by_others_than_are_counted():
    selecting, reporting = make_table(600, 3, seed=0), make_table(900, 3, seed=1, shift=0.5)
    chain = Contender(
        configuration=fake_configuration("fp32", 3), static=None, selecting=selecting, reporting=reporting
    )
    point = predict_point(chain, (2.0, 0.7), Target(max_disagreement=0.9))
    inside = [
        np.mean((selecting.score[:, 1] >= low) & (selecting.score[:, 1] < high))
        for low, high in pairwise(point.score_edges)
    ]
    assert inside == pytest.approx([1 / 6] * 4, abs=0.01)
    below = np.mean(reporting.score[:, 1] < point.score_edges[0])
    assert (
        point.score_shares[0] == below and sum(point.score_shares) == pytest.approx(1) and len(point.score_shares) == 6
    )
    assert predict_point(chain, (2.0, 2.0), Target(max_disagreement=0.9)).score_shares == ()
