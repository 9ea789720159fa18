"""The driver of strangers' networks: what it says of networks that fail in each way."""

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from offramp.errors import ModelError
from offramp.export import export
from offramp.tests.strangers import drive
from offramp.tests.strangers.networks import Stranger
from offramp.tests.strangers.steps import Course, run_steps
from offramp.tests.strangers.watch import STEPS, Limits, watch_process

LIMITS = Limits(timeout_s=600, memory_mb=4000)


def draw(rows, numbers):
    return numbers.standard_normal((rows, 3, 8, 8)).astype(np.float32)


def make_plain():
    layers = [part for width in (3, 8, 8) for part in (nn.Conv2d(width, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def outcomes_of(course, steps):
    records: list[dict[str, Any]] = []
    run_steps(course, steps, records.append)
    return {record["step"]: record for record in records if "outcome" in record}


def test_a_sound_network_passes_every_step(tmp_path):
    found = outcomes_of(Course(Stranger(make_plain, draw), tmp_path), STEPS)
    assert {step: record["outcome"] for step, record in found.items()} == dict.fromkeys(("build", *STEPS), "ok")
    assert found["quantize"]["words"].startswith("same labels ") and found["chain"]["peak_mb"] > 100


class Raising(Course):
    """A course whose first step raises."""

    def __init__(self, error):
        self.error = error

    def build(self):
        return None

    def attach(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ModelError("No place."), "refused"),
        (ModelError("This is a fault in offramp: please report it."), "crash"),
        (ValueError("planted"), "crash"),
        (MemoryError(), "memory"),
    ],
)
def test_a_refusal_is_told_from_a_crash_and_ends_the_course(error, outcome):
    found = outcomes_of(Raising(error), STEPS)
    assert list(found) == ["build", "attach"] and found["attach"]["outcome"] == outcome
    assert str(error) in found["attach"]["words"]


class Exported(Course):
    """A course that has its network and bundle already."""

    def build(self):
        return None


@pytest.fixture(scope="module")
def dense_course(dense_onnx, tmp_path_factory):
    """A course behind the step export, whose bundle answers as torch's network would that it is given."""
    folder = tmp_path_factory.mktemp("course")
    bundle = export(dense_onnx, None, folder / "bundle.offramp")

    def make(network):
        course = Exported(
            Stranger(nn.Identity, lambda rows, numbers: numbers.standard_normal((rows, 16)).astype(np.float32)), folder
        )
        course.bundle, course.network = bundle, network
        return course

    return make


def same_as(bundle, change):
    """Return a network of torch that gives what a bundle gives, changed."""
    from offramp.runtime import load_uncalibrated

    net = load_uncalibrated(bundle, logits=True)
    return lambda x: [torch.from_numpy(change(logits)) for logits in net.every_exit(x.numpy()).logits.swapaxes(0, 1)]


@pytest.mark.parametrize(
    ("change", "outcome"), [(lambda x: x, "ok"), (lambda x: x * 1.01, "wrong"), (lambda x: x + 0.5, "wrong")]
)
def test_another_answer_than_torchs_is_wrong(dense_course, change, outcome):
    course = dense_course(None)
    course.network = same_as(course.bundle, change)
    assert outcomes_of(course, ("chain",))["chain"]["outcome"] == outcome


BEGINS = 'open(sys.argv[1], \'a\').write(\'{"step": "export", "begins": true}\\n\')'


@pytest.mark.parametrize(
    ("ends", "limits", "outcome", "words"),
    [
        ("print('last words'); os.abort()", LIMITS, "crash", "SIGABRT: last words"),
        ("time.sleep(600)", Limits(timeout_s=0.5, memory_mb=4000), "time", "takes more than"),
        ("x = b'x' * (400 << 20); time.sleep(600)", Limits(timeout_s=600, memory_mb=200), "memory", "more than 200 MB"),
    ],
)
def test_a_process_that_does_not_end_its_step_is_described(tmp_path, ends, limits, outcome, words):
    code = f"import os, sys, time\n{BEGINS}\nsys.stdout.reconfigure(line_buffering=True)\n{ends}"
    file = tmp_path / "records.jsonl"
    (record,) = watch_process([sys.executable, "-S", "-c", code, str(file)], file, tmp_path / "log", limits)
    assert (record["step"], record["outcome"]) == ("export", outcome) and words in record["words"]


def test_what_is_done_is_not_run_again_and_stands_in_the_table(tmp_path, capsys, monkeypatch):
    file, asked = tmp_path / "found.jsonl", []

    def run(name, steps, limits):
        asked.append(name)
        record = {"name": name, "seconds": 1.0, "peak_mb": 500}
        refused = {"step": "attach", "outcome": "refused", "words": "ModelError: No place."}
        changed = {"step": "quantize", "outcome": "ok", "words": "same labels 0.98, 0.41"}
        passed = [{"step": step, "outcome": "ok", "words": ""} for step in ("build", *STEPS[:-1])]
        return [record | found for found in ([passed[0], refused] if "resnet" in name else [*passed, changed])]

    monkeypatch.setattr(drive, "run_network", run)
    names = ["timm/resnet18", "transformers/Bert"]
    assert drive.main([*names, "--out", str(file)]) == 0
    file.write_bytes(file.read_bytes()[:-20])  # as a killed driver leaves it
    assert drive.main([*names, "timm/vgg11_bn", "--out", str(file)]) == 0
    assert asked == [*names, "transformers/Bert", "timm/vgg11_bn"]
    printed = capsys.readouterr().out
    assert "1 of 2 (50%)" in printed and "ModelError: No place." in printed and "0.98, 0.41" in printed


def test_a_network_of_ones_own_runs_in_a_process_of_its_own(tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np, torch\nfrom offramp.tests.strangers.networks import Stranger\n"
        "def linear():\n"
        "    return Stranger(lambda: torch.nn.Linear(4, 3), lambda rows, numbers: np.zeros((rows, 4), np.float32))\n"
    )
    found = drive.run_network(f"{tmp_path / 'own.py'}:linear", ["attach"], LIMITS)
    assert [record["step"] for record in found] == ["build", "attach"], found
    assert json.dumps(found) and found[1]["outcome"] in ("ok", "refused")
