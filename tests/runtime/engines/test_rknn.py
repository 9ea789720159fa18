"""Rockchip's NPUs: stages are built by rknn-toolkit2 on a workstation and run by RKNNLite on a board.

RKNNLite exists for the boards only. Here a fake stands in for it, with the calls and the results that Rockchip's documentation of
rknn-toolkit-lite2 gives: ONNX Runtime computes what it answers, or the simulator of rknn-toolkit2 where that is installed.
"""

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from offramp.bundle import Preprocess, open_bundle
from offramp.errors import BundleError, MissingError, UnsupportedError
from offramp.export import export, quantize
from offramp.runtime import build, verify
from offramp.runtime.engines import _converters, rknn
from offramp.runtime.engines._converters import Converter
from offramp.runtime.engines.rknn import converter
from offramp.runtime.engines.rknn.stage import Edge, RknnHeader, RknnStage
from offramp.runtime.engines.rknn.toolkit import TOOLKIT
from offramp.runtime.loading import load_static, load_uncalibrated
from offramp.tests.helpers.command import offramp
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import forge

DEVICE = "rknn:rk3588"

SCORES = {"fp32": 0.02, "int8": 0.05}
"""How far scores of the simulated NPU may be from ONNX Runtime's: in float16 each of them, in int8 on average.

ONNX Runtime's own int8 is up to 0.4 away from float32 on single samples of these networks, and 0.06 on average.
"""

LABELS = {"fp32": 0.98, "int8": 0.90}
"""The share of labels, over all exits, that must be the same."""

REFUSED = {
    ("encoder", "fp32"): "the axis time of .* differs from call to call",
    ("encoder", "int8"): "the axis time of .* differs from call to call",
}
"""What rknn-toolkit2 2.5.0 does not take of the zoo, and what is said."""


class FakeRKNNLite:
    """RKNNLite as documented: loading gives 0 or -1, `inference` a list; arrays of four axes are NHWC unless said otherwise."""

    made: ClassVar[list["FakeRKNNLite"]] = []
    answers: ClassVar[dict[str, Any]] = {"load_rknn": 0, "init_runtime": 0}

    def __init__(self, verbose=False, verbose_file=None):
        self.session = self.content = None
        self.released = 0
        self.made.append(self)

    def load_rknn(self, path):
        print("I RKNN: what the vendor's library prints")
        self.content = Path(path).read_bytes()
        return self.answers["load_rknn"]

    def init_runtime(self, core_mask=0):
        if isinstance(self.answers["init_runtime"], Exception):
            raise self.answers["init_runtime"]
        return self.answers["init_runtime"]

    def inference(self, inputs):
        if self.session is None:
            options = ort.SessionOptions()  # as it stands: with weights in all 8 bits sums overflow on some processors
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.log_severity_level = 3
            self.session = ort.InferenceSession(self.content, options)
        names = [value.name for value in self.session.get_inputs()]
        fed = [x if x.ndim < 4 else np.moveaxis(x, 3, 1) for x in inputs]  # it takes NHWC
        results = self.session.run(None, dict(zip(names, fed, strict=True)))
        return [
            array.astype(np.float32) for array in results
        ]  # it gives float32 where it is not asked for another type

    def get_sdk_version(self):
        return (
            "==============\nRKNN VERSION:\n  API: 2.3.2 (1842325a5@2025-03-30T09:54:34)\n  DRV: 0.9.8\n=============="
        )

    def release(self):
        self.released += 1


