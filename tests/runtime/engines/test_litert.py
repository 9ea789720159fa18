"""Stages on LiteRT: the same answers as ONNX Runtime's, what runs them, and what it cannot run refused when it is loaded.

The converter wants an environment of its own, which `make test-litert` makes. `tests/zoo/tflite` has what it made of the
stages of `write_convolutions`; most tests take that for what is converted.
"""

import ctypes
import threading
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from offramp.bundle import Tensor
from offramp.errors import MissingError, UnsupportedError, UsageError
from offramp.export import export, quantize
from offramp.runtime import build, load_static, load_uncalibrated
from offramp.runtime.engines import StageFile, litert
from offramp.runtime.engines._converters import Converter
from offramp.runtime.engines.litert.stage import find_delegated
from offramp.runtime.placement import refuse_servers
from offramp.tests.helpers.command import offramp
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import write_convolutions, write_sequences

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
pytestmark = pytest.mark.usefixtures("kept_cache")
DEVICE = "litert:cpu"
MADE = Path(__file__).parents[2] / "zoo/tflite"

REFUSED = {
    ("encoder", "fp32"): "takes fixed shapes only, and the axis time",
    ("encoder", "int8"): "takes fixed shapes only, and the axis time",
    ("multi-scale", "int8"): "XNNPack delegate failed to reshape",
}
"""The networks of the zoo that LiteRT does not run, and why."""

LABELS, SCORES = 0.97, 0.01
"""In int8 so large a share of labels is the same as in ONNX Runtime's int8, and scores differ by less on average."""


def take_made(monkeypatch, change=bytes):
    """Let conversions give what lies in `tests/zoo/tflite`, which `change` may change."""
    names = {("x", True): "stage0", ("r0", False): "stage1", ("x", False): "static1"}

    def convert(self, python, job, folder):
        name = names[job["inputs"][0]["name"], "z0.score" in job["outputs"]]
        return {"toolkit": "2.6.9"}, change((MADE / f"{name}.tflite").read_bytes()), ""

    monkeypatch.setattr(Converter, "find_python", lambda self: Path("/python"))
    monkeypatch.setattr(Converter, "convert", convert)


@pytest.fixture
def converted(monkeypatch):
    take_made(monkeypatch)


def made_stage(**changes):
    """Return the second stage of `write_convolutions` and what it was converted to."""
    boundary = Tensor(name="r0", dtype="float32", shape=(None, 8, 12, 12))
    stage = StageFile(
        Path("stage1.onnx"), (boundary,), ("z1.logits", "z1.score", "z1.label"), boundaries=frozenset(["r0"])
    )
    return replace(stage, **changes), (MADE / "stage1.tflite").read_bytes()


def test_chains_and_mixed_placements_answer_as_onnx_runtime_does(convolutions, converted):
    bundle, x = convolutions
    right = load_uncalibrated(bundle, logits=True)
    nets = [load_uncalibrated(bundle, devices) for devices in (DEVICE, ("cpu", DEVICE), (DEVICE, "cpu"))]
    stage = nets[0].provenance.stages[0]
    assert "XNNPACK (8 of 9 nodes; beside it ARG_MAX)" in stage.runs_on and not stage.half
    answers = right.every_exit(x)
    right.thresholds = [float(np.median(answers.score[:, 0]))]
    clear = np.abs(answers.score[:, 0] - right.thresholds[0]) > 1e-4
    expected = right.batch(x)
    for net in nets:
        every = net.every_exit(x)
        assert np.abs(every.score - answers.score).max() < 1e-5 and (every.label == answers.label).all()
        net.thresholds = right.thresholds
        batch = net.batch(x)
        assert (batch.exit == expected.exit)[clear].all() and (batch.label == expected.label)[clear].all()
        assert len(set(batch.exit)) == 2
    static = load_static(bundle, DEVICE)
    assert [static(sample).label for sample in x[:9]] == answers.label[:9, -1].tolist()


