"""The fused file by itself; that it agrees with the chain on every network is tested with the zoo."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec.structs import replace
from onnx import helper, numpy_helper

from offramp.bundle import read_calibration, write_calibration
from offramp.errors import BundleError, CheckError, MissingError, UsageError
from offramp.export import export, fuse
from offramp.runtime import UncalibratedWarning, load, load_uncalibrated
from offramp.tests.zoo.dense import forge, write_onnx


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
    weights = []
    while True:
        weights.append(sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT))
        branches = [a.g for n in graph.node if n.op_type == "If" for a in n.attribute if a.name == "else_branch"]
        if not branches:
            break
        (graph,) = branches
    assert weights == [16 * 16 + 16 * 5 + 2, *[16 * 16 + 16 * 5] * 2]  # the thresholds are outermost


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
    monkeypatch.setattr(
        sys.modules["offramp.export.fusion"], "MOST_INLINE_BYTES", 100
    )  # the package's name for it is the function
    bundle = export(write_onnx(tmp_path / "net.onnx"), None, tmp_path / "b.offramp")
    (tmp_path / "out").mkdir()
    fused = fuse(bundle, tmp_path / "out" / "one.onnx", thresholds=[0.5, 0.5])
    first, data = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert first == "one.onnx" and data.startswith("one.onnx.") and data.endswith(".data")
    weights = bundle.variant().files["weights.bin"].bytes
    assert weights <= (tmp_path / "out" / data).stat().st_size < fused.bytes
    (tmp_path / "out" / "one.onnx.data").touch()  # somebody else's
    fused = fuse(bundle, tmp_path / "out" / "one.onnx", thresholds=[0.5, 0.5])
    assert len(list((tmp_path / "out").iterdir())) == 3 and not (tmp_path / "out" / data).exists()
    session = onnxruntime.InferenceSession(fused.path)
    with load_uncalibrated(bundle) as net:
        net.thresholds = [0.5, 0.5]
        assert net(draw(1)[0]).exit == session.run(["exit"], {"x": draw(1)})[0][0]


WIDTH = 2800

MEASURING = """
import pathlib, re, sys
import onnxruntime
from offramp.export import fuse

def kilobytes(what):
    return int(re.findall(what + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[0])

sys.modules["offramp.export.fusion"].MOST_INLINE_BYTES = 1 << 20
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
fuse(sys.argv[1], sys.argv[2], thresholds=[0.5])
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_weights_beside_it_take_their_size_in_memory(tmp_path, python):
    rng = np.random.default_rng(0)
    shapes = {"a": (16, WIDTH), "H0": (WIDTH, 5), "b": (WIDTH, WIDTH), "c": (WIDTH, WIDTH + 1), "H1": (WIDTH + 1, 5)}
    weights = [numpy_helper.from_array(rng.standard_normal(shape, np.float32), name) for name, shape in shapes.items()]
    steps = [("x", "a", "t0"), ("t0", "H0", "z0"), ("t0", "b", "t1"), ("t1", "c", "t2"), ("t2", "H1", "z1")]
    nodes = [helper.make_node("MatMul", [left, right], [out]) for left, right, out in steps]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 16])
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 5]) for name in ("z0", "z1")]
    graph = helper.make_graph(nodes, "wide", [x], outputs, weights)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "net.onnx")
    bundle = export(tmp_path / "net.onnx", draw(3), tmp_path / "b.offramp")
    peak_bytes = int(python(MEASURING, bundle.path, tmp_path / "one.onnx"))
    assert peak_bytes < 1.5 * bundle.variant().files["weights.bin"].bytes


def test_weights_that_a_stage_looks_for_elsewhere_are_refused(dense, tmp_path):
    def look_elsewhere(path):
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = entry.value.replace("weights.bin", "other.bin")
        path.write_bytes(model.SerializeToString())

    forge(dense, "stage1.onnx", look_elsewhere)
    with pytest.raises(
        BundleError, match=r"lies in other.bin up to byte \d+, and weights.bin has \d+ bytes"
    ) as refused:
        fuse(dense.path, tmp_path / "one.onnx", thresholds=[0.5, 0.5])
    assert refused.value.stage == "stage1.onnx"


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


def test_a_file_that_says_something_else_is_not_written(dense, tmp_path, monkeypatch):
    def wrong(stages, variant, names, thresholds):
        return nest(stages, variant, names, [0.0 for _ in thresholds])

    module = sys.modules["offramp.export.fusion"]
    nest = module.nest_stages
    monkeypatch.setattr(module, "nest_stages", wrong)
    with pytest.raises(CheckError, match="does not leave golden sample 0 at exit 2. Nothing was written"):
        fuse(dense, tmp_path / "one.onnx", thresholds=[1.0, 1.0])
    assert not (tmp_path / "one.onnx").exists() and not list(tmp_path.glob(".new-*"))


@pytest.mark.parametrize("name", ["label", "score", "thresholds"])
def test_an_input_that_is_called_like_an_output_is_renamed(name, tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    onnx.save(model, path)
    fused = fuse(export(path, None, tmp_path / "b.offramp"), tmp_path / "one.onnx", thresholds=[0.5, 0.5])
    assert fused.inputs == (f"{name}_",)
    onnxruntime.InferenceSession(fused.path).run(None, {f"{name}_": draw(1)})


def test_an_input_that_nothing_reads_is_left_out(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("spare", onnx.TensorProto.FLOAT, ["N", 2]))
    onnx.save(model, path)
    bundle = export(path, None, tmp_path / "b.offramp")
    assert [t.name for t in bundle.manifest.inputs] == ["x", "spare"]
    assert fuse(bundle, tmp_path / "one.onnx", thresholds=[0.5, 0.5]).inputs == ("x",)
    assert load_uncalibrated(bundle)({"x": draw(1), "spare": draw(1)[:, :2]}).exit == 2


def test_thresholds_and_a_point_together_are_refused(calibrated, tmp_path):
    with pytest.raises(UsageError, match="not both"):
        fuse(calibrated, tmp_path / "one.onnx", thresholds=[0.5, 0.5], point="default")


def test_a_point_that_lets_nothing_leave_is_refused(calibrated, tmp_path):
    calibration = read_calibration(calibrated.calibrations()[0])
    never = replace(calibration.points["default"], thresholds=(2.0, 2.0))
    write_calibration(calibrated.calibrations()[0], replace(calibration, points={"default": never}))
    with pytest.raises(UsageError, match=r"lets nothing leave early.*static2\.onnx, or give thresholds"):
        fuse(calibrated, tmp_path / "one.onnx")


def test_a_bundle_whose_graph_is_none_is_a_bundle_error(dense, tmp_path):
    forge(dense, "stage1.onnx", lambda path: path.write_bytes(b"nothing"))
    with pytest.raises(BundleError, match=r"stage1.onnx is not an ONNX graph"):
        fuse(dense.path, tmp_path / "one.onnx", thresholds=[0.5, 0.5])


def test_values_of_the_network_may_be_called_as_ours_are(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    for old, new in (("w0", "first"), ("m0", "exit"), ("w1", "at"), ("m1", "answer.label"), ("h1", "sure")):
        for tensor in model.graph.initializer:
            tensor.name = new if tensor.name == old else tensor.name
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
    onnx.save(model, path)
    fuse(export(path, None, tmp_path / "b.offramp"), tmp_path / "one.onnx", thresholds=[0.5, 0.5])


def test_the_bundles_own_files_are_not_overwritten(dense):
    with pytest.raises(UsageError, match="lies inside the bundle"):
        fuse(dense, dense.path / dense.variant().folder / "stage0.onnx", thresholds=[0.5, 0.5])
