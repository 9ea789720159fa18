"""Dropping exits: a variant beside the one it comes from."""

import numpy as np
import onnx
import pytest

from offramp.bundle import Target, check_bundle, open_bundle
from offramp.calibrate import bench
from offramp.cli.describe import describe_bundle
from offramp.errors import BundleError, UsageError
from offramp.export import export, keep
from offramp.runtime import load, load_static, load_uncalibrated
from offramp.tests.helpers.briefly import calibrate
from offramp.tests.zoo.dense import write_onnx


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


def test_a_new_variant_leaves_calibrations_valid_and_can_be_calibrated_itself(calibrated, labelled):
    bundle = keep(calibrated.path, [0, 2], name="two")
    assert load(bundle).exits == ("z0", "z1", "z2")
    calibration = calibrate(bundle, labelled, Target(max_drop=0.05), variant="two")
    assert list(calibration.variants) == ["fp32", "two"] and len(calibration.early.exit_latency_s) == 2
    assert (bundle.path / "calibrations" / "two.json").exists()
    early = next(name for name, point in calibration.points.items() if point.exits_early)
    assert load(bundle, variant="two", point=early).exits == ("z0", "z2")
    assert load(bundle, variant="fp32").exits == ("z0", "z1", "z2")
    with pytest.raises(UsageError, match="several calibrations"):
        load(bundle)
    with pytest.raises(BundleError, match="another variant"):
        load(bundle, variant="fp32", calibration=bundle.path / "calibrations" / "two.json")
    told = "Exits of two are counted anew: 0 is exit 0 of fp32, 1 is exit 2 of fp32."
    benchmark = bench(bundle, labelled, variant="two")
    assert benchmark.exit_latency_s[0] > 0 and told in benchmark.notes and told in calibration.notes
    assert not any("counted anew" in note for note in bench(bundle, labelled, variant="fp32").notes)


def test_exporting_another_network_removes_the_variants_that_were_there(dense, dense_onnx, tmp_path):
    keep(dense.path, [0, 2])
    bundle = export(dense_onnx, None, dense.path)
    assert [v.name for v in bundle.manifest.variants] == ["fp32", "fp32-exits0-2"]  # it was the same network
    with pytest.warns(UserWarning, match="variants fp32-exits0-2 are removed"):
        bundle = export(write_onnx(tmp_path / "other.onnx", seed=1), None, dense.path, replace=True)
    assert [v.name for v in bundle.manifest.variants] == ["fp32"]
    assert [p.name for p in (bundle.path / "variants").iterdir()] == [bundle.variant().folder.split("/")[1]]


def test_exits_are_counted_anew_and_shown_with_the_number_that_they_had(dense):
    bundle = keep(dense.path, [1, -1])
    shown = describe_bundle(bundle).partition("variant fp32-exits1-2")[2].splitlines()
    rows = [line for line in shown if line[:2] in ("0 ", "1 ")]
    assert "z1 (1 in fp32)" in rows[0] and "z2 (2 in fp32)" in rows[1]


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
        ("z0", {}, "exits is a list"),
        (2, {}, r"exits is a list of names or numbers: \[2, ...\]"),
        ([0, -4], {}, "no exit -4: variant fp32 has exits 0 to 2"),
        ([0, "9" * 5000], {}, "Unknown exit '99"),
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


def test_exits_called_by_numbers_are_kept_by_name(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        for k in range(3):
            if node.output[0] == f"z{k}":
                node.output[0] = model.graph.output[k].name = str(10 + k)
    onnx.save(model, path)
    bundle = keep(export(path, None, tmp_path / "b.offramp"), ["10", "12"])
    assert [e.name for e in bundle.manifest.variants[1].exits] == ["10", "12"]
    assert [e.name for e in keep(bundle, ["0", "1"]).manifest.variants[2].exits] == ["10", "11"]
    with pytest.raises(UsageError, match="no exit 10"):
        keep(bundle, ["10", "1"])  # one name and one number: both are taken for numbers


def test_a_quantised_value_that_only_crosses_without_an_exit_is_found(tmp_path):
    """Exit 1 reads the float value that exit 2 reads quantised: without exit 1 it crosses quantised."""
    rng, helper = np.random.default_rng(0), onnx.helper
    values = {name: rng.standard_normal((16, 16)).astype(np.float32) / 4 for name in ("A", "B", "C")}
    values |= {f"H{k}": rng.standard_normal((16, 5)).astype(np.float32) for k in range(3)}
    values |= {"scale": np.array(0.05, np.float32), "point": np.array(128, np.uint8)}
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["y"]),
        helper.make_node("MatMul", ["y", "H0"], ["z0"]),
        helper.make_node("QuantizeLinear", ["y", "scale", "point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["d"]),
        helper.make_node("MatMul", ["y", "B"], ["t"]),
        helper.make_node("MatMul", ["t", "H1"], ["z1"]),
        helper.make_node("MatMul", ["d", "B"], ["u"]),
        helper.make_node("MatMul", ["u", "C"], ["v"]),
        helper.make_node("MatMul", ["v", "H2"], ["z2"]),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 16])
    outputs = [helper.make_tensor_value_info(f"z{k}", onnx.TensorProto.FLOAT, ["N", 5]) for k in range(3)]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "net", [x], outputs, tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "net.onnx"
    )
    bundle = keep(export(tmp_path / "net.onnx", None, tmp_path / "b.offramp"), [0, 2])
    assert [t.dtype for t in bundle.variant().stages[1].inputs] == ["float32"]
    assert [t.dtype for t in bundle.manifest.variants[1].stages[1].inputs] == ["uint8"]


def test_what_a_killed_process_left_beside_a_variant_is_removed(dense):
    folder = dense.path / dense.variant().folder
    (folder / "old.stage0.onnx").touch()
    (folder / "notes.txt").touch()
    keep(dense.path, [0, 2])
    assert not (folder / "old.stage0.onnx").exists() and (folder / "notes.txt").exists()
