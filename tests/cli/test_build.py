"""The commands that say where stages run, and that look after what was built ahead."""

import json
import time

import numpy as np
import pytest

from offramp.cli.app import exit_code_of
from offramp.tests.helpers.command import clear_message, offramp


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(labelled, tmp_path):
    x, y = labelled
    np.savez(tmp_path / "data.npz", x=x[:100], y=y[:100])
    return tmp_path / "data.npz"


def test_stages_are_built_listed_and_cleaned(dense):
    done = json.loads(offramp("build", dense.path, "--device", "openvino:CPU", "--json").stdout)
    assert [one["stage"] for one in done] == ["stage0.onnx", "stage1.onnx", "stage2.onnx"]
    assert "was there" in offramp("build", dense.path, "--device", "openvino:CPU").stdout
    listed = offramp("cache", "list")
    assert "stage0.onnx" in listed.stdout and "3 entries" in listed.stdout
    assert len(json.loads(offramp("cache", "list", "--json").stdout)["entries"]) == 3
    assert json.loads(offramp("cache", "clean", "--json").stdout)["removed"] == 3
    assert "0 entries" in offramp("cache", "list").stdout
    assert "nothing to build ahead" in offramp("build", dense.path).stdout


def test_stages_are_placed_calibrated_and_compared(dense, data):
    place = ["--place", "0=openvino:CPU,1-=cpu"]
    done = offramp("calibrate", dense.path, data, "--max-drop", "0.5", *place, "--json")
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    assert points.get("default-early", points["default"])["placement"] == ["openvino:CPU", "cpu", "cpu"]
    (checked,) = json.loads(offramp("verify", dense.path, "--json").stdout)
    assert checked["fingerprint"]["architecture"]
    assert checked["device"] == "0=openvino:CPU,1=cpu,2=cpu" and checked["passed"]
    assert [one["stage"] for one in json.loads(offramp("build", dense.path, "--json").stdout)] == ["stage0.onnx"]
    found = json.loads(offramp("bench", dense.path, data, "--json").stdout)  # where it was calibrated
    assert [stage["device"] for stage in found["stages"]] == ["openvino:CPU", "cpu", "cpu"]
    assert [stage["crossing_bytes"] for stage in found["stages"]] == [0, 64, 0]
    assert found["stages"][1]["crossing_s"] is not None and found["stages"][2]["crossing_s"] is None
    assert "bytes crossing" in offramp("bench", dense.path, data).stdout
    name = "default-early" if "default-early" in points else "default"
    moved = offramp("run", dense.path, data, "--device", "cpu", "--point", name)
    assert moved.returncode == 0 and "were calibrated on openvino:CPU, cpu, cpu" in moved.stderr


def test_auto_says_what_it_chose(dense, data):
    done = offramp("run", dense.path, data, "--device", "auto")
    assert done.returncode == 0 and "Note: auto chose " in done.stderr and len(done.stdout.splitlines()) == 101


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--device", "openvino:NPU"], 4, ["no device NPU"]),
        (["--device", "cuda:0"], 4, ["pip install onnxruntime-gpu"]),
        (["--device", "gpu"], 4, ["no device 'gpu'"]),
        (["--place", "3=cpu"], 2, ["stages 0 to 2"]),
        (["--place", "cpu"], 2, ["0=openvino:CPU,1-=cpu"]),
        (["--place", "0=cpu", "--device", "auto"], 2, ["leave --place out"]),
    ],
)
def test_what_cannot_be_run_on_says_so(dense, arguments, code, words):
    clear_message(offramp("verify", dense.path, *arguments), code, *words)


def test_falling_back_is_asked_for_and_said(dense):
    done = offramp("verify", dense.path, "--device", "cuda:0", "--fallback", "cpu")
    assert done.returncode == 0 and "run on cpu, not on cuda:0" in done.stderr and "fp32 on cpu: passed" in done.stdout


ABSENT = {
    "cuda:0": "pip install onnxruntime-gpu",
    "onnxruntime:tensorrt:0": "pip install onnxruntime-gpu",
    "openvino:GPU": "Its driver must be installed",
    "openvino:NPU": "Its driver must be installed",
    "tensorrt:0": "Install the driver",
    "tensorrt:dla0": "Install the driver",
    "qnn:htp": "qnn",
    "rknn:rk3588": "offramp build BUNDLE --device rknn:rk3588",
    "rknn:rk3566": "offramp build BUNDLE --device rknn:rk3566",
}


@pytest.mark.parametrize("device", ABSENT)
def test_a_device_that_is_not_here_ends_with_4_and_the_remedy_within_a_second(dense, data, device, capsys):
    exit_code_of(["run", str(dense.path), str(data), "--json"])  # what any first run imports
    capsys.readouterr()
    start = time.process_time()
    code = exit_code_of(["run", str(dense.path), str(data), "--device", device, "--json"])
    spent_s = time.process_time() - start
    if code == 0:
        pytest.skip(f"{device} is here")
    out, err = capsys.readouterr()
    assert (code, out) == (4, "") and ABSENT[device] in err and spent_s < 1
    if not device.startswith("rknn"):  # for which another machine builds
        assert (
            exit_code_of(["build", str(dense.path), "--device", device]) == 4
            and ABSENT[device] in capsys.readouterr().err
        )
