import pytest

from offramp.calibrate import Target, read_targets
from offramp.errors import UsageError


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
        ("max_drop: much", "max_drop is a number, not 'much'"),
        ("max_drop: true", "max_drop is a number, not True"),
        ("max_drop: 5", "0.01 is one percent"),
        ("goal: fast\nmax_drop: 0.1", "Unknown goal 'fast'"),
        ("goal: accuracy", "needs a limit"),
        ("eco: {max_drop: 0.1}\nmax_drop: 0.1", "a target has fields"),
        ("- max_drop", "holds no target"),
        ("", "holds no target"),
        ("a: [", "is not YAML"),
        ("max_drop: 0.1\nmax_drop: 0.2", "'max_drop' stands twice"),
        ("eco: {max_drop: 0.1}\neco: {max_drop: 0.2}", "'eco' stands twice"),
        ("on: {max_drop: 0.1}", "write it in quotes"),
        ("max_drop: !!python/object:os.system {}", "is not YAML"),
    ],
)
def test_what_is_no_target_is_refused_with_the_place(tmp_path, content, words):
    path = tmp_path / "target.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=words):
        read_targets(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="There is no file"):
        read_targets(tmp_path / "none.yaml")
