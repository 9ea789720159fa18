"""Networks on ncnn: uncut, in mixed placements and as static ones the same answers as ONNX Runtime's, or refused at load."""

import itertools
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec.structs import replace
from onnx import helper, numpy_helper

from offramp.bundle import Tensor, open_bundle
from offramp.errors import BundleError, EngineWarning, MissingError, UnsupportedError
from offramp.export import export
from offramp.runtime import auto, build, load_static, load_uncalibrated, verify
from offramp.runtime.engines import StageFile, _pnnx, find_device, ncnn
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import write_convolutions, write_sequences

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")
pytestmark = pytest.mark.usefixtures("kept_cache")
DEVICE = "ncnn:cpu"

REFUSED = {
    "encoder": "takes fixed shapes only, and the axis time",
    "mixture-of-experts": "ncnn has no operator for pnnx.Expression",
}
"""The networks of the zoo that ncnn does not run, and why."""


def write_stage(path, nodes, *, shape=(3, 5, 5), dtype="float32"):
    """Write a stage that makes y of x, both (batch, *shape)."""
    kinds = helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), onnx.TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name, kind in zip("xy", kinds, strict=True)
    ]
    two = helper.make_tensor("two", onnx.TensorProto.FLOAT, [], [2.0])
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "stage", ends[:1], ends[1:], [two])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    x, y = Tensor(name="x", dtype=dtype, shape=(None, *shape)), Tensor(name="y", dtype="float32", shape=(None, *shape))
    return StageFile(path, (x,), ("y",), made=(y,))


def test_the_whole_network_runs_uncut_and_answers_as_onnx_runtime_does(convolutions):
    bundle, x = convolutions
    net, right = load_uncalibrated(bundle, DEVICE, logits=True), load_uncalibrated(bundle, logits=True)
    stages = net.provenance.stages
    assert all(stage.runs_on.endswith(", CPU, uncut") and not stage.half for stage in stages) and len(stages) == 2
    assert len({id(link.compiled) for link in net._links}) == 1 and not any(link.compiled.half for link in net._links)
    every, answers = net.every_exit(x), right.every_exit(x)
    assert np.abs(every.logits - answers.logits).max() < 1e-5 and (every.label == answers.label).all()
    right.thresholds = net.thresholds = [float(np.median(answers.score[:, 0]))]
    clear = np.abs(answers.score[:, 0] - net.thresholds[0]) > 1e-4
    ours, theirs = net.batch(x), right.batch(x)
    assert (ours.exit == theirs.exit)[clear].all() and (ours.label == theirs.label)[clear].all()
    assert len(set(ours.exit)) == 2
    assert [result.exit for result in net.anytime(x[0])] == [0, 1] and net(x[0], deadline_s=60).exit == ours.exit[0]


def test_an_exit_goes_on_from_where_the_one_before_stopped(convolutions):
    bundle, x = convolutions
    single = load_uncalibrated(bundle, DEVICE)._setup.memory.single
    (first, *_), (second, score, *_) = single.steps
    single.inputs[0][...] = x[:1]
    first()
    single.inputs[0][...] = 0  # which the second exit does not read again
    second()
    assert score[0] == pytest.approx(load_uncalibrated(bundle)(x[0]).score, abs=1e-6)


@pytest.mark.parametrize("devices", [("cpu", DEVICE), (DEVICE, "openvino:CPU")])
def test_mixed_placements_go_stage_by_stage(convolutions, devices):
    if "openvino:CPU" in devices:
        pytest.importorskip("openvino")
    bundle, x = convolutions
    net = load_uncalibrated(bundle, devices)
    assert net.provenance.devices == devices and "uncut" not in str(net.provenance)
    assert np.abs(net.every_exit(x).score - load_uncalibrated(bundle).every_exit(x).score).max() < 1e-5


def test_half_precision_is_computed_where_it_is_asked_for(convolutions):
    bundle, x = convolutions
    net, right = load_uncalibrated(bundle, "ncnn:cpu-fp16"), load_uncalibrated(bundle)
    error = np.abs(net.every_exit(x).score - right.every_exit(x).score).max()
    assert 1e-6 < error < 1e-2 and all(stage.half for stage in net.provenance.stages)
    assert list(ncnn.list_places()) == ["cpu"]  # nothing else chooses it


