"""Stages on MNN: the same answers as ONNX Runtime's, conversions kept, and what it cannot run refused when it is loaded."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper

from offramp.bundle import Tensor
from offramp.errors import UnsupportedError
from offramp.export import export
from offramp.runtime import build, load_static, load_uncalibrated
from offramp.runtime.engines import StageFile, mnn
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import write_onnx, write_sequences

pytest.importorskip("MNN")
pytestmark = pytest.mark.usefixtures("kept_cache")
DEVICE = "mnn:cpu"

REFUSED = {
    "encoder": "takes fixed shapes only, and the axis time",
    "shapes": "it finds no shape for",  # a loop over time
    "keyword-spotter": "it finds no shape for",
    "mixture-of-experts": "do not answer as fp32 did",
}
"""The networks of the zoo that MNN does not run, and why."""


def write_stage(path, dtype, nodes):
    """Write a stage that makes y of x, (batch, 4) of a dtype."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [helper.make_tensor_value_info("x", kind, ["batch", 4])], [helper.make_empty_tensor_value_info("y")]
    constants = [
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
        helper.make_tensor("table", TensorProto.FLOAT, [6, 1], range(6)),
    ]
    nodes = [helper.make_node(op, reads, [makes], **rest) for op, reads, makes, rest in nodes]
    graph = helper.make_graph(nodes, "stage", *ends, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return StageFile(path, (Tensor(name="x", dtype=dtype, shape=(None, 4)),), ("y",))


DOUBLED = [("Cast", ["x"], "c", {"to": TensorProto.FLOAT}), ("Mul", ["c", "two"], "y", {})]


def test_chains_and_mixed_placements_answer_as_onnx_runtime_does(convolutions):
    bundle, x = convolutions
    right = load_uncalibrated(bundle, logits=True)
    nets = [load_uncalibrated(bundle, devices) for devices in (DEVICE, ("cpu", DEVICE), (DEVICE, "cpu"))]
    assert nets[0].provenance.stages[0].runs_on.startswith("MNN 3.") and not nets[0].provenance.stages[0].half
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


def test_mnn_beside_openvino(convolutions):
    pytest.importorskip("openvino")
    bundle, x = convolutions
    net, right = load_uncalibrated(bundle, (DEVICE, "openvino:CPU")), load_uncalibrated(bundle)
    assert np.abs(net.every_exit(x).score - right.every_exit(x).score).max() < 1e-5


def test_conversions_are_kept_in_the_cache_and_in_the_bundle(dense, monkeypatch):
    x = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    right = load_uncalibrated(dense).every_exit(x).score
    built = build(dense, DEVICE)
    assert [each.was_there for each in build(dense, DEVICE)] == [True] * 3 and built[0].bytes > 100
    build(dense, DEVICE, into_bundle=True)
    monkeypatch.setattr(subprocess, "run", None)  # nothing is converted any more
    net = load_uncalibrated(dense, DEVICE)
    assert {stage.built for stage in net.provenance.stages} == {"bundle"}
    assert np.abs(net.every_exit(x).score - right).max() < 1e-5


def test_what_was_converted_wrongly_does_not_run_and_is_not_taken_from_the_cache_either(dense, tmp_path, monkeypatch):
    other = export(write_onnx(tmp_path / "other.onnx", seed=1), None, tmp_path / "other.offramp")
    convert = mnn.build

    def convert_other(stage, place, **rest):  # a converter that makes another network of a stage, without a word
        folder = other.path / "variants/fp32"
        found = replace(stage, path=folder / stage.path.name, weights=folder / "weights.bin")
        return convert(replace(found, read=type(folder).read_bytes, copy=type(folder)), place, **rest)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnn, "build", convert_other)
    words = r"converted for mnn:cpu do not answer as fp32 did when it was exported: \d of 9 .* Run the network on cpu"
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=words) as caught:
            load_uncalibrated(dense, DEVICE)
        assert caught.value.device == DEVICE
        monkeypatch.setattr(mnn, "build", None)


