"""Losses by name against small truths, and what a function of the user's may give."""

import sys

import numpy as np
import pytest

from offramp.calibrate.losses import evaluate, f1, read_loss
from offramp.errors import DataError, MissingError, ModelError, UsageError


def losses(name, answer, truth):
    n = len(next(iter(answer.values())))
    return evaluate(read_loss(name), answer, truth, np.arange(n)).tolist()


def test_zero_one_is_1_where_anything_differs():
    maps = np.array([[1, 2], [1, 2]])
    assert losses("zero_one", {"map": maps}, np.array([[1, 2], [1, 3]])) == [0, 1]
    assert losses("zero_one:logits", {"logits": np.eye(3)}, np.array([0, 1, 0])) == [0, 0, 1]


def test_hamming_is_the_share_of_wrong_labels_and_scores_above_0_say_that_one_is_there():
    scores = np.array([[2.0, -1, 0.5, -3]])
    assert losses("hamming", {"tags": scores}, np.array([[1, 0, 0, 0]])) == [0.25]
    assert losses("hamming:tags", {"tags": np.array([[1, 0]]), "other": scores}, {"tags": np.array([[0, 1]])}) == [1]


def test_absolute_is_the_mean_error_over_a_scale_and_at_most_1():
    assert losses("absolute:90", {"angle": np.array([10.0, 200])}, np.array([19.0, 0])) == [0.1, 1]
    answer = {"angle": np.array([[1.0, 3]]), "other": np.zeros((1, 5))}
    assert losses("absolute:angle=4", answer, {"angle": np.zeros((1, 2)), "x": np.ones(1)}) == [0.5]


def test_iou_is_over_the_classes_in_a_sample_at_the_size_of_the_truth():
    truth = np.array([[[0, 0, 1, 1]] * 4])
    assert losses("iou", {"map": truth}, truth) == [0]
    small = np.array([[[0, 1], [0, 2]]])  # enlarged: left half 0, right half 1 above and 2 below
    assert losses("iou", {"map": small}, truth) == pytest.approx([1 - (1 + 0.5 + 0) / 3])
    scores = np.eye(3)[small].transpose(0, 3, 1, 2)
    assert losses("iou:map", {"map": scores}, truth) == pytest.approx([1 - 0.5])


def test_word_errors_are_the_edit_distance_over_the_words():
    answer = {"words": np.array([[1, 2, -1, 3], [5, -1, -1, -1], [1, 2, 3, 4]])}
    truth = [np.array([1, 2, 3]), np.array([1, 2]), np.array([9])]
    assert losses("word_errors", answer, truth) == [0, 1, 1]


