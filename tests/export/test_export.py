import numpy as np
import onnx
import pytest
import torch
from msgspec.structs import replace

from offramp.bundle import open_bundle
from offramp.errors import CheckError, DataError, MissingError, ModelError, UsageError
from offramp.export import Preprocess, export
from offramp.export.capture.onnx_file import OnnxFile
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import write_onnx


def test_nothing_of_the_workstation_is_written(zoo):
    _, bundle, _ = zoo("plain")
    for name in bundle.variant().files:
        content = (bundle.path / bundle.variant().folder / name).read_bytes()
        assert b".py" not in content and b"stack_trace" not in content


def test_the_mode_of_the_network_is_left_alone(tmp_path):
    net = networks.build(networks.Plain).train()
    net.heads[0].eval()
    export(net, networks.samples(1), tmp_path / "b.offramp")
    assert net.training and net.parts[0].training and not net.heads[0].training


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (networks.Branches, "branch that depends on the values"),
        (networks.Swapped, "not in order: exit0 .* sort=True"),
        (networks.Twice, "exit0 and exit1 take the same work"),
        (lambda: torch.nn.Flatten(), "1 exit; early exit needs at least two"),
        (lambda: networks.Plain(1), "needs at least two"),
    ],
)
def test_what_is_no_multi_exit_network_is_refused_and_nothing_is_left(kind, words, tmp_path):
    with pytest.raises(ModelError, match=words):
        export(kind().eval(), networks.samples(2), tmp_path / "b.offramp")
    assert not (tmp_path / "b.offramp").exists()


def test_a_wrong_example_says_its_shape(tmp_path):
    with pytest.raises(ModelError, match=r"\(3, 5, 16, 16\)"):
        export(networks.build(networks.Plain), np.zeros((1, 5, 16, 16), np.float32), tmp_path / "b.offramp")
    with pytest.raises(DataError, match="NaN"):
        export(networks.build(networks.Plain), np.full((1, *networks.SHAPE), np.nan), tmp_path / "b.offramp")


def test_an_unknown_rule_names_the_nearest(tmp_path, dense_onnx):
    with pytest.raises(UsageError, match="Did you mean 'max_softmax'"):
        export(dense_onnx, None, tmp_path / "b.offramp", rule="maxsoftmax")


def test_the_score_is_the_largest_softmax_probability(dense):
    x = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    answers = load_uncalibrated(dense, logits=True).every_exit(x)
    p = np.exp(answers.logits - answers.logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    assert np.allclose(answers.score, p.max(-1), atol=1e-6)
    assert (answers.label == p.argmax(-1)).all()


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("batch", ["N", 1])
def test_onnx_files_of_old_and_new_opsets_and_fixed_batch_are_cut(tmp_path, opset, batch):
    path = write_onnx(tmp_path / "net.onnx", opset=opset, batch=batch)
    bundle = export(path, None, tmp_path / "b.offramp")
    x = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)
    chain = load_uncalibrated(bundle)
    assert (chain.every_exit(x, size=6).label == chain.every_exit(x).label).all()
    assert [stage.macs for stage in bundle.variant().stages] == [16 * 16 + 16 * 5] * 3


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_give_float32_scores(tmp_path, dtype):
    path = write_onnx(tmp_path / "net.onnx", dtype=dtype)
    x = np.random.default_rng(0).standard_normal((5, 16)).astype(dtype)
    answers = load_uncalibrated(export(path, None, tmp_path / "b.offramp"), logits=True).every_exit(x)
    assert answers.score.dtype == answers.logits.dtype == np.float32


def test_a_network_that_mixes_the_samples_of_a_batch_is_refused(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node.insert(3, onnx.helper.make_node("ReduceMax", ["a0"], ["top"], axes=[0], keepdims=1))
    model.graph.node.insert(4, onnx.helper.make_node("Sub", ["a0", "top"], ["r0"]))
    model.graph.node[5].input[0] = "r0"
    onnx.save(model, path)
    with pytest.raises(CheckError, match="mixes the samples of a batch"):
        export(path, None, tmp_path / "b.offramp")


def test_a_file_fixed_to_some_batch_or_with_whole_number_outputs_is_refused(tmp_path):
    with pytest.raises(ModelError, match="fixed to batches of 4"):
        export(write_onnx(tmp_path / "four.onnx", batch=4), None, tmp_path / "b.offramp")
    model = onnx.load(write_onnx(tmp_path / "one.onnx", batch=1))
    shape = onnx.numpy_helper.from_array(np.array([1, 16]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["x", "shape"], ["flat"], "flatten"))
    model.graph.node[1].input[0] = "flat"
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(ModelError, match=r"one.onnx is fixed to batches of 1, and so are .*flatten.*dynamic_shapes="):
        export(tmp_path / "one.onnx", None, tmp_path / "b.offramp")
    model = onnx.load(write_onnx(tmp_path / "net.onnx"))
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["z2"], ["best"], axis=-1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("best", onnx.TensorProto.INT64, ["N", 1]))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"Output best .*int64.*exits="):
        export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")


def test_the_order_is_checked_where_multiplies_are_not_counted(tmp_path):
    model = onnx.load(write_onnx(tmp_path / "net.onnx"))
    for node in model.graph.node:
        if node.op_type == "MatMul":
            node.op_type = "Einsum"
            node.attribute.append(onnx.helper.make_attribute("equation", "...j,jk->...k"))
    onnx.save(model, tmp_path / "net.onnx")
    export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")
    outputs = list(model.graph.output)[::-1]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    onnx.save(model, tmp_path / "swapped.onnx")
    with pytest.raises(ModelError, match="not in order"):
        export(tmp_path / "swapped.onnx", None, tmp_path / "c.offramp")


