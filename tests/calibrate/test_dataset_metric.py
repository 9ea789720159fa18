"""The user's own metric: what it gets, what is refused, and how much is kept for it."""

import json
from functools import partial

import numpy as np
import pytest

from offramp.calibrate import bench, dataset_metric
from offramp.calibrate.dataset_metric import KeptAnswers, compute_metric, name_metric, read_metric
from offramp.errors import DataError, UsageError
from offramp.tests.helpers.command import offramp


def test_each_sample_answers_with_the_exit_that_it_left_at():
    answers = KeptAnswers(np.array([0, 1, 0, 1]))
    exits = [{"a": np.arange(4.0), "b": np.zeros((4, 2))}, {"a": 10 + np.arange(4.0), "b": np.ones((4, 3))}]
    for rows in (slice(2, 4), slice(0, 2)):  # as threads may
        answers.add(rows, [{name: values[rows] for name, values in parts.items()} for parts in exits])
    found = answers.take()
    assert found["a"].tolist() == [0, 11, 2, 13] and found["a"].dtype == np.float64
    assert [part.shape for part in found["b"]] == [(2,), (3,), (2,), (3,)]


def test_no_more_answers_are_kept_than_fit(monkeypatch):
    monkeypatch.setattr(dataset_metric, "MOST_ANSWER_BYTES", 100)
    answers = KeptAnswers(np.zeros(20, int))
    answers.add(slice(0, 10), [{"a": np.zeros(10)}])
    with pytest.raises(
        DataError, match=r"those to 20 samples need more than 0 MB: give fewer samples \(about 12 fit\)"
    ):
        answers.add(slice(10, 20), [{"a": np.zeros(10)}])


@pytest.mark.parametrize("value", [np.nan, np.inf, "best", None, np.zeros(2), 1j])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(DataError, match=r"The metric of early exit is .*; it gives one finite number\."):
        compute_metric(lambda answers, truth: value, {}, np.zeros(3), "early exit")
    with pytest.raises(DataError, match="The metric of early exit is '0.5'; it gives"):
        compute_metric(lambda answers, truth: "0.5", {}, np.zeros(3), "early exit")


def test_what_raises_is_one_sentence():
    with pytest.raises(DataError, match="The metric of early exit cannot be computed: KeyError: 'boxes'"):
        compute_metric(lambda answers, truth: answers["boxes"], {}, np.zeros(3), "early exit")
    assert compute_metric(lambda answers, truth: np.float32(-7.5), {}, None, "early exit") == -7.5


def test_a_metric_is_a_function_or_the_name_of_one(tmp_path):
    (tmp_path / "mine.py").write_text("import numpy\ndef score(answers, truth):\n    return 1\nnumber = 1\n")
    assert read_metric(f"{tmp_path}/mine.py:score")(0, 0) == 1 and read_metric(None) is None
    assert name_metric(f"{tmp_path}/mine.py:score") == "score" and name_metric(np.linalg.norm) == "norm"
    assert name_metric(partial(max)) == "partial" and name_metric(None) is None
    for given, error, words in (
        ("mAP", UsageError, "is a function, or is named file.py:function, not 'mAP'"),
        (f"{tmp_path}/mine.py:number", UsageError, "is no function: it is int"),
        (f"{tmp_path}/mine.py:scor", UsageError, "Did you mean 'score'"),
        (f"{tmp_path}/none.py:score", UsageError, "There is no file"),
    ):
        with pytest.raises(error, match=words):
            read_metric(given)


def test_a_classifier_may_have_one_too(calibrated, labelled, tmp_path):
    x, y = labelled
    (tmp_path / "mine.py").write_text(
        "def right(answers, truth):\n    return 100 * (answers['label'] == truth).mean()\n"
    )
    np.savez(tmp_path / "test.npz", x=x, y=y)
    done = offramp("bench", calibrated.path, tmp_path / "test.npz", "--metric", f"{tmp_path}/mine.py:right", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["metric"] == "right" and found["early"]["metric"] == pytest.approx(100 * found["early"]["accuracy"])
    with pytest.raises(DataError, match="The metric of early exit cannot be computed: KeyError: 'logits'"):
        bench(calibrated, (x, y), metric=lambda answers, truth: answers["logits"])
