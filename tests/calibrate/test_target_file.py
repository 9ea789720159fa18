import warnings

import pytest

from offramp.calibrate import Target, read_targets
from offramp.errors import DataError, UsageError


def test_limits_have_units_and_may_be_called_as_the_options_are(tmp_path):
    path = tmp_path / "target.yaml"
    path.write_text(
        "a: {deadline_s: 5 ms, max_drop: 1 %}\nb: {deadline-ms: 5, max_energy_mj: 3}\nc: {max_latency_ms: 800us}\n"
    )
    a, b, c = read_targets(path).values()
    assert a == Target(deadline_s=0.005, max_drop=0.01) and b == Target(deadline_s=0.005, max_energy_j=0.003)
    assert c.max_latency_s == pytest.approx(0.0008)
    path.write_text("max_energy_j: 0.5 mJ\nmax_latency_s: 2e-3 s\n")
    assert read_targets(path) == Target(max_energy_j=0.0005, max_latency_s=0.002)


def test_a_file_holds_a_target_or_several_by_name(tmp_path):
    path = tmp_path / "target.yaml"
    path.write_text("max_drop: 0.01\ndeadline_s: 0.005\n")
    assert read_targets(path) == Target(max_drop=0.01, deadline_s=0.005)
    path.write_text("eco: {goal: energy, max_drop: 0.02}\nfast: {max_latency_s: 1e-3}\n'3': {max_drop: 0}\n")
    assert list(read_targets(path).items()) == [
        ("eco", Target(goal="energy", max_drop=0.02)),
        ("fast", Target(max_latency_s=0.001)),
        ("3", Target(max_drop=0.0)),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("max_dorp: 0.01", r"target.yaml: Unknown key .*'max_dorp'. Did you mean 'max_drop'"),
        ("eco: {max_latency: 1}", r"target.yaml, eco: Unknown key .* Did you mean 'max_latency_s'"),
        ("max_drop: much", "max_drop is a number, or one with the unit %, not 'much'"),
        ("max_drop: true", "max_drop is a number, or one with the unit %, not True"),
        ("max_drop: 5", "0.01 is one percent"),
        ("goal: fast\nmax_drop: 0.1", "Unknown goal 'fast'"),
        ("goal: accuracy", "needs a limit"),
        ("eco: {max_drop: 0.1}\nmax_drop: 0.1", "a target has fields"),
        ("deadline_s: 5 mJ", "deadline_s is a number, or one with the unit us, ms, s, not '5 mJ'"),
        ("max_drop: 1 ms", "max_drop is a number, or one with the unit %, not '1 ms'"),
        ("deadline_ms: 5\ndeadline_s: 5", "deadline_s is given twice"),
        ("max_drop: 0.1\nmax_drop: 0.2", "'max_drop' stands twice"),
        ("eco: {max_drop: 0.1}\neco: {max_drop: 0.2}", "'eco' stands twice"),
        ("on: {max_drop: 0.1}", "write it in quotes"),
    ],
)
def test_what_is_no_target_is_refused_with_the_place(tmp_path, content, words):
    path = tmp_path / "target.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=words):
        read_targets(path)


@pytest.mark.parametrize("micro", ["u", "\u00b5", "\u03bc"])
def test_millionths_are_written_in_three_ways(tmp_path, micro):
    path = tmp_path / "target.yaml"
    path.write_text(f"deadline_s: 800 {micro}s\nmax_energy_j: 900{micro}J", encoding="utf-8")
    found = read_targets(path)
    assert (found.deadline_s, found.max_energy_j) == pytest.approx((8e-4, 9e-4))


@pytest.mark.parametrize(
    ("content", "seconds", "words"),
    [
        ("max_latency_s: 5", 5.0, "max_latency_s without a unit counts in s: it is 5 s. Write 5 ms if that was meant"),
        ("max_latency_ms: 0.005", 5e-6, "counts in ms: it is 0.005 ms. Write 0.005 s if"),
        ("max_latency_s: 5 s", 5.0, None),
        ("max_latency_s: 0.05", 0.05, None),
        ("max_latency_ms: 0.02", 2e-5, None),
    ],
)
def test_a_number_keeps_its_unit_and_is_named_where_another_was_most_likely_meant(tmp_path, content, seconds, words):
    (tmp_path / "target.yaml").write_text(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_targets(tmp_path / "target.yaml").max_latency_s == pytest.approx(seconds)
    assert [words in str(each.message) for each in caught] == [True] * (words is not None)


def test_the_faulty_line_is_shown_with_a_mark(tmp_path):
    (tmp_path / "target.yaml").write_text("eco:\n  max_drop: 0.01\n bad: 3\n")
    with pytest.raises(DataError, match=r"line 3, column 2: expected .*\.\n   bad: 3\n   \^$"):
        read_targets(tmp_path / "target.yaml")
    (tmp_path / "target.yaml").write_text("max_drop: 0.1\n\tgoal: energy")
    with pytest.raises(DataError, match=r"spaces, not tabs\.\n   goal: energy\n  \^$"):
        read_targets(tmp_path / "target.yaml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="There is no file"):
        read_targets(tmp_path / "none.yaml")


LAUGHS = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30))])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- max_drop", "holds no target"),
        ("", "holds no target"),
        ("a: [", "target.yaml is not YAML: line 1, column 5: "),
        ("max_drop: 0.1\n\tgoal: energy\n", "is not YAML: line 2, column 1: found character"),
        ("max_drop: !!python/object:os.system {}", "is not YAML: line 1"),
        ("a: &a {b: *a}", "line 1: targets have no aliases .*a"),
        (LAUGHS, "line 2: targets have no aliases"),
        ("a: &a {max_drop: 0.1}\nb: {<<: *a}", "line 2: targets have no aliases"),
        ("[" * 20_000, "in line 1 it is 4 levels deep"),
        ("a: " + "{b: " * 9000, "in line 1 it is 4 levels deep"),
        ("max_drop: !!int abc", "is not YAML: invalid literal"),
        ("max_drop: " + "9" * 5000, "is not YAML: Exceeds the limit"),
        ("max_drop: 0.1 # " + "x" * 70_000, "longer than 64 kB"),
        ("? [a, b]\n: 1", "is not YAML: line 1"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"max_drop: \x00", "is not YAML"),
    ],
)
def test_what_is_no_yaml_of_targets_is_refused_with_its_place(tmp_path, content, words):
    path = tmp_path / "target.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=words) as caught:
        read_targets(path)
    told, *faulty = str(caught.value).split("\n")
    assert caught.value.exit_code == 5 and told.endswith(".") and len(str(caught.value)) < 500
    assert not faulty or (len(faulty) == 2 and faulty[1].strip() == "^")


def test_what_calibrate_sets_is_no_key(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("max_drop: 0.01\ncounts: losses\n")
    with pytest.raises(UsageError, match="Unknown key 'counts'"):
        read_targets(path)
