"""ONNX files of others with sequences, optionals and functions, and files whose batch is fixed inside."""

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from offramp.errors import ModelError
from offramp.export import export, fuse
from offramp.export.graph.shapes import is_tensor
from offramp.tests.export.capture.test_onnx_file import check, draw, save, weights
from offramp.tests.zoo.dense import CLASSES

NODE, FLOAT = helper.make_node, TensorProto.FLOAT
HEAD = [NODE("MatMul", ["x", "A"], ["y"]), NODE("MatMul", ["y", "H0"], ["z0"])]
TAIL = [NODE("MatMul", ["t", "B"], ["u"]), NODE("MatMul", ["u", "H1"], ["z1"])]


def write(path, middle, *, head=HEAD, tail=TAIL, outputs=("z0", "z1"), opset=15, batch="N", **more):
    """Write two exits with some nodes between them, y -> t."""
    names = ("A", "B", "H0", "H1", "first", "zero", "one", "sixteen", "halves", "three", "yes")
    a, b, h0, h1 = weights((16, 16), (16, 16), (16, CLASSES), (16, CLASSES))
    first, zero, one = np.array(0), np.array([0]), np.array([1])
    sixteen, halves, three = np.array([16]), np.array([8, 8]), np.array(3)
    values = dict(zip(names, (a, b, h0, h1, first, zero, one, sixteen, halves, three, np.array(True)), strict=True))
    x = helper.make_tensor_value_info("x", FLOAT, [batch, 16])
    path = save(path, [*head, *middle, *tail], values | more, outputs, inputs=[x], opset=opset)
    model = onnx.load(path)
    for output in model.graph.output:
        if batch == 1:
            output.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    return path


def loop_body():
    state = [helper.make_tensor_sequence_value_info(name, FLOAT, None) for name in ("s_in", "s_out")]
    going = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("going", "still")]
    trip = helper.make_tensor_value_info("trip", TensorProto.INT64, [])
    nodes = [NODE("Identity", ["going"], ["still"]), NODE("SequenceInsert", ["s_in", "y"], ["s_out"])]
    return helper.make_graph(nodes, "body", [trip, going[0], state[0]], [going[1], state[1]])


JOIN = [
    NODE("ConcatFromSequence", ["s"], ["joined"], axis=1),
    NODE("Slice", ["joined", "zero", "sixteen", "one"], ["t"]),
]
WITHIN = {
    "construct": [NODE("SequenceConstruct", ["y", "y"], ["s"]), *JOIN],
    "split": [
        NODE("SplitToSequence", ["y", "halves"], ["s"], axis=1),
        NODE("ConcatFromSequence", ["s"], ["t"], axis=1),
    ],
    "insert": [
        NODE("SequenceEmpty", [], ["e"]),
        NODE("SequenceInsert", ["e", "y"], ["s"]),
        NODE("SequenceAt", ["s", "first"], ["t"]),
    ],
    "loop": [NODE("SequenceEmpty", [], ["e"]), NODE("Loop", ["three", "yes", "e"], ["s"], body=loop_body()), *JOIN],
    "optional": [NODE("Optional", ["y"], ["o"]), NODE("OptionalGetElement", ["o"], ["t"])],
}


@pytest.mark.parametrize("middle", WITHIN.values(), ids=WITHIN)
def test_sequences_and_optionals_within_a_stage_are_kept(middle, tmp_path):
    path = write(tmp_path / "net.onnx", middle)
    bundle = export(path, None, tmp_path / "b.offramp")
    check(path, bundle, draw(20, 1))
    assert bundle.variant().stages[1].macs == 16 * 16 + 16 * CLASSES
    fuse(bundle, tmp_path / "one.onnx", thresholds=[2.0])


def test_a_sequence_that_crosses_an_exit_is_refused_by_its_node(tmp_path):
    head = [
        NODE("MatMul", ["x", "A"], ["y"]),
        NODE("SequenceConstruct", ["y"], ["s"], "collect"),
        NODE("SequenceAt", ["s", "first"], ["c"]),
        NODE("MatMul", ["c", "H0"], ["z0"]),
    ]
    path = write(tmp_path / "net.onnx", [NODE("SequenceAt", ["s", "first"], ["t"])], head=head)
    with pytest.raises(ModelError, match="s crosses an exit, but it is a sequence") as raised:
        export(path, None, tmp_path / "b.offramp")
    assert raised.value.nodes == ("collect",)