def test_an_input_that_is_called_like_ours_and_the_other_default_domain_are_cut(tmp_path):
    model = onnx.load(write_onnx(tmp_path / "net.onnx"))
    model.graph.input[0].name = model.graph.node[0].input[0] = "z0.logits"
    model.opset_import[0].domain = "ai.onnx"
    onnx.save(model, tmp_path / "net.onnx")
    assert export(tmp_path / "net.onnx", None, tmp_path / "b.offramp").manifest.inputs[0].name == "z0.logits_"


def test_a_network_that_works_in_place_leaves_the_golden_samples_alone(tmp_path):
    class InPlace(networks.Plain):
        def forward(self, x):
            return super().forward(x.mul_(0.5).add_(1))

    x = networks.samples(3)
    bundle = export(networks.build(InPlace), x.copy(), tmp_path / "b.offramp")
    with np.load(bundle.path / bundle.variant().folder / "golden.npz") as golden:
        assert (golden["input0"] == x).all()


def test_weights_listed_among_the_inputs_are_no_inputs(tmp_path):
    bundle = export(write_onnx(tmp_path / "net.onnx", old=True), None, tmp_path / "b.offramp")
    assert [tensor.name for tensor in bundle.manifest.inputs] == ["x"]
    assert bundle.variant().files["weights.bin"].bytes == 4 * 3 * (16 * 16 + 16 * 5)


def test_an_onnx_file_with_external_data_is_cut(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert export(path, None, tmp_path / "b.offramp").manifest.classes == 5
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match=r"net\.onnx is not an ONNX file .* weights in net\.data, which is missing"):
        export(path, None, tmp_path / "c.offramp")


def test_a_value_that_is_called_like_ours_is_renamed(tmp_path):
    path = write_onnx(tmp_path / "net.onnx", clash=True)
    variant = export(path, None, tmp_path / "b.offramp").variant()
    assert variant.exits[0].score == "z0.score" and variant.stages[0].outputs[0].name == "z0.score_"


def test_an_onnx_graph_fixed_to_one_sample_inside_is_refused(tmp_path):
    path = write_onnx(tmp_path / "net.onnx", batch=1)
    model = onnx.load(path)
    shape = onnx.numpy_helper.from_array(np.array([1, 16]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(3, onnx.helper.make_node("Reshape", ["a0", "shape"], ["r0"]))
    model.graph.node[4].input[0] = "r0"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="dynamic batch"):
        export(path, None, tmp_path / "b.offramp")


def test_a_text_file_named_onnx_is_refused(tmp_path):
    (tmp_path / "net.onnx").write_text("not a network")
    with pytest.raises(ModelError, match="not an ONNX file") as raised:
        export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")
    assert raised.value.path == tmp_path / "net.onnx"


def test_a_chain_that_differs_from_the_original_is_not_written(tmp_path, dense_onnx, monkeypatch):
    capture = OnnxFile.capture

    def wrong(*arguments, **options):
        captured = capture(*arguments, **options)
        return replace(
            captured, reference=lambda x: [{"logits": parts["logits"] + 1e-4} for parts in captured.reference(x)]
        )

    monkeypatch.setattr(OnnxFile, "capture", wrong)
    with pytest.raises(CheckError, match="Nothing was written"):
        export(dense_onnx, None, tmp_path / "b.offramp")
    assert not (tmp_path / "b.offramp").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_network_is_looked_at(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        export(torch.nn.Flatten(), networks.samples(1), tmp_path / "taken")


def test_a_failed_export_leaves_the_old_bundle(dense, tmp_path):
    with pytest.raises(ModelError):
        export(torch.nn.Flatten(), networks.samples(1), dense.path)
    assert open_bundle(dense.path).manifest == dense.manifest


@pytest.mark.parametrize("example", [[], {}, [[[1.0, 2.0], [3.0]]]])
def test_an_example_that_is_no_array_is_refused(tmp_path, example):
    with pytest.raises(DataError, match="The example is"):
        export(networks.build(networks.Plain), example, tmp_path / "b.offramp")


def test_a_path_that_the_system_refuses_is_named(tmp_path):
    with pytest.raises(MissingError, match="File name too long"):
        export("n" * 300 + ".onnx", None, tmp_path / "b.offramp")


def test_settings_may_be_numbers_and_texts_of_numpys(tmp_path):
    numbers = np.float32([0.5, 0.25, 0.125])
    settings = {
        "preprocess": Preprocess(mean=tuple(numbers), std=tuple(numbers.astype(np.float64))),
        "class_names": np.array([f"class {k}" for k in range(networks.CLASSES)]),
        "exits": np.array(["exit0", "exit2"]),
        "temperatures": np.float32([1.5, 2.5]),
    }
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    bundle = export(networks.build(networks.Plain), images, tmp_path / "b.offramp", **settings)
    assert bundle.manifest.preprocess == Preprocess(mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 0.125))
    assert bundle.manifest.class_names is not None and bundle.manifest.class_names[1] == "class 1"
    assert [end.temperature for end in bundle.variant().exits] == [1.5, 2.5]
