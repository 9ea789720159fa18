"""Labels that fit no better than shuffled ones are refused, and those of a rare class are not."""

import re

import numpy as np
import pytest

from offramp.bundle import Tensor
from offramp.calibrate.labels import SampleSet, check_labelled, check_labels, compare_with_commonest, hash_set
from offramp.errors import DataError
from offramp.runtime.chain.samples import Samples
from offramp.tests.helpers.manifests import manifest_of


@pytest.mark.parametrize("seed", range(5))
def test_shifted_labels_are_refused_however_common_a_class_is(seed):
    rng = np.random.default_rng(seed)
    for shares in (np.full(10, 0.1), np.array([0.8, 0.2]), np.array([0.5, 0.3, 0.2])):
        y = rng.choice(len(shares), 1520, p=shares)
        answers = np.where(rng.random(1520) < 0.93, y, rng.integers(0, len(shares), 1520))
        check_labels(y, answers, len(shares))
        with pytest.raises(DataError, match=r"with shuffled labels it would be right on \d+\.\d%"):
            check_labels(np.roll(y, 1), answers, len(shares))


def test_a_network_that_always_answers_the_commonest_class_is_refused():
    y = np.r_[np.zeros(950, int), np.ones(50, int)]
    with pytest.raises(DataError, match="right on 95.0% of the samples, no better than chance among 2 classes"):
        check_labels(y, np.zeros(1000, int), 2)
    check_labels(np.zeros(30, int), np.zeros(30, int), 2)  # of a single class nothing can be said


def test_a_rare_class_that_is_found_now_and_then_is_enough():
    y = np.r_[np.zeros(990, int), np.ones(10, int)]
    answers = y.copy()
    answers[[0, 1, 2, 3, 4, 990, 991, 992, 993, 994]] ^= 1  # right on 99 %, as always answering class 0 would be
    check_labels(y, answers, 2)
    assert "always answering class 0, the commonest, would be right on 99.00%" in compare_with_commonest(y, answers)[0]
    assert compare_with_commonest(y, y) == []


def test_copies_have_one_hash_and_rows_keep_theirs():
    x = Samples((np.arange(12, dtype=np.float32).reshape(4, 3)[[0, 1, 0, 2]], np.array([1, 2, 1, 1])))
    samples = hash_set(x, np.arange(4))
    assert samples.hashes[0] == samples.hashes[2] and len(np.unique(samples.hashes)) == 3
    some = samples.rows(np.array([1, 3]))
    assert isinstance(some, SampleSet) and (some.hashes == samples.hashes[[1, 3]]).all() and (some.y == [1, 3]).all()
    assert some.sha256 == hash_set(Samples(tuple(array[[1, 3]] for array in x.arrays)), None).sha256


def test_masked_labels_are_refused():
    x, y = np.zeros((3, 4), np.float32), np.ma.array([0, 1, 2], mask=[False, True, False])
    with pytest.raises(DataError, match="has masked values"):
        check_labelled((x, y), manifest_of(Tensor(name="x", dtype="float32", shape=(None, 4))))


@pytest.mark.parametrize(
    "y",
    [
        np.eye(4)[[0, 1, 2, 3, 1]],
        np.arange(5)[:, None] % 4,
        np.ones(5, bool),
        np.arange(1, 5)[[0, 1, 2, 3, 0]],
        [0.0, 1, 2, 3, 1],
    ],
)
def test_labels_fit_when_the_advice_is_followed(y):
    manifest, x, y = (
        manifest_of(Tensor(name="x", dtype="float32", shape=(None, 2)), names=tuple("abcd")),
        np.zeros((5, 2), np.float32),
        np.array(y),
    )
    with pytest.raises(DataError) as caught:
        check_labelled((x, y), manifest)
    told = re.search(r"(?:[Gg]ive|they are) (y[^ ]*.*?)\.$", str(caught.value))
    assert told is not None, caught.value
    check_labelled((x, eval(told[1], {"np": np, "y": y})), manifest)