def test_wrong_logits_are_seen_where_a_network_is_sure_of_itself(convolutions, monkeypatch, tmp_path):
    _, x = convolutions
    model = onnx.load(write_convolutions(tmp_path / "c.onnx"))
    for weight in model.graph.initializer:
        if weight.name.startswith("h"):
            weight.CopyFrom(numpy_helper.from_array(500 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, tmp_path / "c.onnx")
    logits = np.array(onnxruntime.InferenceSession(tmp_path / "c.onnx").run(None, {"x": x}))
    margin = np.diff(np.sort(logits, -1)[..., -2:]).min((0, 2))
    bundle = export(tmp_path / "c.onnx", x[margin.argsort()[-3:]], tmp_path / "c.offramp")

    def convert(*arguments, **options):
        param, weights = _pnnx.convert(*arguments, **options)
        return param, (np.frombuffer(weights, "<f4") * np.float32(1.001)).tobytes()

    monkeypatch.setattr(ncnn, "convert", convert)
    words = r"6 of 6 golden labels are the same, and a score is off by \S+, a logit by 0\.00\d+ of the largest"
    for devices in (DEVICE, ("cpu", DEVICE)):
        with pytest.raises(UnsupportedError, match=words):
            load_uncalibrated(bundle, devices)
    monkeypatch.setattr(
        auto, "engines", lambda: {name: find_device(f"{name}:cpu").engine for name in ("ncnn", "onnxruntime")}
    )
    monkeypatch.setattr(auto, "CANDIDATE_S", 0.0)
    with pytest.warns(EngineWarning, match=r"auto chose cpu .* Left out: ncnn:cpu: The stages"):
        load_uncalibrated(bundle, "auto")


def test_a_bundle_with_its_builds_needs_no_converter(convolutions, monkeypatch, tmp_path):
    bundle, x = convolutions
    built = build(bundle, DEVICE, into_bundle=True)
    assert [each.stage for each in built] == ["whole.onnx", "static0.onnx", "static1.onnx"]
    assert all(each.was_there for each in build(bundle, DEVICE, into_bundle=True))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_pnnx, "find_converter", None)
    net = load_uncalibrated(bundle, DEVICE, logits=True)
    assert {stage.built for stage in net.provenance.stages} == {"bundle"}
    right = load_uncalibrated(bundle).every_exit(x).score
    assert np.abs(net.every_exit(x).score - right).max() < 1e-5
    for k in range(2):
        assert load_static(bundle, DEVICE, exit=k)(x[0]).score == pytest.approx(right[0, k], abs=1e-5)


def test_without_the_converter_the_error_says_how_to_get_it(dense, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_pnnx.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"takes pnnx: pip install pnnx\. .* offramp build --into-bundle") as caught:
        load_uncalibrated(dense, DEVICE)
    assert caught.value.package == "pnnx"


def test_damaged_builds_are_errors_of_the_bundle(tmp_path):
    stage = write_stage(tmp_path / "s.onnx", [("Relu", ["x"], ["y"])])
    for built in (b"", b"\x80", b"not a build"):
        with pytest.raises(BundleError, match="cannot load the build of"):
            ncnn.compile_stage(stage, "cpu", threads=1, built=built)


def test_graphs_that_are_none_are_errors_of_the_bundle(tmp_path):
    stage = write_stage(tmp_path / "s.onnx", [("Shape", ["x"], []), ("Relu", ["x"], ["y"])])
    with pytest.raises(BundleError, match="cannot be read: .* Export the network anew"):
        ncnn.compile_stage(stage, "cpu", threads=1)


def test_layers_that_work_in_place_leave_inputs_alone(tmp_path):
    stage = write_stage(tmp_path / "s.onnx", [("Relu", ["x"], ["a"]), ("Mul", ["a", "two"], ["y"])])
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 5)).astype(np.float32)
    before, y = x.copy(), np.empty_like(x)
    run = ncnn.compile_stage(stage, "cpu", threads=1).bind({"x": x}, {"y": y})
    for _ in range(2):
        run()
        assert (x == before).all() and (y == 2 * np.maximum(before, 0)).all()


def test_reductions_over_one_axis_keep_it(tmp_path):
    stage = write_stage(tmp_path / "s.onnx", [("Conv", ["x", "w"], ["y"])])
    model, w = onnx.load(stage.path), np.random.default_rng(1).standard_normal((3, 3, 1, 1)).astype(np.float32)
    del model.graph.output[:]
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 5)).astype(np.float32)
    y, right = np.einsum("oi,nihw->nohw", w[:, :, 0, 0], x), {}
    for axis, keepdims in itertools.product((1, 2, -1), (0, 1)):
        name = f"{axis} {keepdims}"
        right[name] = y.mean(axis, keepdims=bool(keepdims))
        model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), f"axis of {name}"))
        model.graph.node.append(helper.make_node("ReduceMean", ["y", f"axis of {name}"], [name], keepdims=keepdims))
        shape = ["batch", *right[name].shape[1:]]
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    onnx.save(model, stage.path)
    made = [Tensor(name=name, dtype="float32", shape=(None, *value.shape[1:])) for name, value in right.items()]
    compiled = ncnn.compile_stage(replace(stage, outputs=tuple(right), made=tuple(made)), "cpu", threads=1)
    for name, value in compiled.infer({"x": x}, list(right)).items():
        np.testing.assert_allclose(value, right[name], atol=1e-6)


