"""Stages on QNN's simulator of an NPU: the same answers, contexts built ahead, and nothing left to the CPU in silence."""

import json
import threading
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import mixed
from offramp.bundle import Preprocess, Tensor, open_bundle
from offramp.errors import BundleError, MissingError, UnsupportedError
from offramp.export import export, quantize
from offramp.runtime import EngineWarning, build, load_uncalibrated
from offramp.runtime.engines import StageFile, qnn
from offramp.tests.helpers.command import clear_message, offramp
from offramp.tests.zoo import networks

DEVICE = "qnn:simulator"
TOLERANCE = {"fp32": (0.02, 0.15), "fp16": (0.02, 0.15), "int8-npu": (0.05, 0.3)}
"""How far scores and logits may be from ONNX Runtime's: the NPU computes in half precision, and rounds int8 in its own way."""

try:
    HERE = "simulator" in qnn.list_places()
    WHY = "QNN's simulator is for x86-64"
except MissingError as error:
    HERE, WHY = False, str(error)
simulated = pytest.mark.skipif(not HERE, reason=WHY)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/offramp/engines"


@pytest.fixture(scope="module")
def forms(dense_onnx, tmp_path_factory):
    """A network in fp32, fp16, int8, and int8 whose last products are left in float; and inputs."""
    rng = np.random.default_rng(2)
    bundle = export(dense_onnx, None, tmp_path_factory.mktemp("forms") / "dense.offramp")
    for settings in ({}, {"float_heads": True, "name": "int8-npu"}):
        quantize(bundle, rng.standard_normal((200, 16)).astype(np.float32), **settings)
    return quantize(bundle, to="fp16"), rng.standard_normal((40, 16)).astype(np.float32)


