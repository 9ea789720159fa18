"""The commands that add compressed variants, as a user would call them."""

import json

import numpy as np
import pytest

from offramp.bundle import open_bundle
from offramp.cli.app import exit_code_of
from offramp.cli.describe import describe_shifts
from offramp.export import Shift
from offramp.export.variants import comparison
from offramp.tests.zoo.dense import write_onnx

NETWORK = """
import numpy as np, torch
from offramp.tests.zoo import networks
def network(): return networks.build(networks.ZOO["plain"])
def other(): return networks.build(networks.ZOO["plain"], seed=1)
def data():
    x = networks.ZOO["plain"].draw(60, 0)[0]
    return x, np.arange(60) % 5
def unlabelled(): return data()[0]
def loader():
    x, y = data()
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), 20)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compress")
    (folder / "net.py").write_text(NETWORK)
    assert exit_code_of(["export", str(write_onnx(folder / "dense.onnx")), "-o", str(folder / "dense.offramp")]) == 0
    rng = np.random.default_rng(0)
    np.savez(folder / "x.npz", x=rng.standard_normal((100, 16)).astype(np.float32), y=np.arange(100) % 5)
    np.savez(folder / "short.npz", x=np.zeros((100, 16), np.float32), y=np.arange(99) % 5)
    return folder


def test_quantize_adds_a_variant_and_says_what_it_changes(files, call, monkeypatch):
    loaded = []
    load = comparison.load_uncalibrated
    monkeypatch.setattr(comparison, "load_uncalibrated", lambda *a, **how: loaded.append(1) or load(*a, **how))
    code, out, err = call("quantize {f}/dense.offramp --data {f}/x.npz --json")
    assert len(loaded) == 2  # the new variant and its parent, once
    found = json.loads(out)
    assert code == 0 and err == ""
    assert [variant["name"] for variant in found["manifest"]["variants"]] == ["fp32", "int8"]
    assert [one["exit"] for one in found["shifts"]] == [0, 1, 2]
    assert all(one["alike"] > 0.8 and one["accuracy"] is not None for one in found["shifts"])
    assert "differs from int8 uncut by" in call("inspect {f}/dense.offramp")[1]
    code, out, _ = call("quantize {f}/dense.offramp --to fp16")
    assert code == 0 and "variant fp16" in out and "quantised from fp32" in out and "score shift" not in out
    code, out, _ = call("quantize {f}/dense.offramp --data {f}/x.npz --ranges percentile --samples 50 --name fewer")
    assert code == 0 and "ranges percentile, samples 50, seed 0, weight_bits 7" in out and "accuracy of fewer" in out
    code, out, _ = call("run {f}/dense.offramp {f}/x.npz --variant int8 --json")
    assert code == 0 and len(json.loads(out)) == 100


def test_gate_adds_a_variant_with_fitted_scores(files, call, dense, labelled, tmp_path):
    np.savez(tmp_path / "x.npz", x=labelled[0], y=labelled[1])
    code, out, _ = call(f"gate {dense.path} --data {tmp_path}/x.npz --name sure --json")
    assert code == 0 and json.loads(out)["variants"][1]["origin"]["settings"] == {"samples": 800, "fitted_to": "labels"}
    code, out, err = call(f"calibrate {dense.path} {tmp_path}/x.npz --max-drop 0.5")
    assert code == 2 and "served to fit the scores of sure" in err
    np.savez(tmp_path / "few.npz", x=labelled[0][:2], y=labelled[1][:2])
    code, out, err = call(f"gate {dense.path} --data {tmp_path}/few.npz --name again")
    assert code == 5 and "No score can be fitted" in err


def test_prune_makes_the_bundle_and_adds_to_it(files, call):
    line = "prune {f}/net.py:network -o {f}/plain.offramp --macs 0.7 --round-to 1 --epochs 1 --batch 20"
    (files / "plain.offramp/variants/.new-0").mkdir(parents=True)  # of a process that was killed
    code, out, err = call(f"{line} --data {{f}}/net.py:data --json")
    assert code == 0 and "epoch 1 of 1: accuracy in training" in err
    assert [variant["name"] for variant in json.loads(out)["variants"]] == ["fp32", "pruned30"]
    code, out, _ = call(f"{line} --data {{f}}/net.py:loader --name again")
    assert code == 0 and "pruned from fp32: macs 0.7, spread uniform, round_to 1, epochs 1, recipe joint" in out
    assert [v.name for v in open_bundle(files / "plain.offramp").manifest.variants] == ["fp32", "pruned30", "again"]
    code, out, _ = call("quantize {f}/plain.offramp --data {f}/net.py:unlabelled --variant pruned30")
    assert code == 0 and "variant pruned30-int8" in out
    code, out, _ = call("export {f}/net.py:other -o {f}/plain.offramp --beside other --json")
    assert code == 0 and json.loads(out)["variants"][-1]["name"] == "other"


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [
        (2, "needs samples", "quantize {f}/dense.offramp"),
        (2, "There is no bundle", "quantize {f}/nowhere.offramp --data {f}/x.npz"),
        (2, "Did you mean 'fp16'", "quantize {f}/dense.offramp --to fp15"),
        (5, "labels of shape (99,)", "quantize {f}/dense.offramp --data {f}/short.npz"),
        (2, "cannot be trained", "prune {f}/dense.onnx --data {f}/x.npz -o {f}/dense.offramp --macs 0.5"),
        (2, "Give macs or parameters", "prune {f}/net.py:network --data {f}/net.py:data -o {f}/a.offramp"),
        (2, "above 0 and below 1", "prune {f}/net.py:network --data {f}/net.py:data -o {f}/a.offramp --macs 50"),
        (
            2,
            "epochs are 0 or more",
            "prune {f}/net.py:network --data {f}/net.py:data -o {f}/a.offramp --macs 0.5 --epochs -1",
        ),
        (5, "has no labels", "prune {f}/net.py:network --data {f}/net.py:unlabelled -o {f}/a.offramp --macs 0.5"),
        (
            2,
            "does not run on the samples",
            "prune {f}/net.py:network --data {f}/net.py:data -o {f}/dense.offramp --macs 0.5",
        ),
    ],
)
def test_what_does_not_make_sense_ends_with_its_code(files, call, code, message, line):
    found, out, err = call(line)
    assert (found, out) == (code, "") and message in err
    assert not (files / "a.offramp").exists()


def test_of_answers_that_are_no_labels_quantize_says_which_are_alike():
    shift = Shift(exit=1, accuracy=None, parent_accuracy=None, alike=0.98, score_shift=-0.004)
    head, row = describe_shifts("int8", "fp32", [shift], has_labels=False).splitlines()
    assert head.split("  ") == ["exit", "alike within 1 %", "score shift"]
    assert row.split() == ["1", "98.00%", "-0.0040"]