def test_images_are_taken_as_they_are(tmp_path):
    stage = write_stage(tmp_path / "s.onnx", [("Transpose", ["x"], ["t"]), ("Relu", ["x"], ["y"])], dtype="uint8")
    model = onnx.load(stage.path)
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]))
    model.graph.node.append(helper.make_node("Cast", ["t"], ["c"], to=onnx.TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Mul", ["c", "two"], ["y"]))
    onnx.save(model, stage.path)
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 5, 5)).astype(np.uint8)
    y = ncnn.compile_stage(stage, "cpu", threads=1).infer({"x": x}, ["y"])["y"]
    assert (y == 2.0 * x.swapaxes(2, 3)).all()


@pytest.mark.parametrize(
    ("dtype", "nodes", "words"),
    [
        ("float32", [("DequantizeLinear", ["x", "two"], ["y"])], "runs no int8 variant.*Load a variant in float"),
        ("int64", [("Abs", ["x"], ["y"])], "takes float32 and uint8 and gives float32, and x of .* is int64"),
        ("float16", [("Abs", ["x"], ["y"])], "is float16. Load a variant in float32, on ncnn:cpu-fp16 for half"),
        ("float32", [("NoSuchOperator", ["x"], ["y"])], "pnnx cannot convert .*NoSuchOperator"),
        ("float32", [("IsInf", ["x"], ["b"]), ("Not", ["b"], ["y"])], "ncnn has no operator for|cannot convert"),
    ],
)
def test_what_ncnn_cannot_run_is_refused_when_it_is_compiled(tmp_path, dtype, nodes, words):
    with pytest.raises(UnsupportedError, match=words):
        ncnn.compile_stage(write_stage(tmp_path / "stage.onnx", nodes, dtype=dtype), "cpu", threads=1)
    with pytest.raises(MissingError, match=r"has no place 'gpu'\. It has ncnn:cpu and ncnn:cpu-fp16"):
        ncnn.compile_stage(write_stage(tmp_path / "stage.onnx", nodes, dtype=dtype), "gpu", threads=1)


def test_what_makes_nothing_and_says_no_error_is_refused(tmp_path):
    stage = write_stage(tmp_path / "stage.onnx", [("Concat", ["x", "x"], ["y"])])
    model = onnx.load(stage.path)
    model.graph.node[0].attribute.append(helper.make_attribute("axis", 3))  # which pnnx takes for one behind the last
    model.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 10
    onnx.save(model, stage.path)
    made = (Tensor(name="y", dtype="float32", shape=(None, 3, 5, 10)),)
    with pytest.raises(UnsupportedError, match="ncnn does not run what pnnx made of .*: it ends with 1"):
        ncnn.compile_stage(replace(stage, made=made), "cpu", threads=1)


def test_open_lengths_are_refused_with_the_placement_that_works(tmp_path):
    x = np.zeros((2, 5, 4), np.float32)
    bundle = export(write_sequences(tmp_path / "s.onnx"), x, tmp_path / "s.offramp")
    with pytest.raises(UnsupportedError, match=r"ncnn:cpu takes fixed shapes only.*--place 0=cpu"):
        load_uncalibrated(bundle, DEVICE)


def test_clones_in_threads_answer_as_one_does_alone(convolutions):
    bundle, x = convolutions
    net = load_uncalibrated(bundle, DEVICE)
    expected = [(r.label, r.score) for r in map(net, x)]
    nets = [net, net, net.clone(), net.clone()]
    assert len({id(other._links[0].compiled) for other in nets}) == 1
    answers = [None] * len(nets)

    def work(k):
        answers[k] = [(r.label, r.score) for r in map(nets[k], x)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer == expected for answer in answers)
    assert verify(open_bundle(bundle.path), DEVICE, variant="fp32")[0].passed


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.ZOO)
def test_every_network_of_the_zoo_runs_or_is_refused_for_a_known_reason(zoo, name):
    _, bundle, _ = zoo(name)
    if words := REFUSED.get(name):
        with pytest.raises(UnsupportedError, match=words):
            load_uncalibrated(bundle, DEVICE)
        return
    drawn = networks.ZOO[name].draw(500, 7)
    x = drawn if len(drawn) > 1 else drawn[0]
    net, right = load_uncalibrated(bundle, DEVICE), load_uncalibrated(bundle)
    scores = right.every_exit(x).score
    right.thresholds = net.thresholds = [float(np.quantile(scores[:, k], 0.6)) for k in range(scores.shape[1] - 1)]
    clear = (np.abs(scores[:, :-1] - np.array(right.thresholds)) > 1e-4).all(1)
    ours, theirs = net.batch(x), right.batch(x)
    assert (ours.exit == theirs.exit)[clear].all() and (ours.label == theirs.label)[clear].all() and clear.sum() > 450
    assert "uncut" in net.provenance.stages[0].runs_on