def write_stage(path, nodes):
    """Write a stage that reads x, float32 (batch, 4), and makes y."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 2, 2])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_empty_tensor_value_info("y")],
    )
    graph = helper.make_graph(nodes, "stage", *ends, [shape, zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return StageFile(path=path, inputs=(Tensor(name="x", dtype="float32", shape=(None, 4)),), outputs=("y",))


def write_determinant(path):
    """Write a stage whose last operator QNN does not have."""
    nodes = [("Relu", ["x"], "a"), ("Reshape", ["a", "shape"], "b"), ("Det", ["b"], "y")]
    return write_stage(path, [helper.make_node(op, reads, [makes], name=f"the_{op}") for op, reads, makes in nodes])


def write_branches(path):
    """Write a stage with an If: x where its sum is above 0, otherwise -x."""
    then, otherwise = (
        helper.make_graph(
            [helper.make_node(op, ["x"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])],
        )
        for op, name in (("Identity", "as_it_is"), ("Neg", "negated"))
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["above"]),
        helper.make_node("If", ["above"], ["y"], name="the_If", then_branch=then, else_branch=otherwise),
    ]
    return write_stage(path, nodes)


@simulated
@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8-npu"])
def test_the_simulator_says_what_onnx_runtime_says(forms, variant):
    bundle, x = forms
    net = load_uncalibrated(bundle, DEVICE, variant=variant, logits=True)
    assert all("simulator of SM8550's NPU" in stage.runs_on for stage in net.provenance.stages)
    on_npu, right = net.every_exit(x), load_uncalibrated(bundle, variant=variant, logits=True).every_exit(x)
    score, logit = TOLERANCE[variant]
    assert np.abs(on_npu.score - right.score).max() <= score and np.abs(on_npu.logits - right.logits).max() <= logit
    assert (on_npu.label == right.label).mean() > 0.97
    again = net.every_exit(x)
    assert (again.score == on_npu.score).all() and (again.logits == on_npu.logits).all()


@simulated
@pytest.mark.slow
def test_every_network_of_the_zoo_runs_on_the_simulator_or_is_refused_for_a_known_reason(zoo):
    from offramp.tests.zoo import networks

    for name, entry in networks.ZOO.items():
        _, bundle, _ = zoo(name)
        x = entry.draw(10, 9)
        if name == "encoder":
            with pytest.raises(UnsupportedError, match="qnn:simulator takes fixed shapes only, and the axis time"):
                load_uncalibrated(bundle, DEVICE)
            continue
        on_npu, right = (
            load_uncalibrated(bundle, device).every_exit(x if len(x) > 1 else x[0]) for device in (DEVICE, "cpu")
        )
        assert np.abs(on_npu.score - right.score).max() <= 0.06, name


@simulated
def test_mixed_chains_give_the_same_labels(tmp_path, cifar10_folder):
    """On real images with `--cifar10 FOLDER`, a folder as samples/cifar10 reads it; otherwise on smooth noise."""
    import cifar10

    if cifar10_folder is not None:
        training, _ = cifar10.read_images(cifar10_folder / "cifar10_train.npz", np.arange(200))
        x, _ = cifar10.read_images(cifar10_folder / "cifar10_test.npz", np.arange(500))
    else:
        coarse = np.random.default_rng(0).standard_normal((44, 3, 4, 4)).astype(np.float32)
        smooth = np.ascontiguousarray(coarse.repeat(8, 2).repeat(8, 3))
        training, x = smooth[4:], smooth[:4]
    bundle = mixed.make_bundle(tmp_path, training)
    for variant in bundle.manifest.variants:
        for comparison in mixed.compare(bundle, variant.name, x, mixed.rotate_places(len(variant.stages))):
            assert comparison.holds(variant.precision), (variant.name, comparison)


@simulated
def test_images_as_a_camera_gives_them_mean_the_same(tmp_path):
    preprocess = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    bundle = export(networks.build(networks.Plain), pixels[:3], tmp_path / "net.offramp", preprocess=preprocess)
    right, on_npu = (load_uncalibrated(bundle, device).every_exit(pixels) for device in ("cpu", DEVICE))
    assert np.abs(on_npu.score - right.score).max() < 0.02


@simulated
def test_a_context_is_built_ahead_and_loaded_from_cache_or_bundle(dense, cache, monkeypatch):
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    first = load_uncalibrated(dense, DEVICE)
    assert [stage.built for stage in first.provenance.stages] == ["now"] * 3
    done = offramp("build", dense.path, "--device", DEVICE, "--into-bundle", "--json")
    assert done.returncode == 0, done.stderr
    assert (
        len(json.loads(done.stdout)["built"] if isinstance(json.loads(done.stdout), dict) else json.loads(done.stdout))
        == 3
    )
    monkeypatch.setattr(qnn, "build", lambda *_, **__: pytest.fail("it was built ahead"))
    for where in ("bundle", "cache"):
        if where == "cache":
            for file in (dense.path / "engines").rglob("*.built*"):
                file.unlink()
        start = time.perf_counter()
        net = load_uncalibrated(open_bundle(dense.path), DEVICE)
        assert time.perf_counter() - start < 2
        assert [stage.built for stage in net.provenance.stages] == [where] * 3
        assert (net.every_exit(x).score == first.every_exit(x).score).all()


@simulated
def test_a_build_for_another_npu_or_version_is_not_taken(dense, monkeypatch):
    build(dense, DEVICE)
    builds = build(dense, f"{DEVICE}:SM8650")
    assert not any(stage.was_there for stage in builds)
    described = qnn.describe_build("simulator:sm8650")
    assert described["npu"] == "SM8650" and "QNN 2." in described["engine"] and described["onnxruntime"]
    monkeypatch.setattr(
        qnn, "describe_build", lambda place: {**described, "npu": "SM8550", "engine": "onnxruntime-qnn 99"}
    )
    with pytest.warns(EngineWarning, match="engine was .* and is onnxruntime-qnn 99"):
        build(dense, DEVICE)


@simulated
def test_what_is_no_context_is_refused(dense, tmp_path):
    stage = dense.variant().stages[0]
    path = dense.path / dense.variant().folder / stage.file
    source = StageFile(path=path, inputs=stage.inputs, outputs=("exit0.score",))
    for content in (b"no context", write_determinant(tmp_path / "d.onnx").path.read_bytes()):
        with pytest.raises(BundleError, match="QNN cannot load the build of"):
            qnn.compile_stage(source, "simulator", threads=1, built=content)
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(BundleError, match="ONNX Runtime cannot load"):
        qnn.build(StageFile(path=tmp_path / "junk.onnx", inputs=(), outputs=()), "simulator", threads=1)


@simulated
def test_an_operator_that_the_npu_lacks_is_named_and_never_run_on_the_cpu(tmp_path):
    with pytest.raises(UnsupportedError, match=r"QNN leaves Det the_Det \(1 nodes\) to the CPU\.$"):
        qnn.build(write_determinant(tmp_path / "det.onnx"), "simulator", threads=1)


@simulated
def test_plain_int8_names_its_last_product_and_proposes_what_helps(forms):
    bundle, x = forms
    with pytest.raises(
        UnsupportedError, match=r"DequantizeLinear h0_.*float_heads=True \(--float-heads\).* --place 0=cpu\.$"
    ):
        load_uncalibrated(bundle, DEVICE, variant="int8")
    with pytest.warns(EngineWarning, match="stage1.onnx runs on cpu, not on qnn:simulator: .*does not run all of"):
        net = load_uncalibrated(bundle, ("cpu", DEVICE, "cpu"), variant="int8", fallback="cpu")
    assert net.provenance.stages[1].device == "cpu" and net(x[0]).label >= 0


@simulated
def test_a_length_that_differs_is_refused_before_anything_is_read(tmp_path):
    source = StageFile(
        path=tmp_path / "none.onnx", inputs=(Tensor(name="x", dtype="float32", shape=(None, "time")),), outputs=()
    )
    with pytest.raises(UnsupportedError, match="qnn:simulator takes fixed shapes only, and the axis time"):
        qnn.build(source, "simulator", threads=1)


@simulated
def test_an_if_runs_with_half_precision_and_is_refused_without_it(tmp_path):
    source = write_branches(tmp_path / "if.onnx")
    stage = qnn.compile_stage(source, "simulator", threads=1)
    for value in (2.0, -3.0):
        result = stage.infer({"x": np.full((1, 4), value, np.float32)}, ["y"])["y"]
        assert np.allclose(result, abs(value), rtol=1e-3)
    with pytest.raises(UnsupportedError, match="finalize.* QNN does not say at which node.* take an int8 variant"):
        qnn.build(source, "simulator:SM8350", threads=1)


@simulated
def test_clones_in_threads_give_what_one_gives_alone(dense):
    x = np.random.default_rng(1).standard_normal((10, 16)).astype(np.float32)
    net = load_uncalibrated(dense, DEVICE)
    expected = [(r.label, r.score) for r in map(net, x)]
    clones, answers = [net.clone() for _ in range(3)], {}
    work = lambda k: answers.update({k: [(r.label, r.score) for r in map(clones[k], x)]})  # noqa: E731
    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answers[k] == expected for k in range(3))


@simulated
def test_auto_passes_over_the_simulator(dense):
    net = load_uncalibrated(dense, "auto")
    assert not any("qnn" in stage.device for stage in net.provenance.stages)
    assert "qnn:simulator: a simulator's latency is not the device's" in net.provenance.chosen


@simulated
def test_the_simulator_writes_nothing_between_the_results(dense, labelled, tmp_path):
    np.savez(tmp_path / "x.npz", x=labelled[0][:3], y=labelled[1][:3])
    done = offramp("run", dense.path, tmp_path / "x.npz", "--place", f"0-={DEVICE}", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


@simulated
def test_a_library_that_the_program_registered_itself_is_no_error(dense, python):
    code = (
        "import sys, onnxruntime, onnxruntime_qnn\n"
        "onnxruntime.register_execution_provider_library('QNNExecutionProvider', onnxruntime_qnn.get_library_path())\n"
        "from offramp.runtime.engines import qnn; print(len(qnn._devices()[1]), list(qnn.list_places()))"
    )
    assert python(code) == "1 ['simulator']\n"


@simulated
@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("qnn:htp", "QNN finds none here: .*FastRPC.* Its simulator on this CPU is qnn:simulator."),
        ("qnn:gpu", "QNN has no place 'gpu'. It has htp, simulator, and simulator:SM8650"),
        ("qnn:simulator:", "has no place 'simulator:'"),
        ("qnn:simulator:SM9999", "knows no system on chip 'SM9999'"),
    ],
)
def test_a_device_that_is_not_here_gives_reason_and_remedy_within_a_second(dense, device, words):
    qnn._devices()
    start = time.perf_counter()
    with pytest.raises(MissingError, match=words):
        load_uncalibrated(dense, device)
    assert time.perf_counter() - start < 1


def test_the_command_line_ends_with_4_where_there_is_no_npu(dense, labelled, tmp_path):
    np.savez(tmp_path / "x.npz", x=labelled[0][:3])
    done = offramp("run", dense.path, tmp_path / "x.npz", "--place", "0-=qnn:htp")
    clear_message(done, 4, "NPU" if HERE else "qnn")


@pytest.mark.parametrize("package", ["onnxruntime_qnn", "onnxruntime"])
def test_a_missing_package_names_its_install_line(dense, python, package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\nfrom offramp.runtime import load\n"
        "try:\n    load(sys.argv[1], 'qnn:htp')\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )
    extra = "qnn" if package == "onnxruntime_qnn" else "onnxruntime"
    assert f"pip install 'offramp[{extra}]'" in (out := python(code, dense.path)) and out.startswith("MissingError")


def test_a_library_that_does_not_load_says_so(dense, python, tmp_path):
    code = (
        "import sys, types\n"  # a package whose library is damaged: a fake
        "fake = types.ModuleType('onnxruntime_qnn'); fake.__version__ = '9'; sys.modules['onnxruntime_qnn'] = fake\n"
        "fake.get_library_path = lambda: sys.argv[1]\n"
        "from offramp.runtime.engines import qnn\n"
        "try:\n    qnn.list_places()\nexcept Exception as e:\n    print(type(e).__name__, e)"
    )
    (tmp_path / "lib.so").write_bytes(b"no library")
    out = python(code, tmp_path / "lib.so")
    assert (
        out.startswith("MissingError The library of onnxruntime-qnn 9 does not load: ") and "--force-reinstall" in out
    )
