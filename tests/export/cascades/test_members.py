"""Members by other exporters, in other precisions, with other inputs: what each takes is made of the bundle's input."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from torch import nn

from offramp.errors import ModelError, OfframpError
from offramp.export import Member, Preprocess, cascade
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.onnx_files import convolutions, images, run, write, write_product
from offramp.tests.zoo.two_exits import build_two_exits

HALF = Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3)


def test_files_in_half_precision_and_fixed_to_one_sample_are_joined(tmp_path):
    half = write(tmp_path / "half.onnx", convolutions(4).half(), shape=(3, 24, 24))
    fixed = write(tmp_path / "fixed.onnx", convolutions(6), shape=(3, 40, 40), batch=None)
    members = [Member(half, preprocess=HALF, classes=[0, 1, 2, 3, None]), Member(fixed, preprocess=HALF)]
    bundle = cascade(members, images(3), tmp_path / "both.offramp")
    x = ((images(9) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2)
    with load_uncalibrated(bundle, logits=True) as net:
        logits = np.concatenate([run(fixed, part[None]) for part in x])
        assert np.allclose(net.every_exit(images(9)).parts(1)["logits"], logits, atol=1e-5)


def test_files_by_other_exporters_keep_their_meaning(tmp_path):
    node, v = onnx.helper.make_node, np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    first = write_product(tmp_path / "x.onnx", ["x"])  # called like its input
    aux = write_product(tmp_path / "two.onnx", ["aux", "x"])  # lists the shared input last
    soft = write_product(
        tmp_path / "soft.onnx", ["x"], nodes=[node("Softmax", ["sum"], ["p"], axis=1), node("Identity", ["p"], ["y"])]
    )
    lstm = [
        node("Unsqueeze", ["x", "zero"], ["steps"]),
        node("LSTM", ["steps", "W", "R"], ["", "last"], hidden_size=5),
        node("LSTM", ["steps", "W", "R"], ["", "again"], hidden_size=5),
        node("Add", ["last", "again"], ["both"]),
        node("Squeeze", ["both", "zero"], ["squeezed"]),
        node("FusedMatMul", ["squeezed", "one"], ["y"], domain="com.microsoft"),
    ]
    w = [("zero", np.array([0])), ("W", np.ones((1, 20, 8), np.float32)), ("R", np.ones((1, 20, 5), np.float32))]
    unknown = write_product(
        tmp_path / "lstm.onnx", ["x"], nodes=lstm, weights=[*w, ("one", np.eye(5, dtype=np.float32))]
    )
    old = write_product(tmp_path / "old.onnx", ["x"], opset=12)
    onnx.save_model(
        onnx.load(old), tmp_path / "outside.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    members = [first, aux, Member(soft, rule="margin"), unknown, tmp_path / "outside.onnx"]
    bundle = cascade(members, {"x": v[:3], "aux": v[3:6]}, tmp_path / "all.offramp")
    assert [exit_.name for exit_ in bundle.variant().exits] == ["x_", "two", "soft", "lstm", "outside"]
    given = {"x": v, "aux": v[::-1].copy()}
    with load_uncalibrated(bundle, logits=True) as net:
        ours = net.every_exit((given["x"], given["aux"]))
    for k, path in enumerate((first, aux, soft, unknown, old)):
        session = ort.InferenceSession(path)
        expected = session.run(None, {value.name: given[value.name] for value in session.get_inputs()})[0]
        if path == soft:
            two = np.sort(expected)[:, -2:]
            assert np.allclose(ours.score[:, k], two[:, 1] - two[:, 0], atol=1e-5)
            expected = np.log(expected)
        assert np.allclose(ours.parts(k)["logits"], expected, atol=1e-4)


def test_names_are_told_apart(tmp_path):
    paths = [tmp_path / name for name in ("1/a.onnx", "2/a.onnx", "a-0.onnx", f"{'long' * 50}.onnx")]
    for opset, path in enumerate(paths, 14):
        path.parent.mkdir(exist_ok=True)
        write_product(path, ["x"], opset=opset)
    bundle = cascade(paths, np.eye(8, dtype=np.float32), tmp_path / "all.offramp")
    assert [exit_.name for exit_ in bundle.variant().exits[:3]] == ["a-1", "a-2", "a-0"]


def test_members_of_other_channels_or_dtypes_are_refused(tmp_path):
    first, second = (write(tmp_path / f"{k}.onnx", convolutions(k), shape=(3, 40, 40)) for k in (4, 5))
    gray = write(
        tmp_path / "gray.onnx", nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5)), shape=(1, 4, 4)
    )
    with pytest.raises(ModelError, match="gray takes images .1, 4, 4., the bundle images .3, 40, 40."):
        cascade([first, gray], np.zeros((3, 3, 40, 40), np.float32), tmp_path / "no.offramp")
    model = onnx.load(second)
    whole = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Cast", ["bytes"], ["pixels"], to=onnx.TensorProto.FLOAT),
                *model.graph.node,
            ],
            "whole",
            [onnx.helper.make_tensor_value_info("bytes", onnx.TensorProto.UINT8, ["n", 3, 40, 40])],
            list(model.graph.output),
            list(model.graph.initializer),
        ),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    onnx.save(whole, tmp_path / "bytes.onnx")
    with pytest.raises(ModelError, match="bytes takes UINT8, the first member FLOAT"):
        cascade([second, tmp_path / "bytes.onnx"], np.zeros((3, 3, 40, 40), np.float32), tmp_path / "no.offramp")


def test_inputs_that_do_not_fit_are_refused(tmp_path):
    plain, v = write_product(tmp_path / "plain.onnx", ["x"]), np.eye(8, dtype=np.float32)
    unread = write_product(tmp_path / "unread.onnx", ["x"])
    model = onnx.load(unread)
    model.graph.input.append(onnx.helper.make_tensor_value_info("aux", onnx.TensorProto.FLOAT, ["n", 8]))
    onnx.save(model, unread)
    for members, words in [
        ([plain, unread], "No exit of unread reads its input aux"),
        ([plain, Member(write_product(tmp_path / "b.onnx", ["x"]), bgr=True)], "are for images of floats, but b takes"),
        (
            [plain, write(tmp_path / "sixteen.onnx", build_two_exits(), shape=(16,), outputs="ab")],
            "takes .16,., the bundle .8,.",
        ),
    ]:
        with pytest.raises(OfframpError, match=words):
            cascade(members, v, tmp_path / "no.offramp")
    assert not (tmp_path / "no.offramp").exists()


def test_a_hidden_folder_is_no_member(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".offramp").mkdir()
    for name in ("a.onnx", "other.onnx"):
        write_product(tmp_path / name, ["x"])
    assert cascade(["a.onnx", "other.onnx"], np.eye(8, dtype=np.float32), "c.offramp").variant().exits[0].name == "a"
