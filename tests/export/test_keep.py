"""Dropping exits: a variant beside the one it comes from."""

import numpy as np
import pytest

from offramp.bundle import check_bundle, open_bundle
from offramp.calibrate import bench, calibrate
from offramp.errors import BundleError, UsageError
from offramp.export import export, keep
from offramp.runtime import load, load_static
from offramp.runtime.loading import load_uncalibrated
from offramp.schema import Target

from dense import write_onnx


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def test_the_new_variant_says_what_the_old_one_says_at_the_exits_that_stay(dense):
    bundle = keep(dense.path, [0, "z2"])
    old, new = bundle.manifest.variants
    assert (new.name, new.folder, new.weights) == ("fp32-exits0-2", old.folder, old.weights)
    assert [e.name for e in new.exits] == ["z0", "z2"]
    assert [s.macs for s in new.stages] == [old.stages[0].macs, old.stages[1].macs + old.stages[2].macs - 16 * 5]
    x = draw(20)
    every = load_uncalibrated(bundle, logits=True).every_exit(x).logits
    two = load_uncalibrated(bundle, variant=new.name, logits=True).every_exit(x).logits
    assert np.abs(two - every[:, [0, 2]]).max() <= 1e-5 * np.abs(every).max()
    static = load_static(bundle, variant=new.name, exit=0, logits=True).every_exit(x).logits
    assert np.allclose(static[:, 0], every[:, 0], atol=1e-6)


def test_weights_are_not_stored_again_and_every_file_is_checked(dense):
    before = {path.name: path.stat().st_size for path in (dense.path / dense.variant().folder).iterdir()}
    bundle = check_bundle(keep(dense.path, [1, 2]).path)
    folder = bundle.path / bundle.variant().folder
    added = {path.name for path in folder.iterdir()} - before.keys()
    assert all(name.startswith("fp32-exits1-2.") for name in added) and len(added) == 4
    assert (folder / "weights.bin").stat().st_nlink == 1
    path = folder / "fp32-exits1-2.stage0.onnx"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BundleError, match=r"fp32-exits1-2.stage0.onnx is damaged"):
        load_uncalibrated(open_bundle(bundle.path), variant="fp32-exits1-2")


def test_a_new_variant_leaves_calibrations_valid_and_can_be_calibrated_itself(calibrated, labelled, monkeypatch):
    monkeypatch.setattr("offramp.calibrate.calibration.MEASURE_S", 0.2)
    bundle = keep(calibrated.path, [0, 2], name="two")
    assert load(bundle).exits == ("z0", "z1", "z2")
    found = calibrate(bundle, labelled, Target(max_drop=0.05), variant="two")
    assert found.variant == "two" and len(found.exit_latency_s) == 2
    assert (bundle.path / "calibrations" / "two.json").exists()
    assert load(bundle, variant="two").exits == ("z0", "z2")
    assert load(bundle, variant="fp32").exits == ("z0", "z1", "z2")
    with pytest.raises(UsageError, match="several calibrations"):
        load(bundle)
    with pytest.raises(BundleError, match="another variant"):
        load(bundle, variant="fp32", calibration=bundle.path / "calibrations" / "two.json")
    assert bench(bundle, labelled, variant="two").exit_latency_s[0] > 0


def test_exporting_again_removes_the_variants_that_were_there(dense, dense_onnx):
    keep(dense.path, [0, 2])
    bundle = export(dense_onnx, None, dense.path)
    assert [v.name for v in bundle.manifest.variants] == ["fp32"]
    assert [p.name for p in (bundle.path / "variants").iterdir()] == [bundle.variant().folder.split("/")[1]]


def test_exits_can_be_dropped_from_what_was_kept(tmp_path):
    path = write_onnx(tmp_path / "net.onnx", exits=5)
    bundle = keep(export(path, None, tmp_path / "b.offramp"), [0, 2, 3, -1], name="four")
    bundle = keep(bundle, ["z0", "z3"], variant="four")
    assert [v.name for v in bundle.manifest.variants] == ["fp32", "four", "four-exits0-2"]
    x = draw(5)
    every = load_uncalibrated(bundle, logits=True).every_exit(x).logits
    two = load_uncalibrated(bundle, variant="four-exits0-2", logits=True).every_exit(x).logits
    assert np.allclose(two, every[:, [0, 3]], atol=1e-6)


@pytest.mark.parametrize(
    ("exits", "options", "words"),
    [
        ([0], {}, "at least two"),
        ([0, 3], {}, "no exit 3"),
        ([0, "z9"], {}, "Unknown exit 'z9'. Known: z0, z1, z2"),
        ([0, 0, 1], {}, "named twice"),
        ([0, 1], {"variant": "int8"}, "Unknown variant 'int8'"),
        ([0, 1], {"name": "../x"}, "not '../x'"),
        ([0, 1], {"name": "fp32"}, "already has a variant fp32"),
    ],
)
def test_wrong_calls_are_refused_and_change_nothing(dense, exits, options, words):
    with pytest.raises(UsageError, match=words):
        keep(dense.path, exits, **options)
    assert open_bundle(dense.path).manifest == dense.manifest


def test_an_ensemble_loses_no_exit_afterwards(dense_onnx, tmp_path):
    bundle = export(dense_onnx, None, tmp_path / "b.offramp", rule="ensemble")
    with pytest.raises(UsageError, match="export the network again"):
        keep(bundle, [0, 2])
