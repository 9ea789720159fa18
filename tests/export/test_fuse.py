"""The fused file by itself; that it agrees with the chain on every network is tested with the zoo."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from offramp.errors import MissingError, UsageError
from offramp.export import export, fuse
from offramp.runtime import UncalibratedWarning, load
from offramp.runtime.loading import load_uncalibrated

from dense import write_onnx


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def test_it_exits_by_the_calibrated_thresholds_unless_it_is_given_others(calibrated, tmp_path):
    fused = fuse(calibrated, tmp_path / "one.onnx")
    net, session = load(calibrated), onnxruntime.InferenceSession(fused.path)
    assert fused.thresholds == net.thresholds
    for x in draw(50):
        ours, theirs = net(x), session.run(None, {"x": x[None]})
        assert (ours.label, ours.exit) == (theirs[0][0], theirs[2][0])
    assert session.run(["exit"], {"x": draw(1), "thresholds": np.zeros(2, np.float32)})[0].tolist() == [0]
    assert session.run(["exit"], {"x": draw(1), "thresholds": np.full(2, 2, np.float32)})[0].tolist() == [2]


def test_its_outputs_have_fixed_shapes_and_types(dense, tmp_path):
    fused = fuse(dense, tmp_path / "one.onnx", thresholds=[0.5, 0.5])
    onnx.checker.check_model(fused.path, full_check=True)
    session = onnxruntime.InferenceSession(fused.path)
    assert [(v.name, v.type, v.shape) for v in session.get_outputs()] == [
        ("label", "tensor(int64)", [1]),
        ("score", "tensor(float)", [1]),
        ("exit", "tensor(int64)", [1]),
        ("logits", "tensor(float)", [1, 5]),
    ]
    assert [(v.name, v.shape) for v in session.get_inputs()] == [("x", [1, 16])]
    assert [(v.name, v.shape) for v in session.get_overridable_initializers()] == [("thresholds", [2])]


def test_every_weight_lies_inside_the_branch_that_reads_it(dense, tmp_path):
    fused = fuse(dense, tmp_path / "one.onnx", thresholds=[0.5, 0.5])
    graph = onnx.load(fused.path).graph
    found = []
    while True:
        found.append(sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT))
        branches = [a.g for n in graph.node if n.op_type == "If" for a in n.attribute if a.name == "else_branch"]
        if not branches:
            break
        (graph,) = branches
    assert found == [16 * 16 + 16 * 5 + 2, *[16 * 16 + 16 * 5] * 2]  # the thresholds are outermost


@pytest.mark.parametrize("opset", [11, 12, 18, 21])
def test_old_and_new_opsets_are_fused(opset, tmp_path):
    bundle = export(write_onnx(tmp_path / "net.onnx", opset=opset), None, tmp_path / "b.offramp")
    session = onnxruntime.InferenceSession(fuse(bundle, tmp_path / "one.onnx", thresholds=[0.5, 0.6]).path)
    with load_uncalibrated(bundle) as net:
        net.thresholds = [0.5, 0.6]
        assert [net(x).exit for x in draw(30)] == [int(session.run(["exit"], {"x": x[None]})[0][0]) for x in draw(30)]


def test_it_runs_where_offramp_is_not_installed(dense, tmp_path):
    fuse(dense, tmp_path / "one.onnx", thresholds=[0.5, 0.5])
    code = (
        "import sys; sys.modules['offramp'] = None\nimport numpy, onnxruntime\n"
        "print(onnxruntime.InferenceSession('one.onnx').run(['exit'], {'x': numpy.zeros((1, 16), 'float32')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_class_names_travel_with_it(dense_onnx, tmp_path):
    bundle = export(dense_onnx, None, tmp_path / "b.offramp", class_names=list("abcde"))
    session = onnxruntime.InferenceSession(fuse(bundle, tmp_path / "one.onnx", thresholds=[0.5, 0.5]).path)
    assert session.get_modelmeta().custom_metadata_map["offramp.class_names"].split("\n") == list("abcde")


def test_large_weights_lie_beside_it_stored_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["offramp.export.fuse"], "INLINE", 100)  # the package's name for it is the function
    bundle = export(write_onnx(tmp_path / "net.onnx"), None, tmp_path / "b.offramp")
    (tmp_path / "out").mkdir()
    fused = fuse(bundle, tmp_path / "out" / "one.onnx", thresholds=[0.5, 0.5])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["one.onnx", "one.onnx.data"]
    assert (tmp_path / "out" / "one.onnx.data").stat().st_size >= bundle.variant().files["weights.bin"].bytes
    session = onnxruntime.InferenceSession(fused.path)
    with load_uncalibrated(bundle) as net:
        net.thresholds = [0.5, 0.5]
        assert net(draw(1)[0]).exit == session.run(["exit"], {"x": draw(1)})[0][0]


def test_without_a_calibration_it_says_that_it_never_exits(dense, tmp_path):
    with pytest.warns(UncalibratedWarning, match="runs to the last exit unless"):
        assert fuse(dense, tmp_path / "one.onnx").thresholds == (2.0, 2.0)


def test_wrong_calls_are_refused(dense, tmp_path):
    with pytest.raises(UsageError, match="3 exits take 2 thresholds, not 1"):
        fuse(dense, tmp_path / "one.onnx", thresholds=[0.5])
    with pytest.raises(UsageError, match="no operating point 'eco'"):
        fuse(dense, tmp_path / "one.onnx", point="eco")
    with pytest.raises(UsageError, match="is a folder"):
        fuse(dense, tmp_path, thresholds=[0.5, 0.5])
    (tmp_path / "file").touch()
    with pytest.raises(MissingError, match="Cannot write"):
        fuse(dense, tmp_path / "file" / "one.onnx", thresholds=[0.5, 0.5])
