"""What is true of samples, where it is no labels: arrays, rows of different lengths, several by name."""

import numpy as np
import pytest

from offramp.calibrate.truth import Ragged, check_truth, gather_truth
from offramp.errors import DataError

BOXES = Ragged(np.arange(12.0).reshape(4, 3), np.array([0, 1, 1, 4]))


def test_some_of_the_samples_keep_what_is_theirs():
    truth = check_truth({"map": np.arange(6).reshape(3, 2), "boxes": BOXES}, 3)
    some = truth[np.array([2, 0])]
    assert len(some) == 2 and some.read()["map"].tolist() == [[4, 5], [0, 1]]
    assert [row.tolist() for row in some.read()["boxes"]] == [BOXES.values[1:].tolist(), BOXES.values[:1].tolist()]


def test_a_single_one_is_read_without_a_name():
    assert check_truth([1.5, 2.5], 2)[np.array([1])].read().tolist() == [2.5]
    assert [len(row) for row in check_truth(BOXES, 3).read()] == [1, 0, 3]


def test_arrays_by_name_are_targets_and_one_called_offset_is_one_unless_it_is_of_another():
    offset = np.array([0, 4])
    assert gather_truth({"x": offset, "y": BOXES.values, "y.offset": offset}).offset is offset
    assert gather_truth({"y.offset": offset, "y.boxes": offset}) == {"offset": offset, "boxes": offset}
    assert gather_truth({"x": offset}) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros(3), "of 3 samples, but there are 4"),
        ({"boxes": BOXES}, r"The truth \(boxes\) is of 3 samples"),
        ({}, "There is no truth"),
        ([[1, 2], [1], [3], [4]], "rows of different lengths"),
        (np.array([None] * 4), "no array of numbers"),
        (7, "no array of numbers"),
        (Ragged(np.zeros((3, 5)), np.array([0, 1, 2, 3, 4])), "rises from 0 to 3"),
        (Ragged(np.zeros((3, 5)), np.array([0, 2, 1, 3, 3])), "rises from 0 to 3.* falls behind sample 1"),
        (Ragged(np.zeros((3, 5)), np.array([0.0, 3])), "whole numbers"),
        (Ragged(np.array([None]), np.array([0, 1])), "values are numbers"),
    ],
)
def test_targets_that_do_not_fit_are_refused_in_a_sentence(given, words):
    with pytest.raises(DataError, match=words):
        check_truth(given, 4)