def test_litert_beside_openvino(convolutions, converted):
    pytest.importorskip("openvino")
    bundle, x = convolutions
    net, right = load_uncalibrated(bundle, (DEVICE, "openvino:CPU")), load_uncalibrated(bundle)
    assert np.abs(net.every_exit(x).score - right.every_exit(x).score).max() < 1e-5


def test_one_build_serves_every_machine_from_the_bundle_without_the_converter(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((20, 3, 12, 12)).astype(np.float32)
    bundle = export(write_convolutions(tmp_path / "c.onnx"), x[:3], tmp_path / "c.offramp")
    right = load_uncalibrated(bundle).every_exit(x).score
    with monkeypatch.context() as patch:
        take_made(patch)
        built = build(bundle, DEVICE, into_bundle=True)
    assert [Path(each.path).parent for each in built] == [bundle.path / "engines/litert/fp32"] * 2
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setenv("OFFRAMP_LITERT_PYTHON", "/no/python")
    net = load_uncalibrated(bundle, DEVICE, threads=2)
    assert {stage.built for stage in net.provenance.stages} == {"bundle"}
    assert np.abs(net.every_exit(x).score - right).max() < 1e-5


def test_what_was_converted_wrongly_does_not_run_and_is_not_taken_from_the_cache_either(
    convolutions, tmp_path, monkeypatch
):
    bundle, _ = convolutions
    source = onnx.load(write_convolutions(tmp_path / "c.onnx"))
    classifiers = [numpy_helper.to_array(each).tobytes() for each in source.graph.initializer if each.name[0] == "h"]

    def spoil(content):
        """Turn the weights of the classifier in a file upside down."""
        (weights,) = (each for each in classifiers if each in content)
        return content.replace(weights, (-np.frombuffer(weights, np.float32)).tobytes())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    take_made(monkeypatch, spoil)
    words = (
        r"converted for litert:cpu do not answer as fp32 did when it was exported: \d of 6 .* Run the network on cpu"
    )
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=words) as caught:
            load_uncalibrated(bundle, DEVICE)
        assert caught.value.device == DEVICE
        monkeypatch.setattr(litert, "build", None)


def test_what_the_converter_refuses_is_an_error_with_its_reason(convolutions, tmp_path, monkeypatch):
    bundle, _ = convolutions
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Converter, "find_python", lambda self: Path("/python"))
    monkeypatch.setattr(Converter, "convert", lambda *_: ({"error": "no luck"}, b"", ""))
    with pytest.raises(UnsupportedError, match=r"onnx2tf cannot convert .*stage0.onnx: no luck\. .*--place 0=cpu"):
        load_uncalibrated(bundle, DEVICE)
    monkeypatch.setattr(Converter, "convert", lambda *_: ({}, b"no flatbuffer" * 9, ""))
    with pytest.raises(UnsupportedError, match="LiteRT cannot run what onnx2tf makes of it"):
        load_uncalibrated(bundle, DEVICE)


def test_without_the_environment_the_command_prints_how_to_make_it(convolutions, monkeypatch, tmp_path):
    monkeypatch.delenv("OFFRAMP_LITERT_PYTHON", raising=False)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    done = offramp("build", convolutions[0].path, "--device", DEVICE)
    assert done.returncode == 4 and done.stdout == ""
    folder = tmp_path / "offramp/litert"
    assert f"python3.12 -m venv {folder}" in done.stderr and f"{folder}/bin/pip install --no-deps -r " in done.stderr
    assert "onnx2tf==" in Path(done.stderr.split(" --no-deps -r ")[1].splitlines()[0]).read_text()
    assert "stages cannot be converted here" in litert.list_places()["cpu"]


def test_half_precision_is_refused(converted):
    stage, _ = made_stage()
    half = replace(stage, inputs=(replace(stage.inputs[0], dtype="float16"),))
    with pytest.raises(
        UnsupportedError, match=r"takes no float16, as r0 of stage1.onnx is. Load a variant in float32 or"
    ):
        litert.compile_stage(half, "cpu", threads=1)