def test_golden_answers_are_compared_once(convolutions, monkeypatch):
    from offramp.runtime import golden_check

    bundle, x = convolutions
    load_static(bundle, DEVICE)
    monkeypatch.setattr(golden_check, "check_answers", None)
    assert load_static(bundle, DEVICE)(x[0]).exit == 1


@pytest.mark.parametrize(
    ("dtype", "nodes", "words"),
    [
        ("float32", [("DequantizeLinear", ["x", "two"], "y", {})], "runs no int8 variant.*Load a variant in float"),
        ("int8", DOUBLED, "takes no arrays of int8, as x of"),
        ("float32", [("Cast", ["x"], "y", {"to": TensorProto.UINT8})], "cannot convert .*it does not say why"),
        ("float32", [("NoSuchOperator", ["x"], "y", {})], "cannot convert .*NoSuchOperator"),
    ],
)
def test_what_mnn_cannot_run_is_refused_when_it_is_compiled(tmp_path, dtype, nodes, words):
    with pytest.raises(UnsupportedError, match=words):
        mnn.compile_stage(write_stage(tmp_path / "stage.onnx", dtype, nodes), "cpu", threads=1)


def test_open_lengths_are_refused_with_the_placement_that_works(tmp_path):
    x = np.zeros((2, 5, 4), np.float32)
    bundle = export(write_sequences(tmp_path / "s.onnx"), x, tmp_path / "s.offramp")
    with pytest.raises(UnsupportedError, match=r"mnn:cpu takes fixed shapes only.*--place 0=cpu"):
        load_uncalibrated(bundle, DEVICE)


def test_whole_numbers_of_any_width_are_read_or_refused(tmp_path):
    for dtype, nodes, x, y in (
        ("uint8", DOUBLED, [0, 255, 3, 200], [0, 510, 6, 400]),
        ("int64", [("Gather", ["table", "x"], "y", {})], [0, -1, 3, 1], [0, 5, 3, 1]),
    ):
        stage = mnn.compile_stage(write_stage(tmp_path / f"{dtype}.onnx", dtype, nodes), "cpu", threads=1)
        sample = np.array([x], dtype)
        assert stage.infer({"x": sample}, ["y"])["y"].ravel().tolist() == y
    run = stage.bind({"x": sample}, {"y": np.empty((1, 4, 1), np.float32)})
    run()
    sample[0, 0] = 2**32
    with pytest.raises(ValueError, match="no whole numbers beyond 32 bits"):
        run()


def test_clones_in_threads_answer_as_one_does_alone(convolutions):
    bundle, x = convolutions
    net = load_uncalibrated(bundle, DEVICE)
    expected = [(r.label, r.score) for r in map(net, x)]
    nets = [net, net, net.clone(), net.clone()]
    assert len({id(other._links[0].compiled) for other in nets}) == 3  # of an interpreter one session runs at a time
    answers = [None] * len(nets)

    def work(k):
        answers[k] = [(r.label, r.score) for r in map(nets[k], x)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer == expected for answer in answers)


def test_a_conversion_opens_no_socket_starts_no_program_and_writes_nothing_into_the_home(convolutions, tmp_path):
    bundle, _ = convolutions
    watch = """
import json, sys
seen = []
def watch(event, arguments):
    if event.partition(".")[0] in ("socket", "subprocess") or event in ("os.system", "os.exec", "os.posix_spawn", "os.fork"):
        seen.append(event)
sys.addaudithook(watch)
"""
    told = f"{watch}{mnn.CONVERT}\nprint('seen', json.dumps([seen, [m for m in sys.modules if m.startswith('MNN.tools')]]))"
    stage = bundle.path / "variants/fp32/whole.onnx"
    (home := tmp_path / "home").mkdir()
    command = [sys.executable, "-c", told, stage, tmp_path / "o.mnn"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HOME": str(home)})
    assert done.returncode == 0, done.stderr
    assert not list(home.iterdir())
    assert json.loads(done.stdout.rpartition("seen ")[2]) == [[], []]


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
