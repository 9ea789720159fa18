"""The driver of an emulated Arm processor: what counts as another answer, and what it says where it cannot run."""

import sys

import msgspec
import pytest

from offramp.tests.arm import root, run
from offramp.tests.arm.answers import Answers, compare, read, record

REFERENCE = Answers(
    variant="fp32",
    precision="fp32",
    labels=[[1, 1], [2, 3], [0, 4]],
    scores=[[0.9, 1.0], [0.3, 0.8], [0.5000001, 0.7]],
    leads=[[0.8, 1.0], [0.0, 0.6], [0.2, 0.5]],
    thresholds=[0.5],
    exits=[0, 1, 0],
    taken=[1, 3, 0],
)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"scores": [[0.9, 1.0], [0.3, 0.8], [0.499999, 0.7]], "exits": [0, 1, 1], "taken": [1, 3, 4]}, []),
        ({"labels": [[1, 1], [5, 3], [0, 4]]}, []),
        ({"scores": [[0.9, 1.0], [0.3, 0.81], [0.5, 0.7]]}, ["a score differs by 0.01"]),
        ({"scores": [[0.9, 1.0], [0.3, float("nan")], [0.5, 0.7]]}, ["a score differs by nan"]),
        ({"labels": [[1, 1], [2, 4], [0, 4]]}, ["1 of 6 labels differ"]),
        ({"exits": [1, 1, 0]}, ["1 of 3 samples leave at another exit"]),
        ({"taken": [1, 2, 0]}, ["1 of 3 samples leave with another label"]),
    ],
)
def test_answers_may_differ_only_where_rounding_decides(changed, words):
    assert compare(REFERENCE, msgspec.structs.replace(REFERENCE, **changed))[1] == words


def test_answers_are_recorded_and_read_again_and_what_does_not_run_says_why(shared_dense, tmp_path):
    import numpy as np

    (tmp_path / "dense.offramp").symlink_to(shared_dense.path)
    np.savez(tmp_path / "dense.npz", np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32))
    found = record(tmp_path, "cpu", {})
    (tmp_path / "found.json").write_bytes(msgspec.json.encode(found))
    assert read(tmp_path / "found.json") == found
    (key,) = found
    assert key == "dense fp32" and len(set(found[key].exits)) > 1
    again = record(tmp_path, "cpu", found)[key]
    assert compare(found[key], again) == (0.0, []) and again.exits == found[key].exits
    assert "There is no device 'tpu'" in record(tmp_path, "tpu", found)[key].problem


def test_a_variant_that_runs_only_here_is_an_error_unless_it_is_known(capsys):
    refused = Answers(variant="int8", precision="int8", problem="no such convolution")
    here = msgspec.structs.replace(REFERENCE, precision="int8")
    (line,) = run.judge("digits int8", "cpu", "cortex-a76", here, here, refused)
    assert line == "digits int8 on cpu of a cortex-a76: no such convolution"
    assert run.judge("digits int8", "openvino:CPU", "cortex-a76", here, here, refused) == []
    assert run.judge("digits int8", "cpu", "cortex-a76", here, refused, refused) == []
    assert capsys.readouterr().out.count("refused: no such convolution") == 3


def test_where_it_cannot_run_it_says_why_and_that_nothing_was_tested(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(root, "find_program", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["run.py", "--folder", str(tmp_path / "arm")])
    assert run.main() == 0
    said = capsys.readouterr().out
    assert said.startswith("Skipped, nothing was tested: ") and not (tmp_path / "arm").exists()
    if sys.platform == "linux" and root.platform.machine() != "aarch64":
        assert "apt install qemu-user-static debootstrap dpkg util-linux" in said