def test_open_lengths_are_refused_with_the_placement_that_works(tmp_path, converted):
    x = np.zeros((2, 5, 4), np.float32)
    bundle = export(write_sequences(tmp_path / "s.onnx"), x, tmp_path / "s.offramp")
    with pytest.raises(UnsupportedError, match=r"litert:cpu takes fixed shapes only.*--place 0=cpu"):
        load_uncalibrated(bundle, DEVICE)


def test_another_shape_or_dtype_than_the_stage_has_is_refused():
    stage, content = made_stage()
    compiled = litert.compile_stage(stage, "cpu", threads=1, built=content)
    for shape, dtype in (((1, 12, 12, 8), np.float32), ((1, 8, 12, 12), np.float64)):
        with pytest.raises(UnsupportedError, match=rf"has r0 as float32 \[1, 12, 12, 8\], not as {np.dtype(dtype)}"):
            compiled.bind({"r0": np.zeros(shape, dtype)}, {})
    label = np.zeros(1, np.int32)
    with pytest.raises(UnsupportedError, match=r"has z1.label as int64 \[1\], not as int32"):
        compiled.bind({"r0": np.zeros((1, 8, 12, 12), np.float32)}, {"z1.label": label})


def test_threads_are_those_asked_for(monkeypatch):
    seen = []
    make = interpreter.Interpreter
    monkeypatch.setattr(interpreter, "Interpreter", lambda **told: seen.append(told["num_threads"]) or make(**told))
    stage, content = made_stage()
    litert.compile_stage(stage, "cpu", threads=3, built=content)
    assert seen == [3]


def test_clones_in_threads_answer_as_one_does_alone(convolutions, converted):
    bundle, x = convolutions
    net = load_uncalibrated(bundle, DEVICE)
    expected = [(r.label, r.score) for r in map(net, x)]
    nets = [net, net, net.clone(), net.clone()]
    answers = [None] * len(nets)

    def work(k):
        answers[k] = [(r.label, r.score) for r in map(nets[k], x)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer == expected for answer in answers)


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("gpu", MissingError, r"LiteRT has no place 'gpu'\. It has cpu, .*litert:/usr/lib/libvx_delegate.so"),
        ("/no/lib.so", MissingError, r"cannot load the delegate /no/lib.so: .*No such file"),
        (f"{ctypes.__file__.replace('.py', '.so')}", MissingError, "cannot load the delegate"),
        ("libc.so.6", MissingError, "cannot load the delegate libc.so.6: .*tflite_plugin_create_delegate"),
        ("/no/lib.so?fast", UsageError, r"look like litert:/no/lib.so\?name=value&other=value, not \?fast"),
    ],
)
def test_a_delegate_that_cannot_be_loaded_is_an_error_with_its_reason(place, error, words):
    stage, content = made_stage()
    with pytest.raises(error, match=words):
        litert.compile_stage(stage, place, threads=1, built=content)


class IdleDelegate:
    """A delegate that LiteRT loads, and that takes no node."""

    class Struct(ctypes.Structure):
        _fields_ = [(name, ctypes.c_void_p) for name in ("data", "prepare", "a", "b", "c", "flags", "d")]

    def __init__(self):
        self.prepare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: 0)
        self.struct = self.Struct(prepare=ctypes.cast(self.prepare, ctypes.c_void_p))

    def _get_native_delegate_pointer(self):
        return ctypes.addressof(self.struct)


def test_a_delegate_gets_its_options_and_must_take_something_of_the_stage(monkeypatch):
    seen = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: types.SimpleNamespace(tflite_plugin_create_delegate=None))
    monkeypatch.setattr(interpreter, "load_delegate", lambda *told: seen.append(told) or IdleDelegate())
    stage, content = made_stage()
    with pytest.raises(
        UnsupportedError, match=r"The delegate /npu.so takes no node of stage1.onnx: all would run on the"
    ):
        litert.compile_stage(stage, "/npu.so?speed=2&mode=int8", threads=1, built=content)
    assert seen == [("/npu.so", {"speed": "2", "mode": "int8"})]