@pytest.mark.parametrize("exits", [None, ["z0", "all"]], ids=["only output", "named"])
def test_logits_in_a_sequence_are_refused_by_its_name(exits, tmp_path):
    path = write(tmp_path / "net.onnx", [NODE("Identity", ["y"], ["t"])])
    model = onnx.load(path)
    model.graph.node.append(NODE("SequenceConstruct", ["z0", "z1"], ["all"]))
    if exits is None:
        del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_sequence_value_info("all", FLOAT, None))
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"one tensor, but all is seq\(tensor\(float\)\)"):
        export(path, None, tmp_path / "b.offramp", exits=exits)


def test_a_function_of_another_operator_set_is_named_and_can_be_converted_as_the_message_says(tmp_path):
    path = write(tmp_path / "net.onnx", [NODE("Centred", ["y"], ["t"], domain="own")])
    model = onnx.load(path)
    body = [NODE("ReduceSum", ["a"], ["s"], axes=[1], keepdims=1), NODE("Sub", ["a", "s"], ["b"])]
    model.functions.append(helper.make_function("own", "Centred", ["a"], ["b"], body, [helper.make_opsetid("", 11)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    with pytest.raises(ModelError, match="functions Centred are written in another operator set than the file"):
        export(path, None, tmp_path / "b.offramp")
    typed = onnx.shape_inference.infer_shapes(onnx.load(path))
    onnx.save(onnx.inliner.inline_local_functions(typed, convert_version=True), path)
    check(path, export(path, None, tmp_path / "b.offramp"), draw(20, 1))


FIXED = {
    "between the exits": {"middle": [NODE("Reshape", ["y", "flat"], ["t"], "flatten")]},
    "behind the last cut": {
        "middle": [NODE("MatMul", ["y", "B"], ["u"]), NODE("Reshape", ["u", "flat"], ["v"], "flatten")],
        "tail": [NODE("MatMul", ["v", "H1"], ["z1"])],
    },
    "without an error": {
        "middle": [NODE("Reshape", ["y", "flat"], ["v"]), NODE("ReduceSum", ["v", "one"], ["w"])],
        "tail": [NODE("MatMul", ["w", "narrow"], ["wide"]), NODE("MatMul", ["wide", "H1"], ["z1"], "last")],
    },
}


@pytest.mark.parametrize("parts", FIXED.values(), ids=FIXED)
def test_a_file_of_one_sample_with_a_shape_fixed_inside_is_told_so(parts, tmp_path):
    path = write(tmp_path / "net.onnx", batch=1, flat=np.array([1, -1]), narrow=np.ones((1, 16), np.float32), **parts)
    with pytest.raises(ModelError, match="fixed to batches of 1, .*Export it with a dynamic batch axis") as raised:
        export(path, None, tmp_path / "b.offramp")
    assert raised.value.nodes


def test_a_dynamic_file_with_a_shape_fixed_inside_is_told_so(tmp_path):
    path = write(tmp_path / "net.onnx", [NODE("Reshape", ["y", "flat"], ["t"])], flat=np.array([1, -1]))
    with pytest.raises(ModelError, match="runs on one sample, but not on several"):
        export(path, None, tmp_path / "b.offramp")


@pytest.mark.parametrize(("first", "answer"), [("Relu", True), ("SequenceConstruct", False)])
def test_a_value_that_is_handed_on_a_thousand_times_is_what_it_was(first, answer):
    value = ir.node(first, [ir.val("x")]).outputs[0]
    for _ in range(1200):
        value = ir.node("Identity", [value]).outputs[0]
    assert is_tensor(value) is answer


def test_the_same_file_exported_twice_gives_the_same_bytes(tmp_path):
    path = write(tmp_path / "net.onnx", WITHIN["split"])
    first, second = (export(path, None, tmp_path / f"{k}.offramp").variant().files for k in range(2))
    assert first == second