@pytest.fixture
def workstation(tmp_path, monkeypatch):
    """A machine where the environment of rknn-toolkit2 is there, in which a fake converts: it leaves the graph an ONNX file."""

    def convert(self, python, job, folder):
        try:
            model, inputs, outputs = converter.prepare(job)
        except converter.UnsupportedStage as error:
            return {"error": str(error), "kind": "unsupported"}, b"", ""
        reply = {"toolkit": "2.5.0", "inputs": inputs, "outputs": outputs}
        table = "D RKNN: [12:00:00.000] 0  Conv  INT8  NPU  (1)\nD RKNN: [12:00:00.000] 1  ArgMax  FLOAT16  CPU  (1)\n"
        return reply, model.SerializeToString(), table

    monkeypatch.setenv("OFFRAMP_RKNN_PYTHON", sys.executable)
    monkeypatch.setattr(Converter, "convert", convert)


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A board whose device tree says rk3588s, with the fake of RKNNLite on it. Returns what turns the machine into one."""

    def become(compatible="rockchip,rk3588s-orangepi-5\0rockchip,rk3588s\0", lite=FakeRKNNLite):
        tree = tmp_path / "root/proc/device-tree"
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "compatible").write_text(compatible)
        monkeypatch.setattr(rknn, "BOARD_ROOT", tmp_path / "root")
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        monkeypatch.setattr(FakeRKNNLite, "made", [])
        monkeypatch.setattr(FakeRKNNLite, "answers", {"load_rknn": 0, "init_runtime": 0})
        api = types.ModuleType("rknnlite.api")
        api.RKNNLite = lite
        monkeypatch.setitem(sys.modules, "rknnlite", types.ModuleType("rknnlite"))
        monkeypatch.setitem(sys.modules, "rknnlite.api", api)

    return become


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def test_a_bundle_built_on_a_workstation_runs_on_the_board_and_says_what_runs_it(dense, workstation, board, capfd):
    built = build(dense, DEVICE)
    assert [record.stage for record in built] == [f"{kind}{k}.onnx" for kind in ("stage", "static") for k in range(3)]
    assert all(Path(record.path).is_relative_to(dense.path / "engines/rknn-rk3588/fp32") for record in built)
    assert all(stage.was_there for stage in build(dense, DEVICE, threads=4, logits=True))
    board()
    x, cpu = draw(50), load_uncalibrated(dense)
    capfd.readouterr()
    with load_uncalibrated(dense, DEVICE, threads=4) as net:
        assert np.allclose(net.every_exit(x).score, cpu.every_exit(x).score, atol=1e-6)
        assert (net.every_exit(x).label == cpu.every_exit(x).label).all()
        (first, *_) = net.provenance.stages
    assert capfd.readouterr().out == ""
    assert first.built == "bundle"
    assert first.runs_on == "RKNN 2.5.0, runtime 2.3.2, driver 0.9.8, NPU of rk3588 (layers: 1 int8), CPU (ArgMax)"
    assert verify(dense, DEVICE)[0].passed  # which reads the logits
    assert load_static(dense, DEVICE, exit=1)(x[0]).label == load_static(dense, exit=1)(x[0]).label
    mixed = load_uncalibrated(dense, ("cpu", DEVICE, "cpu"))
    assert np.allclose(mixed.every_exit(x).score, cpu.every_exit(x).score, atol=1e-6)
    del net, mixed
    assert all(lite.released == 1 for lite in FakeRKNNLite.made)


def test_tensors_in_8_bits_that_stages_hand_over_are_converted_on_the_way(dense, workstation, board):
    bundle = quantize(dense, draw(64, 5))
    variant = bundle.variant("int8")
    assert {t.dtype for stage in variant.stages for t in stage.outputs} == {"uint8"}
    build(bundle, DEVICE, variant="int8")
    board()
    x = draw(100, 7)
    npu, cpu = (load_uncalibrated(bundle, where, variant="int8").every_exit(x) for where in (DEVICE, "cpu"))
    off = np.abs(npu.score - cpu.score)  # the largest weights are rounded when they are written in 8 bits
    assert off.mean() < 0.01 and off.max() < 0.05 and (npu.label == cpu.label).mean() > 0.95


def test_images_go_in_as_nhwc_and_an_input_in_8_bits_is_handed_over_without_the_npu():
    class Doubles(FakeRKNNLite):
        def inference(self, inputs):
            assert [x.dtype for x in inputs] == [np.float32, np.float32]
            return [np.moveaxis(inputs[0], 3, 1) * 2, np.array([[3.0]], np.float32), inputs[1]]

    edges = Edge("image", "image"), Edge("q", "q.float", scale=0.5, zero_point=3)
    out_edges = (
        Edge("y", "y", scale=0.25, zero_point=128),
        Edge("image.q", input="image", scale=1.0, zero_point=-1),
        Edge("label", "label"),
        Edge("back", "back"),
    )
    model = RknnStage(Doubles(), RknnHeader("2.5.0", edges, out_edges, {}, ()), "")
    image = np.arange(-8, 8, dtype=np.float32).reshape(1, 4, 2, 2)
    quantised = np.array([[3, 4, 255]], np.uint8)
    outputs = {
        "y": np.empty((1, 4, 2, 2), np.uint8),
        "image.q": np.empty((1, 4, 2, 2), np.int8),
        "label": np.empty(1, np.int64),
        "back": np.empty((1, 3), np.float32),
    }
    run = model.bind({"image": image, "q": quantised}, outputs)
    run()
    assert (outputs["y"] == np.clip(image * 8 + 128, 0, 255)).all() and (outputs["image.q"] == image - 1).all()
    assert outputs["label"] == 3 and (outputs["back"] == [[0.0, 0.5, 126.0]]).all()
    image += 1
    run()
    assert (outputs["image.q"] == image - 1).all()
    with pytest.raises(BundleError, match="do not fit together: strange"):
        model.bind({"image": image, "q": quantised}, outputs | {"strange": image})


def test_what_was_not_built_or_does_not_fit_gives_the_command_that_builds_it(dense, workstation, board):
    board()
    with pytest.raises(
        MissingError, match=r"stage0.onnx is not built for rknn:rk3588. .*: offramp build BUNDLE --device rknn"
    ):
        load_uncalibrated(dense, DEVICE)
    build(dense, DEVICE)
    forge(dense, "stage1.onnx", lambda path: path.write_bytes(path.read_bytes() + b"\0\0"))
    with pytest.raises(MissingError, match=r"stage1.onnx is not built for rknn:rk3588: graph was .* --variant fp32"):
        load_uncalibrated(open_bundle(dense.path), DEVICE)
    damaged = next(dense.path.glob("engines/rknn-rk3588/fp32/stage0.built"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(MissingError, match=r"stage0.built is damaged"):
        load_uncalibrated(dense, DEVICE)


@pytest.mark.parametrize("chip", rknn.RKNN_SOCS)
def test_where_no_board_is_the_error_says_so_within_a_second(dense, chip):
    start_s = time.perf_counter()
    with pytest.raises(MissingError, match=f"rknn:{chip} runs on a board with that chip, and this is none"):
        load_uncalibrated(dense, f"rknn:{chip}")
    assert time.perf_counter() - start_s < 1
    with pytest.raises(MissingError, match="no board with an NPU of Rockchip's"):
        rknn.list_places()


def test_other_chips_and_a_board_without_rknnlite_say_what_to_do(dense, board, monkeypatch):
    with pytest.raises(MissingError, match="RKNN has no place 'rk9999'. It has rk3588, "):
        load_uncalibrated(dense, "rknn:rk9999")
    board("rockchip,rk3566-evb\0rockchip,rk3566\0")
    assert rknn.list_places() == {"rk3566": "NPU of rk3566"}
    with pytest.raises(MissingError, match="This board has rk3566, not rk3588: ask for rknn:rk3566"):
        load_uncalibrated(dense, DEVICE)
    monkeypatch.setitem(sys.modules, "rknnlite.api", None)
    for fails in (rknn.list_places, lambda: load_uncalibrated(dense, "rknn:rk3566")):
        with pytest.raises(MissingError, match="RKNNLite does not import.*pip install rknn-toolkit-lite2"):
            fails()


def test_what_rknnlite_refuses_is_an_error_with_the_usual_reason(dense, workstation, board, monkeypatch):
    build(dense, DEVICE)
    board()
    for answer in (-1, RuntimeError("rknn_init failed")):
        FakeRKNNLite.answers["init_runtime"] = answer
        with pytest.raises(MissingError, match="librknnrt.so here is older than rknn-toolkit2 2.5.0"):
            load_uncalibrated(dense, DEVICE)
    FakeRKNNLite.answers["load_rknn"] = -1
    with pytest.raises(BundleError, match=r"RKNNLite cannot read the build of .*stage0.onnx"):
        load_uncalibrated(dense, DEVICE)
    assert [lite.released for lite in FakeRKNNLite.made] == [1, 1, 1]
    FakeRKNNLite.answers.update(load_rknn=0, init_runtime=0)
    net = load_uncalibrated(dense, DEVICE)
    monkeypatch.setattr(FakeRKNNLite, "inference", lambda self, inputs: None)
    with pytest.raises(MissingError, match="The NPU failed: RKNNLite gave 0 outputs of"):
        net(draw(1)[0])


def test_without_the_environment_the_command_prints_how_to_make_it(dense, monkeypatch, tmp_path):
    monkeypatch.delenv("OFFRAMP_RKNN_PYTHON", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    done = offramp("build", dense.path, "--device", DEVICE)
    assert done.returncode == 4 and done.stdout == ""
    pip = tmp_path / "offramp/rknn/bin/pip"
    assert f"python3.11 -m venv {tmp_path / 'offramp/rknn'}" in done.stderr
    assert f"{pip} install -r " in done.stderr and f"{pip} install --no-deps rknn-toolkit2==2.5.0" in done.stderr
    pins = Path(done.stderr.split(" install -r ")[1].splitlines()[0])
    assert "onnx==" in pins.read_text()
    assert not (dense.path / "engines/rknn-rk3588/fp32/stage0.built").exists()


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("echo 'E RKNN: no luck'; exit 3", UnsupportedError, "it ended with code 3: E RKNN: no luck"),
        ("kill -9 $$", UnsupportedError, "it was ended by signal 9, as when memory runs out"),
        ("sleep 60 & sleep 60", UnsupportedError, "it was stopped after 0 minutes"),
        (
            'echo \'{"error": "no torch", "kind": "missing"}\' > reply.json',
            MissingError,
            "is incomplete: no torch. Make",
        ),
        ("echo '{' > reply.json", UnsupportedError, "it ended with code 0"),
    ],
)
def test_a_converter_that_fails_is_an_error_and_leaves_nothing(
    dense, tmp_path, monkeypatch, script, error, words, capfd
):
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("OFFRAMP_RKNN_PYTHON", str(python))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(_converters, "CONVERT_S", 0.5)
    with pytest.raises(error, match=words):
        build(dense, DEVICE)
    assert list((tmp_path / "tmp").iterdir()) == [] and capfd.readouterr().out == ""


def test_an_environment_without_the_toolkit_is_incomplete(dense, monkeypatch):
    monkeypatch.setenv("OFFRAMP_RKNN_PYTHON", sys.executable)
    with pytest.raises(MissingError, match="is incomplete: No module named 'rknn'"):
        build(dense, DEVICE)


def test_a_branch_is_refused_by_name_and_another_placement_proposed(dense, workstation):
    def branch(path):
        model = onnx.load(path)
        graph = model.graph
        score = next(node for node in graph.node if node.output[0].endswith(".score"))
        name, score.output[0] = score.output[0], "inner"
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        bodies = [
            helper.make_graph([helper.make_node("Identity", ["inner"], [name])], "body", [], [value]) for _ in "ab"
        ]
        graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
        graph.node.append(
            helper.make_node("If", ["yes"], [name], name="choice", then_branch=bodies[0], else_branch=bodies[1])
        )
        onnx.save(model, path)

    forge(dense, "stage1.onnx", branch)
    with pytest.raises(UnsupportedError, match=r"the node choice is an If, and NPUs take no branches. .*--place 1=cpu"):
        build(open_bundle(dense.path), DEVICE)


class Simulator:
    """The simulator of rknn-toolkit2, in a process of its own; builds instead of the converter and answers for RKNNLite."""

    def __init__(self):
        script = Path(__file__).parents[2] / "fakes/rknn_simulator.py"
        command = [TOOLKIT.find_python(), "-I", str(script), converter.__file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, *request):
        pickle.dump(request, self.process.stdin)
        self.process.stdin.flush()
        return pickle.load(self.process.stdout)

    def convert(self, python, job, folder):
        answer, *rest = self.ask("build", job)
        if answer == "refused":
            return {"error": rest[0], "kind": "unsupported"}, b"", ""
        return *rest, ""

    def lite(simulator):  # noqa: N805
        class SimulatedRKNNLite(FakeRKNNLite):
            def inference(self, inputs):
                sent = [(array.dtype.str, array.shape, array.tobytes()) for array in inputs]
                results = simulator.ask("run", hashlib.sha256(self.content).hexdigest(), sent)
                return [np.frombuffer(content, dtype).reshape(shape) for dtype, shape, content in results]

        return SimulatedRKNNLite


@pytest.fixture(scope="module")
def simulator():
    simulator = Simulator()
    yield simulator
    simulator.process.stdin.close()
    simulator.process.wait()


@pytest.mark.rknn
@pytest.mark.parametrize("variant", ["fp32", "int8"])
@pytest.mark.parametrize("name", networks.ZOO)
def test_the_simulated_npu_says_what_onnx_runtime_says(name, variant, zoo, tmp_path, simulator, board, monkeypatch):
    _, bundle, _ = zoo(name)
    shutil.copytree(bundle.path, tmp_path / "copy.offramp")
    bundle = open_bundle(tmp_path / "copy.offramp")
    if variant == "int8":
        bundle = quantize(bundle, networks.ZOO[name].draw(64, 5))
    monkeypatch.setattr(Converter, "convert", simulator.convert)
    if (name, variant) in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[name, variant]):
            build(bundle, DEVICE, variant=variant)
        return
    build(bundle, DEVICE, variant=variant)
    board(lite=simulator.lite())
    x = networks.ZOO[name].draw(100, 7)
    npu, cpu = (load_uncalibrated(bundle, where, variant=variant).every_exit(x) for where in (DEVICE, "cpu"))
    same, off = (npu.label == cpu.label).mean(), np.abs(npu.score - cpu.score)
    print(
        f"\n{name} {variant}: {same:.1%} of labels, scores off by {off.mean():.4f} on average, {off.max():.4f} at most"
    )
    assert same >= LABELS[variant]
    assert (off.max() if variant == "fp32" else off.mean()) <= SCORES[variant]


@pytest.mark.rknn
@pytest.mark.parametrize("to", ["fp16", "int8"])
def test_what_the_simulated_npu_runs_is_verified(to, zoo, tmp_path, simulator, board, monkeypatch):
    _, bundle, _ = zoo("multi-scale")
    shutil.copytree(bundle.path, tmp_path / "copy.offramp")
    data = networks.ZOO["multi-scale"].draw(64, 5) if to == "int8" else None
    bundle = quantize(tmp_path / "copy.offramp", data, to=to)
    monkeypatch.setattr(Converter, "convert", simulator.convert)
    build(bundle, DEVICE, variant=to)
    board(lite=simulator.lite())
    (verification,) = verify(bundle, DEVICE, variant=to)
    assert verification.passed, verification


@pytest.mark.rknn
def test_a_transformer_exported_at_one_length_runs_too(tmp_path, simulator, board, monkeypatch):
    entry = networks.ZOO["encoder"]
    bundle = export(networks.build(entry), entry.draw(3, 0), tmp_path / "encoder.offramp")
    monkeypatch.setattr(Converter, "convert", simulator.convert)
    build(bundle, DEVICE)
    board(lite=simulator.lite())
    npu, cpu = (load_uncalibrated(bundle, where).every_exit(entry.draw(50, 7)) for where in (DEVICE, "cpu"))
    assert (npu.label == cpu.label).mean() >= LABELS["fp32"]
    assert np.abs(npu.score - cpu.score).max() <= SCORES["fp32"]


@pytest.mark.rknn
@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_images_as_a_camera_gives_them_mean_the_same(variant, tmp_path, simulator, board, monkeypatch):
    from offramp.tests.zoo import networks

    preprocess = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), np.uint8)
    bundle = export(networks.build(networks.Plain), pixels[:3], tmp_path / "net.offramp", preprocess=preprocess)
    if variant == "int8":
        bundle = quantize(bundle, pixels)
    monkeypatch.setattr(Converter, "convert", simulator.convert)
    build(bundle, DEVICE, variant=variant)
    board(lite=simulator.lite())
    npu, cpu = (load_uncalibrated(bundle, where, variant=variant).every_exit(pixels) for where in (DEVICE, "cpu"))
    assert (npu.label == cpu.label).mean() >= LABELS[variant]
    off = np.abs(npu.score - cpu.score)
    assert (off.max() if variant == "fp32" else off.mean()) <= SCORES[variant]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_written_out_for_the_opset_of_the_toolkit(tmp_path, approximate):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 9]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)], "g", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "gelu.onnx"
    )
    job = {"onnx": str(tmp_path / "gelu.onnx"), "inputs": [{"name": "x", "shape": [1, 9]}], "outputs": ["y"]}
    model, _, _ = converter.prepare(job)
    assert model.opset_import[0].version == 19
    fed = {"x": np.linspace(-4, 4, 9, dtype=np.float32)[None]}
    ours = ort.InferenceSession(model.SerializeToString()).run(["y"], fed)[0]
    assert np.allclose(ours, ort.InferenceSession(tmp_path / "gelu.onnx").run(["y"], fed)[0], atol=1e-6)


@pytest.mark.rknn
@pytest.mark.parametrize("chip", ["rk3588", "rk3566"])
def test_the_command_builds_with_the_toolkit_and_tells_what_is_left_to_the_cpu(dense, chip):
    done = offramp("build", dense.path, "--place", f"0=rknn:{chip}", "--json")
    assert done.returncode == 0, done.stderr
    builds = json.loads(done.stdout)
    assert [stage["stage"] for stage in builds] == ["stage0.onnx", "static0.onnx"]
    for stage in builds:
        line, _, content = Path(stage["path"]).read_bytes().partition(b"\n")
        header = json.loads(line)
        assert header["toolkit"] == "2.5.0" and header["npu"]["float16"] > 0 and "ArgMax" in header["cpu"]
        assert content.startswith(b"RKNN") and f'"target_platform":["{chip}"]'.encode() in content
