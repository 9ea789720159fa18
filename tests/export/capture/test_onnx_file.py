"""ONNX files that others exported: control flow, shape arithmetic, quantised graphs, named and unnamed axes."""

import os

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.calibrate import load_samples
from offramp.errors import DataError, ModelError, UsageError
from offramp.export import export, fuse
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.dense import CLASSES, write_convolutions, write_onnx

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def save(path, nodes, weights, outputs, *, inputs=None, opset=13, functions=()):
    """Write a graph of one input x (N, 16), or of others, whose outputs are (N, 5) logits."""
    inputs = inputs or [helper.make_tensor_value_info("x", FLOAT, ["N", 16])]
    outputs = [helper.make_tensor_value_info(name, FLOAT, ["N", CLASSES]) for name in outputs]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def weights(*shapes):
    rng = np.random.default_rng(0)
    return [(rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32) for shape in shapes]


def check(path, bundle, x, names=("z0", "z1"), tolerance=1e-5):
    """The chain says what the file says, alone, in a batch, and in a batch that shrinks."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = np.stack(session.run(list(names), {session.get_inputs()[0].name: x}), 1)
    with load_uncalibrated(bundle, logits=True) as net:
        for size in (1, 7):
            assert np.abs(net.every_exit(x, size=size).logits - expected).max() <= tolerance * np.abs(expected).max()
        score = np.sort(net.every_exit(x).score[:, 0])
        net.thresholds = [float(score[len(x) // 2 - 1 : len(x) // 2 + 1].mean()), *[2.0] * (len(names) - 2)]
        batch = net.batch(x)
        assert set(batch.exit) == {0, len(names) - 1}
        rows = expected[np.arange(len(x)), batch.exit]
        assert np.abs(batch.logits - rows).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_control_flow_within_a_stage_is_kept(opset, tmp_path):
    """An If whose branches read values of the graph around them, and a Loop, between the exits."""
    a, b, h0, h1 = weights((16, 16), (16, 16), (16, CLASSES), (16, CLASSES))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("MatMul", ["state", "B"], ["moved"]),
            helper.make_node("Tanh", ["moved"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, ["N", 16]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, ["N", 16]),
        ],
    )
    out = [helper.make_tensor_value_info("chosen", FLOAT, ["N", 16])]
    then = helper.make_graph([helper.make_node("Add", ["hidden", "y"], ["chosen"])], "then", [], out)
    other = helper.make_graph([helper.make_node("Sub", ["hidden", "y"], ["chosen"])], "else", [], out)
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["y"]),
        helper.make_node("MatMul", ["y", "H0"], ["z0"]),
        helper.make_node("Loop", ["trips", "yes", "y"], ["hidden"], body=body),
        helper.make_node("If", ["yes"], ["branched"], then_branch=then, else_branch=other),
        helper.make_node("MatMul", ["branched", "H1"], ["z1"]),
    ]
    values = {"A": a, "B": b, "H0": h0, "H1": h1, "trips": np.array(3), "yes": np.array(True)}
    path = save(tmp_path / "net.onnx", nodes, values, ["z0", "z1"], opset=opset)
    bundle = export(path, None, tmp_path / "b.offramp")
    check(path, bundle, draw(20, 1))
    fused = onnxruntime.InferenceSession(fuse(bundle, tmp_path / "one.onnx", thresholds=[2.0]).path)
    expected = onnxruntime.InferenceSession(path).run(["z1"], {"x": draw(1)})[0]
    assert np.allclose(fused.run(["logits"], {"x": draw(1)})[0], expected, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13])
def test_a_shape_read_before_the_cut_is_not_wrong_behind_it(opset, tmp_path):
    """The batch size is read from the input in the first stage, calculated with, and used in the last one."""
    a, h0, h1 = weights((16, 16), (16, CLASSES), (16, CLASSES))
    unsqueeze = {"axes": [0]} if opset < 13 else {}
    more = [] if opset < 13 else ["zero"]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"], axis=0),
        helper.make_node("Mul", ["n", "two"], ["twice"]),
        helper.make_node("Unsqueeze", ["twice", *more], ["rows"], **unsqueeze),
        helper.make_node("Concat", ["rows", "eight"], ["half"], axis=0),
        helper.make_node("MatMul", ["x", "A"], ["y"]),
        helper.make_node("MatMul", ["y", "H0"], ["z0"]),
        helper.make_node("Reshape", ["y", "half"], ["r"]),
        helper.make_node("Tanh", ["r"], ["t"]),
        helper.make_node("Unsqueeze", ["n", *more], ["back_rows"], **unsqueeze),
        helper.make_node("Concat", ["back_rows", "sixteen"], ["back"], axis=0),
        helper.make_node("Reshape", ["t", "back"], ["s"]),
        helper.make_node("MatMul", ["s", "H1"], ["z1"]),
    ]
    values = {
        "A": a,
        "H0": h0,
        "H1": h1,
        "first": np.array(0),
        "two": np.array(2),
        "eight": np.array([8]),
        "sixteen": np.array([16]),
        "zero": np.array([0]),
    }
    path = save(tmp_path / "net.onnx", nodes, values, ["z0", "z1"], opset=opset)
    bundle = export(path, None, tmp_path / "b.offramp")
    check(path, bundle, draw(20, 1))
    assert [tensor.shape for tensor in bundle.variant().stages[1].inputs] == [(None, 16)]


def test_a_quantised_graph_is_cut_at_its_quantised_tensors(tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    x = np.random.default_rng(1).standard_normal((20, 3, 12, 12)).astype(np.float32)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = iter([{"x": x[i : i + 1]} for i in range(10)])

        def get_next(self):
            return next(self.rows, None)

    quantize_static(
        write_convolutions(tmp_path / "float.onnx"),
        tmp_path / "int8.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )
    bundle = export(tmp_path / "int8.onnx", x[:3], tmp_path / "b.offramp")
    variant = bundle.variant()
    assert (variant.name, variant.precision) == ("int8", "int8")
    (boundary,) = variant.stages[1].inputs
    assert (boundary.dtype, boundary.shape) == ("uint8", (None, 8, 12, 12))
    folder = bundle.path / variant.folder
    stages = [onnx.load(folder / stage.file, load_external_data=False).graph.node for stage in variant.stages]
    assert any(node.op_type == "QuantizeLinear" and boundary.name in node.output for node in stages[0])
    assert all(node.op_type == "DequantizeLinear" for node in stages[1] if boundary.name in node.input)
    assert variant.stages[1].macs > 2 * 8 * 8 * 9 * 144  # quantised products are counted too
    check(tmp_path / "int8.onnx", bundle, x, tolerance=0.05)
    fused = onnxruntime.InferenceSession(fuse(bundle, tmp_path / "one.onnx", thresholds=[2.0]).path)
    with load_uncalibrated(bundle, logits=True) as net:
        ours, theirs = net(x[0]), fused.run(None, {"x": x[:1]})
        assert ours.label == theirs[0][0] and np.allclose(ours.logits, theirs[3][0], rtol=0.05, atol=0.05)


def test_a_value_that_only_a_later_stage_quantises_is_quantised_before_it_crosses(tmp_path):
    a, h0, h1 = weights((16, 16), (16, CLASSES), (16, CLASSES))
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["y"]),
        helper.make_node("MatMul", ["y", "H0"], ["z0"]),
        helper.make_node("QuantizeLinear", ["y", "scale", "point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["d"]),
        helper.make_node("MatMul", ["d", "A"], ["e"]),
        helper.make_node("MatMul", ["e", "H1"], ["z1"]),
    ]
    values = {"A": a, "H0": h0, "H1": h1, "scale": np.array(0.05, np.float32), "point": np.array(128, np.uint8)}
    bundle = export(save(tmp_path / "net.onnx", nodes, values, ["z0", "z1"]), None, tmp_path / "b.offramp")
    assert [(t.name, t.dtype) for t in bundle.variant().stages[1].inputs] == [("q", "uint8")]


def test_weights_that_are_dequantised_are_repeated_not_passed(tmp_path):
    a, h0 = weights((16, 16), (16, CLASSES))
    nodes = [
        helper.make_node("DequantizeLinear", ["W", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("MatMul", ["y", "H0"], ["z0"]),
        helper.make_node("MatMul", ["y", "w"], ["t"]),
        helper.make_node("MatMul", ["t", "H0"], ["z1"]),
    ]
    values = {"W": np.round(a * 50).astype(np.int8), "scale": np.array(0.02, np.float32), "H0": h0}
    path = save(tmp_path / "net.onnx", nodes, values, ["z0", "z1"])
    bundle = export(path, None, tmp_path / "b.offramp")
    assert [t.name for t in bundle.variant().stages[1].inputs] == ["y"]
    check(path, bundle, draw(20, 1), tolerance=0.05)


def recurrent(path, *, axes=("T", "N", 6)):
    """A GRU over (time, batch, 6) with an exit on its last state, and one more layer and exit."""
    rng = np.random.default_rng(0)
    values = {
        "W": rng.standard_normal((1, 24, 6)),
        "R": rng.standard_normal((1, 24, 8)),
        "W2": rng.standard_normal((1, 24, 8)),
    }
    values |= {"H0": rng.standard_normal((8, CLASSES)), "H1": rng.standard_normal((8, CLASSES))}
    nodes = [
        helper.make_node("GRU", ["x", "W", "R"], ["all", "last"], hidden_size=8),
        helper.make_node("Squeeze", ["last", "zero"], ["state"]),
        helper.make_node("MatMul", ["state", "H0"], ["z0"]),
        helper.make_node("Squeeze", ["all", "one"], ["steps"]),
        helper.make_node("GRU", ["steps", "W2", "R"], ["all2", "last2"], hidden_size=8),
        helper.make_node("Squeeze", ["last2", "zero"], ["state2"]),
        helper.make_node("MatMul", ["state2", "H1"], ["z1"]),
    ]
    values = {k: v.astype(np.float32) for k, v in values.items()} | {"zero": np.array([0]), "one": np.array([1])}
    return save(path, nodes, values, ["z0", "z1"], inputs=[helper.make_tensor_value_info("x", FLOAT, list(axes))])


def test_the_batch_axis_is_the_one_called_like_that_of_the_exits(tmp_path):
    path = recurrent(tmp_path / "net.onnx")
    bundle = export(path, None, tmp_path / "b.offramp")
    assert bundle.manifest.inputs[0].shape == ("T", None, 6)
    assert [t.shape[1:] for t in bundle.variant().stages[1].inputs] == [(1, None, 8)]
    session = onnxruntime.InferenceSession(path)
    with load_uncalibrated(bundle, logits=True) as net:
        for length, batch in [(16, 1), (5, 4), (1, 2), (33, 16)]:
            x = np.random.default_rng(length).standard_normal((length, batch, 6)).astype(np.float32)
            expected = np.stack(session.run(None, {"x": x}), 1)
            assert np.allclose(net.every_exit(x, size=batch).logits, expected, atol=1e-5)
            assert np.allclose(net(x[:, 0]).logits, expected[0, -1], atol=1e-5)


def test_axes_can_be_given_where_the_file_does_not_say(tmp_path):
    path = recurrent(tmp_path / "net.onnx", axes=(None, None, 6))
    bundle = export(path, None, tmp_path / "b.offramp", axes=("time", "batch", None))
    assert bundle.manifest.inputs[0].shape == ("time", None, 6)
    with pytest.raises(ModelError, match="axis 6 .*|fixed to 6"):
        export(path, None, tmp_path / "c.offramp", axes=("time", "batch", "features"))
    with pytest.raises(ModelError, match="is dynamic: give it a name in axes"):
        export(path, None, tmp_path / "c.offramp", axes=(None, "batch", None))


def test_several_inputs_by_name_or_in_order(tmp_path):
    a, b, h = weights((16, 16), (4, 16), (16, CLASSES))
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["y"]),
        helper.make_node("MatMul", ["y", "H"], ["z0"]),
        helper.make_node("MatMul", ["side", "B"], ["w"]),
        helper.make_node("Add", ["y", "w"], ["s"]),
        helper.make_node("MatMul", ["s", "H"], ["z1"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, ["N", 16]),
        helper.make_tensor_value_info("side", FLOAT, ["N", 4]),
    ]
    path = save(tmp_path / "net.onnx", nodes, {"A": a, "B": b, "H": h}, ["z0", "z1"], inputs=inputs)
    example = {"side": draw(3)[:, :4], "x": draw(3)}
    for given in (None, example, (example["x"], example["side"])):
        bundle = export(path, given, tmp_path / "b.offramp")
        assert [t.name for t in bundle.manifest.inputs] == ["x", "side"]
        assert [[t.name for t in s.inputs] for s in bundle.variant().stages] == [["x"], ["side", "y"]]
    with load_uncalibrated(bundle) as net:
        net.thresholds = [0.5]
        x, side = draw(40, 1), draw(40, 2)[:, :4]
        batch, single = net.batch((x, side)), [net({"x": a, "side": b}) for a, b in zip(x, side, strict=True)]
        assert batch.exit.tolist() == [r.exit for r in single] and len(set(batch.exit)) == 2
        for wrong in (x, (x,), {"x": x}, {"x": x, "sid": side}, (x[:3], side)):
            with pytest.raises(DataError):
                net.batch(wrong)
    with pytest.raises(UsageError, match="The example is for the inputs x"):
        export(path, {"x": draw(3)}, tmp_path / "c.offramp")
    with pytest.raises(DataError, match="1 inputs"):
        export(path, draw(3), tmp_path / "c.offramp")


def test_outputs_that_are_no_exits_are_left_out(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("a1", FLOAT, ["N", 16]))
    model.graph.node.append(helper.make_node("ArgMax", ["z2"], ["best"], axis=-1))
    model.graph.output.append(helper.make_tensor_value_info("best", INT64, ["N", 1]))
    onnx.save(model, path)
    with pytest.raises(ModelError, match="differ in their number|int64"):
        export(path, None, tmp_path / "b.offramp")
    bundle = export(path, None, tmp_path / "b.offramp", exits=["z0", "z2"])
    assert [e.name for e in bundle.variant().exits] == ["z0", "z2"]
    assert bundle.variant().files["weights.bin"].bytes < (tmp_path / "net.onnx").stat().st_size - 16 * CLASSES * 4


def test_a_file_whose_sample_is_fixed_to_one_is_run_in_batches(tmp_path):
    path = write_onnx(tmp_path / "net.onnx", batch=1)
    bundle = export(path, None, tmp_path / "b.offramp")
    assert bundle.manifest.inputs[0].shape == (None, 16) and bundle.manifest.captured == "onnx"


def test_a_graph_that_was_cut_before_is_cut_again(tmp_path):
    path = recurrent(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("Shape", ["x"], ["offramp.batch_size"]))
    model.graph.node.insert(1, helper.make_node("Reshape", ["x", "offramp.batch_size"], ["again"]))
    model.graph.node[2].input[0] = "again"
    onnx.save(model, path)
    bundle = export(path, None, tmp_path / "b.offramp")
    whole = bundle.path / bundle.variant().folder / "whole.onnx"
    again = export(whole, None, tmp_path / "c.offramp", exits=["z0.logits", "z1.logits"])
    x = np.random.default_rng(0).standard_normal((5, 4, 6)).astype(np.float32)
    one, two = (load_uncalibrated(b, logits=True).every_exit(x, size=4).logits for b in (bundle, again))
    assert np.allclose(one, two, atol=1e-6)


def test_weights_that_are_constant_nodes_are_stored_once(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    for tensor in tensors:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    onnx.save(model, path)
    files = export(path, None, tmp_path / "b.offramp").variant().files
    assert files["weights.bin"].bytes == 4 * 3 * (16 * 16 + 16 * CLASSES)


def test_files_that_cannot_be_cut_say_why(tmp_path):
    for change, words in (
        (lambda m: m.opset_import[0].__setattr__("version", 9), "has opset 9, but 11 or newer"),
        (lambda m: m.graph.ClearField("input"), "has no inputs|not an ONNX file"),
    ):
        model = onnx.load(write_onnx(tmp_path / "net.onnx"))
        change(model)
        onnx.save(model, tmp_path / "net.onnx")
        with pytest.raises(ModelError, match=words):
            export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")


def test_nodes_may_stand_in_any_order(tmp_path):
    model = onnx.load(write_onnx(tmp_path / "net.onnx"))
    nodes = list(model.graph.node)[::-1]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "net.onnx")
    bundle = export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")
    check(tmp_path / "net.onnx", bundle, draw(40), names=("z0", "z1", "z2"))


def test_random_numbers_are_told_from_a_mix_of_samples(tmp_path):
    a, h0, h1 = weights((16, 16), (16, CLASSES), (16, CLASSES))
    nodes = [
        helper.make_node("MatMul", ["x", "H0"], ["z0"]),
        helper.make_node("MatMul", ["x", "A"], ["a"]),
        helper.make_node("RandomNormalLike", ["a"], ["noise"], seed=1.0),
        helper.make_node("Add", ["a", "noise"], ["b"]),
        helper.make_node("MatMul", ["b", "H1"], ["z1"]),
    ]
    path = save(tmp_path / "net.onnx", nodes, {"A": a, "H0": h0, "H1": h1}, ["z0", "z1"])
    with pytest.raises(ModelError, match="z1 differs between two runs on the same samples: the network draws random"):
        export(path, None, tmp_path / "b.offramp")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="is no regular file"):
        export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")


def test_an_index_outside_a_table_is_an_error_of_the_data(tmp_path):
    table, h0, h1 = weights((10, 16), (16, CLASSES), (16, CLASSES))
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["y"]),
        helper.make_node("MatMul", ["y", "H0"], ["z0"]),
        helper.make_node("Tanh", ["y"], ["t"]),
        helper.make_node("MatMul", ["t", "H1"], ["u"]),
        helper.make_node("MatMul", ["u", "S"], ["z1"]),
    ]
    values = {"table": table, "H0": h0, "H1": h1, "S": np.eye(CLASSES, dtype=np.float32)}
    x = helper.make_tensor_value_info("x", INT64, ["N"])
    path = save(tmp_path / "net.onnx", nodes, values, ["z0", "z1"], inputs=[x])
    with pytest.raises(ModelError, match=r"does not run on the example of shape \(3,\)"):
        export(path, np.array([0, 99, 1]), tmp_path / "b.offramp")
    with load_uncalibrated(export(path, np.arange(3), tmp_path / "b.offramp")) as net:
        for call in (lambda x: net(x[0]), net.batch, net.every_exit):
            with pytest.raises(DataError, match="holds 99 in x, which is an index into 10 rows: 0 to 9"):
                call(np.array([99]))
        assert net(np.array(3)).exit == 1


def test_a_quantised_residual_network_may_be_as_far_off_as_its_engine_is_from_itself(tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    model = onnx.load(write_convolutions(tmp_path / "float.onnx"))
    last = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "r2")
    model.graph.node[last].output[0] = "r2.own"
    model.graph.node.insert(last + 1, helper.make_node("Add", ["r2.own", "r1"], ["r2"]))
    onnx.save(model, tmp_path / "float.onnx")
    x = np.random.default_rng(1).standard_normal((20, 3, 12, 12)).astype(np.float32)

    class Reader(CalibrationDataReader):
        rows = iter([{"x": x[i : i + 1]} for i in range(6)])

        def get_next(self):
            return next(self.rows, None)

    quantize_static(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True
    )
    bundle = export(tmp_path / "int8.onnx", x[:3], tmp_path / "b.offramp")
    assert {t.dtype for t in bundle.variant().stages[1].inputs} <= {"uint8", "int8"}
    assert bundle.variant().precision == "int8"


def test_what_is_no_tensor_is_refused_or_left_out(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("SequenceConstruct", ["z0", "z1"], ["all"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("all", FLOAT, None))
    onnx.save(model, path)
    assert [e.name for e in export(path, None, tmp_path / "b.offramp").variant().exits] == ["z0", "z1", "z2"]
    model = onnx.load(write_onnx(path))
    model.graph.input.append(helper.make_tensor_sequence_value_info("many", FLOAT, None))
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"input many .* is a seq\(tensor\(float\)\), not a tensor"):
        export(path, None, tmp_path / "c.offramp")


def test_sparse_weights_are_refused(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    (dense,) = [t for t in model.graph.initializer if t.name == "h2"]
    model.graph.initializer.remove(dense)
    values = numpy_helper.from_array(np.ones(3, np.float32), "h2")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 7, 70]), "h2.at"), [16, CLASSES])
    )
    onnx.save(model, path)
    with pytest.raises(ModelError, match="has sparse weights"):
        export(path, None, tmp_path / "b.offramp")


def test_the_work_of_a_recurrent_layer_counts_where_its_sequence_is_not_read(tmp_path):
    w, r, a, b, c = weights((1, 24, 4), (1, 24, 8), (8, CLASSES), (8, 8), (8, CLASSES))
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["steps", "W", "R"], ["", "last"], hidden_size=8),
        helper.make_node("Squeeze", ["last", "zero"], ["state"]),
        helper.make_node("MatMul", ["state", "A"], ["z0"]),
        helper.make_node("MatMul", ["state", "B"], ["u"]),
        helper.make_node("Tanh", ["u"], ["v"]),
        helper.make_node("MatMul", ["v", "C"], ["z1"]),
    ]
    arrays = {"W": w, "R": r, "A": a, "B": b, "C": c, "zero": np.array([0], np.int64)}
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["N", 7, 4])]
    path = save(tmp_path / "gru.onnx", nodes, arrays, ["z0", "z1"], inputs=inputs)
    first = export(path, None, tmp_path / "b.offramp").variant().stages[0]
    assert first.macs == 7 * 24 * (4 + 8) + 8 * CLASSES


@pytest.mark.parametrize(
    ("name", "dtype", "samples"),
    [("x", "float32", draw(5).astype(np.float64)), ("ids", "int64", np.arange(5 * 16, dtype=np.int32).reshape(5, 16))],
)
def test_samples_of_an_array_file_fit_as_they_would_in_a_bundle(name, dtype, samples, tmp_path):
    """Under the input's name or as x, in any size of the input's kind of number; another kind is refused, and says why."""
    (a, b, h), kind = weights((16, 16), (16, CLASSES), (16, CLASSES)), FLOAT if dtype == "float32" else INT64
    nodes = [
        helper.make_node("Cast", [name], ["f"], to=FLOAT),
        helper.make_node("MatMul", ["f", "b"], ["z0"]),
        helper.make_node("MatMul", ["f", "a"], ["y"]),
        helper.make_node("MatMul", ["y", "h"], ["z1"]),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, ["N", 16])]
    path = save(tmp_path / "net.onnx", nodes, {"a": a, "b": b, "h": h}, ["z0", "z1"], inputs=inputs)
    for key in ("x", name):
        x, y = load_samples({key: samples, "y": np.arange(5)})
        assert y is not None and y.tolist() == [0, 1, 2, 3, 4]
        bundle = export(path, x, tmp_path / "b.offramp")
        assert bundle.manifest.inputs[0].dtype == dtype
    with pytest.raises(UsageError, match=f"inputs images; .* has {name}. Name the arrays like the inputs, or x"):
        export(path, load_samples({"images": samples, "y": np.arange(5)})[0], tmp_path / "b.offramp")
    for other in ("uint8", "float16") if dtype == "int64" else ("uint8",):
        with pytest.raises(DataError, match=rf"takes {dtype} for {name}, not {other}\. .*astype\(np\.{dtype}\)"):
            export(path, samples.astype(other), tmp_path / "b.offramp")
    with pytest.raises(DataError, match=r"has the shape \(5, 15\); the network takes \(N, 16\)"):
        export(path, samples[:, :15], tmp_path / "b.offramp")
