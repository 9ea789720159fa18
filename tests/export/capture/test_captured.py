"""What `capture` gives of an ONNX file: its exits in order, what they compute in, and errors that name nodes and files."""

import logging

import numpy as np
import onnx
import pytest

from offramp.errors import DataError, ModelError, UsageError
from offramp.export import export
from offramp.export.capture import capture
from offramp.export.capture.example import make_golden
from offramp.tests.zoo.dense import CLASSES, write_onnx


def test_exits_are_sorted_with_their_temperatures(dense_onnx, tmp_path):
    network, golden = capture(dense_onnx, None, exits=["z2", "z0", "z1"], sort=True)
    assert list(network.exits) == ["z0", "z1", "z2"] and network.order == (1, 2, 0)
    original, _ = capture(dense_onnx, None)
    for ours, theirs in zip(network.reference(golden), original.reference(golden), strict=True):
        assert np.array_equal(ours["logits"], theirs["logits"])
    bundle = export(
        dense_onnx, None, tmp_path / "b.offramp", exits=["z2", "z0", "z1"], sort=True, temperatures=[3, 1, 2]
    )
    assert [end.temperature for end in bundle.variant().exits] == [1, 2, 3]


@pytest.mark.parametrize(("dtype", "precision"), [(np.float16, "fp16"), (np.float32, "fp32"), (np.float64, "fp64")])
def test_it_knows_classes_probabilities_and_precision(dtype, precision, tmp_path):
    path = write_onnx(tmp_path / "net.onnx", dtype=dtype)
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(onnx.helper.make_node("Softmax", ["raw"], ["z2"], axis=-1))
    onnx.save(model, path)
    network, golden = capture(path, None)
    assert network.classes == CLASSES and network.probabilities == (False, False, True)
    assert network.precision == precision and network.captured_by == "onnx" and network.name == "net"
    assert len(golden) == 1 and golden[0].shape == (3, 16)


def test_probabilities_in_whole_steps_are_known_by_their_softmax(tmp_path):
    path, helper = write_onnx(tmp_path / "net.onnx"), onnx.helper
    model = onnx.load(path)
    for name, value in (("step", np.float32(1 / 16)), ("zero", np.uint8(0))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    for name, operator in (("z1", "Softmax"), ("z2", "Sigmoid")):
        (node,) = (node for node in model.graph.node if name in node.output)
        node.output[0] = f"{name}.raw"
        model.graph.node.append(helper.make_node(operator, [f"{name}.raw"], [f"{name}.p"]))
        model.graph.node.append(helper.make_node("QuantizeLinear", [f"{name}.p", "step", "zero"], [f"{name}.q"]))
        model.graph.node.append(helper.make_node("DequantizeLinear", [f"{name}.q", "step", "zero"], [name]))
    onnx.save(model, path)
    network, golden = capture(path, None)
    assert network.probabilities == (False, True, False)
    assert np.abs(network.reference(golden)[1]["logits"].sum(-1) - 1).max() > 0.01


def test_an_exit_listed_twice_is_named_by_its_nodes(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node[-1].name = "last"
    model.graph.node.append(onnx.helper.make_node("Identity", ["z2"], ["again"], name="copy"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("again", onnx.TensorProto.FLOAT, ["N", CLASSES]))
    onnx.save(model, path)
    with pytest.raises(ModelError, match="z2 and again take the same work") as raised:
        capture(path, None)
    assert raised.value.nodes == ("last", "copy")


def test_an_example_that_does_not_fit_names_the_file(dense_onnx):
    with pytest.raises(UsageError, match="The example is for the inputs y") as raised:
        capture(dense_onnx, {"y": np.zeros((2, 16), np.float32)})
    assert raised.value.path == dense_onnx
    with pytest.raises(DataError, match="The example has 2 inputs") as unfit:
        capture(dense_onnx, (np.zeros((2, 16), np.float32), np.zeros((2, 16), np.float32)))
    assert unfit.value.path == dense_onnx


def test_samples_made_of_one_row_of_tokens_differ_in_what_they_hold():
    tokens, mask = np.array([[7, 3, 5, 1, 2, 6, 4, 0]]), np.array([[1, 1, 1, 1, 1, 1, 0, 0]])
    golden, masks = make_golden([tokens, mask], [("batch", None)] * 2)
    assert (golden[0] == tokens[0]).all() and set(golden.flat) <= set(tokens.flat)
    assert len({tuple(sorted(row)) for row in golden.tolist()}) == 3  # the mean over a row tells them apart
    assert masks.any(1).all()
    assert make_golden([np.array([9])], [("batch",)])[0].tolist() == [9, 9, 9]
    assert make_golden([np.array([[9], [8]])], [("batch", None)])[0].tolist() == [[9], [8], [9]]


def test_the_log_says_at_debug_what_captured_the_network(dense_onnx, monkeypatch):
    lines = []
    log = logging.getLogger("offramp.export.capture")
    monkeypatch.setattr(log, "handle", lambda record: lines.append((record.levelno, record.getMessage())))
    log.setLevel(logging.DEBUG)
    capture(dense_onnx, None)
    log.setLevel(logging.NOTSET)
    assert lines == [(logging.DEBUG, "dense captured by onnx: fp32, exits ['z0', 'z1', 'z2']")]