def test_what_delegates_run_is_what_the_interpreter_reports():
    class Reports:
        def __init__(self, *parts):
            graph = [("CONV_2D", [0], [1]), ("SOFTMAX", [1], [2]), ("ARG_MAX", [1], [3]), ("MEAN", [2], [4])]
            every = [*graph, *(("DELEGATE", *part) for part in parts)]
            self.nodes = [{"index": k, "op_name": o, "inputs": i, "outputs": u} for k, (o, i, u) in enumerate(every)]

        def _get_ops_details(self):
            return self.nodes

    assert find_delegated(Reports())[1] == set()
    assert find_delegated(Reports(([0], [1, 2])))[1] == {0, 1}
    assert find_delegated(Reports(([0], [1]), ([2], [4])))[1] == {0, 3}


def test_a_calibration_loads_no_library_that_the_caller_did_not_name():
    library = "litert:/npu.so"
    with pytest.raises(UsageError, match="places a stage on litert:/npu.so, a library that would be loaded"):
        refuse_servers(("cpu", library))
    assert refuse_servers((DEVICE, library), named=(library,)) == (DEVICE, library)


def write_stage(path, dtype, nodes, shape=("batch", 4)):
    """Write a stage that makes y of x, of a dtype and shape."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = (
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    constants = [
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
        helper.make_tensor("table", TensorProto.FLOAT, [6, 1], range(6)),
    ]
    nodes = [helper.make_node(op, reads, [makes], **rest) for op, reads, makes, rest in nodes]
    graph = helper.make_graph(nodes, "stage", *ends, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return StageFile(path, (Tensor(name="x", dtype=dtype, shape=(None, *shape[1:])),), ("y",))


def run(stage, x, shape, dtype=np.float32):
    """Run a stage that makes y of x."""
    y = np.empty(shape, dtype)
    stage.bind({"x": x}, {"y": y})()
    return y


DOUBLED = [("Cast", ["x"], "c", {"to": TensorProto.FLOAT}), ("Mul", ["c", "two"], "y", {})]


@pytest.mark.litert
@pytest.mark.parametrize(
    ("dtype", "nodes", "x", "y"),
    [
        ("uint8", DOUBLED, [0, 255, 3, 200], [0, 510, 6, 400]),
        ("int8", DOUBLED, [0, -128, 3, 127], [0, -256, 6, 254]),
        ("int32", DOUBLED, [0, -1, 3, 2**20], [0, -2, 6, 2**21]),
        ("int64", [("Gather", ["table", "x"], "y", {})], [0, 5, 3, 1], [0, 5, 3, 1]),
    ],
)
def test_whole_numbers_of_any_width_are_read(tmp_path, dtype, nodes, x, y):
    stage = litert.compile_stage(write_stage(tmp_path / "stage.onnx", dtype, nodes), "cpu", threads=1)
    shape = (1, 4, 1) if dtype == "int64" else (1, 4)
    assert run(stage, np.array([x], dtype), shape).ravel().tolist() == y


@pytest.mark.litert
@pytest.mark.parametrize("lengths", [(3, 4, 5), (3, 3, 3)])
@pytest.mark.parametrize("at_boundaries", ["", "x", "y", "xy"])
def test_maps_are_not_turned_whatever_their_axes_are_and_wherever_they_lie(tmp_path, lengths, at_boundaries):
    nodes = [("Softmax", ["x"], "s", {"axis": 1}), ("Mul", ["s", "two"], "y", {})]
    stage = write_stage(tmp_path / "stage.onnx", "float32", nodes, ("batch", *lengths))
    compiled = litert.compile_stage(replace(stage, boundaries=frozenset(at_boundaries)), "cpu", threads=1)
    x = np.random.default_rng(0).standard_normal((1, *lengths)).astype(np.float32)
    found = run(compiled, x, x.shape)
    assert np.abs(found - 2 * np.exp(x) / np.exp(x).sum(1, keepdims=True)).max() < 1e-6


@pytest.mark.litert
def test_what_onnx2tf_cannot_convert_is_refused(tmp_path):
    stage = write_stage(tmp_path / "stage.onnx", "float32", [("NoSuchOperator", ["x"], "y", {})])
    with pytest.raises(UnsupportedError, match="onnx2tf cannot convert .*NoSuchOperator"):
        litert.compile_stage(stage, "cpu", threads=1)


@pytest.mark.litert
def test_the_files_that_other_tests_take_are_what_the_converter_makes(convolutions):
    bundle, x = convolutions
    net, folder = load_uncalibrated(bundle, DEVICE, logits=True), bundle.path / "variants/fp32"
    stage, content = made_stage(path=folder / "stage1.onnx")
    feeds = {"r0": np.random.default_rng(0).standard_normal((1, 8, 12, 12)).astype(np.float32)}
    answers = []
    for built in (content, None):
        answers.append(np.empty((1, 5), np.float32))
        litert.compile_stage(stage, "cpu", threads=1, built=built).bind(feeds, {"z1.logits": answers[-1]})()
    assert (answers[0] == answers[1]).all() and net(x[0]).exit in (0, 1)


@pytest.mark.litert
def test_int8_is_computed_in_int8_by_the_scales_of_the_bundle(tmp_path):
    x = np.random.default_rng(0).standard_normal((300, 3, 12, 12)).astype(np.float32)
    bundle = export(write_convolutions(tmp_path / "c.onnx"), x[:3], tmp_path / "c.offramp")
    bundle = quantize(bundle, x[:64])
    right = load_uncalibrated(bundle, variant="int8").every_exit(x)
    for devices in (DEVICE, ("cpu", DEVICE), (DEVICE, "cpu")):
        found = load_uncalibrated(bundle, devices, variant="int8").every_exit(x)
        assert np.abs(found.score - right.score).max() < 0.02 and (found.label == right.label).mean() > 0.99
    for built in build(bundle, DEVICE, variant="int8", into_bundle=True):
        nodes = interpreter.Interpreter(built.path)._get_ops_details()
        kinds = {node["op_name"]: {np.dtype(kind).name for kind in node["operand_types"]} for node in nodes}
        assert kinds["CONV_2D"] == {"int8", "int32"} and "RELU" not in kinds


@pytest.mark.litert
@pytest.mark.slow
@pytest.mark.parametrize("name", networks.ZOO)
def test_every_network_of_the_zoo_runs_or_is_refused_for_a_known_reason(zoo, name):
    _, bundle, _ = zoo(name)
    if words := REFUSED.get((name, "fp32")):
        with pytest.raises(UnsupportedError, match=words):
            load_uncalibrated(bundle, DEVICE)
        return
    x = draw(name, 500)
    net, right = load_uncalibrated(bundle, DEVICE), load_uncalibrated(bundle)
    scores = right.every_exit(x).score
    right.thresholds = net.thresholds = [float(np.quantile(scores[:, k], 0.6)) for k in range(scores.shape[1] - 1)]
    clear = (np.abs(scores[:, :-1] - np.array(right.thresholds)) > 1e-4).all(1)
    ours, theirs = net.batch(x), right.batch(x)
    assert (ours.exit == theirs.exit)[clear].all() and (ours.label == theirs.label)[clear].all() and clear.sum() > 450


@pytest.mark.litert
@pytest.mark.slow
@pytest.mark.parametrize("name", networks.ZOO)
def test_every_quantised_network_of_the_zoo_runs_or_is_refused_for_a_known_reason(own_zoo, name):
    bundle = quantize(own_zoo(name), draw(name, 64))
    if words := REFUSED.get((name, "int8")):
        with pytest.raises(UnsupportedError, match=words):
            load_uncalibrated(bundle, DEVICE, variant="int8")
        return
    ours, theirs = (load_uncalibrated(bundle, to, variant="int8").every_exit(draw(name, 500)) for to in (DEVICE, "cpu"))
    assert (ours.label == theirs.label).mean() > LABELS and np.abs(ours.score - theirs.score).mean() < SCORES


def draw(name, count):
    drawn = networks.ZOO[name].draw(count, 7)
    return drawn if len(drawn) > 1 else drawn[0]