def test_iou_counts_classes_whatever_numbers_they_have():
    rng = np.random.default_rng(0)
    ours, truth = rng.integers(0, 4, (2, 5, 6, 6))
    wanted = [
        1 - np.mean([((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum() for c in np.union1d(a, b)])
        for a, b in zip(ours, truth, strict=True)
    ]
    for numbers in (np.arange(4, dtype=np.uint8), np.array([-1, 0, 255, 65535])):
        assert losses("iou", {"map": numbers[ours]}, numbers[truth]) == wanted


@pytest.mark.parametrize("name", ["zero_one", "iou", "zero_one:map", "iou:map"])
def test_scores_of_two_networks_are_compared_by_their_likeliest_class(name):
    ours, theirs = np.random.default_rng(0).standard_normal((2, 4, 3, 5, 5))
    theirs[0] = 2 * ours[0]
    found = losses(name, {"map": ours}, {"map": theirs})
    assert found == losses(name, {"map": ours}, theirs.argmax(1)) and found[0] == 0 < min(found[1:])
    one = ours[:, :1]  # a single class is there or not
    assert losses(name, {"map": one}, {"map": one * 3}) == losses(name, {"map": one}, (one[:, 0] > 0) * 1) == [0] * 4


def test_tags_and_words_and_boxes_of_two_networks_are_compared_alike():
    tags = np.array([[2.0, -1, 0.5, -3]])
    assert losses("hamming", {"tags": tags}, {"tags": np.array([[0.1, 3, 0.2, -1]])}) == [0.25]
    assert losses("word_errors", {"words": np.array([[1, -1, 2]])}, {"words": np.array([[-1, 1, 2]])}) == [0]
    boxes = {"boxes": np.array([[[0, 0, 10, 10, 1.0]]])}
    decode = lambda answer: list(answer["boxes"])  # noqa: E731
    assert f1(decode, 0.5, boxes, boxes).tolist() == [0]


def test_words_that_are_no_whole_numbers_are_refused():
    with pytest.raises(DataError, match=r"words are whole numbers \(N, words\), not float64 \(1, 2, 3\)"):
        losses("word_errors", {"words": np.zeros((1, 2, 3))}, [np.array([1])])


def test_f1_matches_each_true_box_once_by_class_and_overlap(tmp_path):
    (tmp_path / "boxes.py").write_text(
        "def decode(answer):\n    return [boxes[boxes[:, 4] >= 0] for boxes in answer['boxes']]\n"
    )
    right, half, other = [0, 0, 10, 10, 1], [5, 0, 15, 10, 1], [0, 0, 10, 10, 2]
    none = [0, 0, 0, 0, -1]
    found = np.array([[right, right], [half, none], [other, right], [none, none], [none, none]], np.float32)
    truth = [np.array([right]), np.array([right]), np.array([right, other]), np.zeros((0, 5)), np.array([right])]
    name = f"f1@0.5:{tmp_path}/boxes.py:decode"
    assert losses(name, {"boxes": found}, truth) == pytest.approx([1 / 3, 1, 0, 0, 1])
    assert losses(name.replace("0.5", "0.3"), {"boxes": found}, truth)[1] == 0  # half of each: a third of both


def test_one_class_alone_is_there_where_its_score_is_above_0():
    scores, truth = np.array([[[[2.0, -1], [3, -2]]]]), np.array([[[1, 0], [1, 0]]])
    assert losses("iou", {"map": scores}, truth) == losses("zero_one", {"map": scores}, truth) == [0]
    assert losses("iou", {"map": -scores}, truth) == losses("zero_one", {"map": -scores}, truth) == [1]


@pytest.mark.parametrize(
    ("name", "ours", "whole", "far"),
    [
        ("zero_one", [[1.0, 2, 0], [3, 0, 1]], [[0.1, 0.2, 0], [0, 3, 1]], [0, 1]),
        ("hamming", [[2.0, -1], [2, -1]], [[9.0, -3], [1, 1]], [0, 0.5]),
        ("iou", np.eye(2)[:, :, None, None], 7 * np.eye(2)[[0, 0]][:, :, None, None], [0, 1]),
        ("word_errors", [[1, -1, 2], [4, 5, -1]], [[1, 2, -1], [4, 6, -1]], [0, 0.5]),
        ("absolute:2", [0.0, 1], [0.0, 2], [0, 0.5]),
    ],
)
def test_of_another_answer_scores_count_as_the_labels_and_words_that_they_stand_for(name, ours, whole, far):
    between = read_loss(name)
    ours, whole = np.array(ours), np.array(whole)
    assert evaluate(between, {"part": ours}, {"part": whole}, np.arange(2)).tolist() == far
    assert evaluate(between, {"part": ours}, {"part": ours}, np.arange(2)).tolist() == [0, 0]


def test_f1_is_what_matching_the_boxes_one_by_one_gives():
    def draw(n):
        corners = rng.integers(0, 5, (n, 2))
        return np.concatenate([corners, corners + rng.integers(0, 8, (n, 2)), rng.integers(0, 2, (n, 1))], 1).astype(
            float
        )

    def match(found, true):
        left, right = [*true], 0
        for box in found:
            overlaps = [overlap(box, other) if box[4] == other[4] else -1 for other in left]
            if overlaps and max(overlaps) >= 0.3:
                left.pop(int(np.argmax(overlaps)))
                right += 1
        return 1 - 2 * right / (len(found) + len(true)) if len(found) + len(true) else 0

    def overlap(a, b):
        width, height = (max(0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
        both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return width * height / both if both else 0

    rng = np.random.default_rng(0)
    found, true = ([draw(n) for n in rng.integers(0, 9, 300)] for _ in range(2))
    losses = f1(lambda answer: found, 0.3, {}, true)
    assert losses.tolist() == [match(a, b) for a, b in zip(found, true, strict=True)]
    assert len(set(losses.tolist())) > 20


def test_f1_between_answers_decodes_both(tmp_path):
    (tmp_path / "boxes.py").write_text("def decode(answer):\n    return list(answer['boxes'])\n")
    boxes = np.array([[[0, 0, 10, 10, 1]], [[0, 0, 10, 10, 2]]], np.float32)
    between = read_loss(f"f1@0.5:{tmp_path}/boxes.py:decode")
    for whole in ({"boxes": boxes[[0, 0]]}, {"boxes": boxes[[0, 0]], "other": boxes}):
        assert evaluate(between, {"boxes": boxes}, whole, np.arange(2)).tolist() == [0, 1]


def test_a_function_of_the_users_is_taken_by_its_name_or_as_it_is(tmp_path):
    (tmp_path / "mine.py").write_text("def loss(answer, target):\n    return abs(answer['a'] - target)\n")
    for given in (f"{tmp_path}/mine.py:loss", lambda answer, target: abs(answer["a"] - target)):
        assert losses(given, {"a": np.array([0.5, 0])}, np.array([0, 1])) == [0.5, 1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([0.1, np.nan, 0.2]), "of sample 8 is nan; it lies between 0 and 1"),
        (np.array([0.1, 0.2, 1.5]), "of sample 9 is 1.5"),
        (np.array([-0.1, 0.2, 1.5]), "of sample 7 is -0.1"),
        (0.5, r"has the shape \(\); it gives one number per sample, \(3,\)"),
        (np.zeros(2), r"has the shape \(2,\)"),
        (["a", "b", "c"], "of samples 7 to 9 cannot be computed: ValueError"),
    ],
)
def test_what_is_no_loss_is_refused_with_the_first_sample_that_gave_it(value, words):
    with pytest.raises(DataError, match=words):
        evaluate(lambda answer, truth: value, {}, None, np.array([7, 8, 9]))


def test_a_loss_may_change_its_arguments_in_place_and_ends_no_program():
    def loss(answer, truth):
        answer["a"] += 1
        truth[0] -= 1
        return [0.5]

    answer, truth = {"a": np.zeros(1)}, [np.zeros(2)]
    assert evaluate(loss, answer, truth, np.array([0])).tolist() == [0.5]
    assert answer["a"] == 0 and (truth[0] == 0).all()
    with pytest.raises(DataError, match="SystemExit"):
        evaluate(lambda answer, truth: sys.exit(), answer, truth, np.array([0]))


def test_a_loss_that_raises_is_named_with_its_own_words():
    def loss(answer, truth):
        raise KeyError("no such box")

    with pytest.raises(DataError, match="The metric of samples 3 to 3 cannot be computed: KeyError: 'no such box'"):
        evaluate(loss, {}, None, np.array([3]), what="metric")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("iuo", "iou"),
        ("absolute", "a number above 0"),
        ("absolute:-3", "a number above 0"),
        ("f1@0.5", "with a function that makes boxes"),
        ("f1@7:a.py:b", "f1@0.5:file.py:decode"),
        ("gone.py:loss", "There is no file gone.py"),
        ("gone.py", "gone.py names no function: write file.py:function"),
        ("{f}/mine.py:number", "The loss .*mine.py:number is no function: it is int"),
        ("f1@0.5:{f}/mine.py:number", "The function that makes boxes .* is no function: it is int"),
        ("iou:maps", "maps"),
        ("iou", "Which part"),
    ],
)
def test_a_name_that_is_no_loss_is_refused(name, words, tmp_path):
    (tmp_path / "mine.py").write_text("number = 1\n")
    name = name.format(f=tmp_path)
    with pytest.raises((UsageError, ModelError, MissingError), match=words):
        read_loss(name)({"map": np.zeros((1, 2, 2)), "other": np.zeros(1)}, np.zeros((1, 2, 2)))
