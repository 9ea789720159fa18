import numpy as np
import pytest

from offramp.calibrate.advice import name_missing
from offramp.calibrate.parts import Parts, group_means, name_classes, read_groups, read_own_groups
from offramp.errors import DataError, ModelError, UsageError


def test_groups_are_numbers_or_names_or_a_function_of_the_samples():
    x = np.arange(6.0)
    names = ["b", "a", "b", "c", "a", "b"]
    for given in (
        names,
        np.array(names),
        np.array(names, object),
        np.array(names, "S"),
        lambda x: [names[int(i)] for i in x],
    ):
        parts = read_groups(given, x, 6)
        assert parts.names == ("b", "a", "c") and parts.number.tolist() == [0, 1, 0, 2, 1, 0]
    assert read_groups([7, 7, 8, 8, 9, 9], x, 6).names == ("7", "8", "9")
    assert read_groups(None, x, 6) is None
    hostile = read_groups(["\x1b[2Jann\n"] * 3 + ["b" * 900] * 3, x, 6)
    assert hostile.names[0] == "\\u001b[2Jann\\n"  # it steers no terminal
    assert read_own_groups(range(6), x, 6) is None  # each sample is a group of its own


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (["a"] * 5, DataError, r"6 samples but groups of shape \(5,\)"),
        ([["a", "b"]] * 6, DataError, r"shape \(6, 2\)"),
        ([[1], [1, 2], 3, 4, 5, 6], DataError, "6 samples but groups"),
        (["a", "b", "", "a", "b", "a"], DataError, "Sample 2 has no group"),
        (np.array([b"a", b"", b"b", b"b", b"a", b"a"]), DataError, "Sample 1 has no group"),
        ([0.0, np.nan, 0, 0, 0, 0], DataError, "Sample 1 has no group"),
        (np.array(["a", None, "b", "b", "a", "a"], object), DataError, "Sample 1 has no group"),
        (np.arange(6) * 1j, DataError, "complex128"),
        ("person", UsageError, "load_grouped reads such a column"),
        (lambda x: 1 / 0, ModelError, "ZeroDivisionError"),
    ],
)
def test_groups_that_do_not_fit_are_refused(given, error, words):
    with pytest.raises(error, match=words):
        read_groups(given, np.arange(6.0), 6)


def test_a_groups_number_says_nothing_of_its_size():
    """A permutation by the seed, and means in the order of the numbers."""
    parts = read_groups(np.repeat(np.arange(50), np.arange(1, 51)), None, 1275)
    firsts = [parts.shuffled(np.random.default_rng(seed)).names[0] for seed in range(60)]
    assert len(set(firsts)) > 25
    shuffled = parts.shuffled(np.random.default_rng(0))
    assert [shuffled.names[k] for k in shuffled.number] == [parts.names[k] for k in parts.number]
    assert group_means(np.array([1, 0, 4, 2]), np.array([3, 0, 3, 0])).tolist() == [1, 2.5]
    assert [(name, rows.tolist()) for name, rows in Parts(("a", "b", "c"), np.array([2, 0, 2])).each()] == [
        ("a", [1]),
        ("c", [0, 2]),
    ]
    assert name_classes(np.array([0, 2]), None).names == ("0", "2")
    assert name_missing({"class": name_classes(np.array([0, 2]), None)}, 2) == name_missing({}, 5) == []
    assert name_missing({"class": name_classes(np.array([0, 2]), None)}, 5)[0].startswith(
        "No sample is of 3 of the 5 classes"
    )
