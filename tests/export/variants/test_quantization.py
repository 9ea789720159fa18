"""Variants in lower precision: quantised as a whole, cut where values are quantised already."""

import os
import subprocess
import sys
import warnings
from unittest import TestCase

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from torch import nn

from offramp.bundle import check_bundle, open_bundle
from offramp.bundle.golden import read_golden
from offramp.errors import BundleError, DataError, ModelError, UsageError
from offramp.export import compare_variants, export, fuse, keep, quantize, train
from offramp.runtime import load_static, load_uncalibrated, verify
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import forge, write_onnx

CLASSES = 4


class Three(nn.Module):
    """Three exits over convolutions with a shortcut, and heads that end in a linear layer."""

    def __init__(self):
        super().__init__()
        widths = [(3, 16), (16, 16), (16, 24)]
        self.parts = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()) for i, o in widths]
        )
        self.heads = nn.ModuleList([nn.Linear(o, CLASSES) for _, o in widths])

    def forward(self, x):
        exits = []
        for part, head in zip(self.parts, self.heads, strict=True):
            y = part(x)
            x = y + x if y.shape == x.shape else y
            exits.append(head(x.mean((2, 3))))
        return exits


def draw(n, seed):
    """Images of noise with a patch of one of three colours, or of none."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 1.0, (n, 3, 12, 12)).astype(np.float32), rng.integers(0, CLASSES, n)
    for i, label in enumerate(y):
        if label < 3:
            row, column = rng.integers(0, 8, 2)
            x[i, label, row : row + 4, column : column + 4] += 1.2
    return x, y


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A bundle of a network that was trained for some seconds, and its int8, fp16 and symmetric variants."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x, y = draw(1200, 0)
    samples = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    net = Three()
    train(net, torch.utils.data.DataLoader(samples, 50, shuffle=True), epochs=3, lr=0.1)
    torch.set_num_threads(threads)
    bundle = export(net, x[:4], tmp_path_factory.mktemp("trained") / "three.offramp")
    quantize(bundle, x)
    quantize(bundle, x, symmetric=True, name="int8-symmetric")
    return quantize(bundle, to="fp16")


def operators(path):
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def test_accuracy_and_scores_hardly_change(trained):
    x, y = draw(1500, 1)
    for name, most in (("int8", 0.005), ("int8-symmetric", 0.01), ("fp16", 0.001)):
        for shift in compare_variants(trained.path, name, "fp32", x, y):
            assert shift.accuracy is not None and shift.parent_accuracy is not None
            assert shift.parent_accuracy > 0.5  # else there would be nothing to lose
            assert abs(shift.accuracy - shift.parent_accuracy) <= most
            assert abs(shift.score_shift) <= most
            assert shift.alike >= 0.97


def test_a_variant_says_what_it_was_made_from(trained):
    first, int8, _, fp16 = check_bundle(trained.path).manifest.variants
    assert first.origin is None
    assert (int8.name, int8.precision, int8.origin.parent, int8.origin.how) == ("int8", "int8", "fp32", "quantize")
    assert int8.origin.settings == {"ranges": "minmax", "samples": 512, "seed": 0, "weight_bits": 7, "symmetric": 0}
    assert (fp16.name, fp16.precision, fp16.origin.settings) == ("fp16", "fp16", {})
    assert [s.macs for s in int8.stages] == [s.macs for s in first.stages] == [s.macs for s in fp16.stages]
    golden, more = (read_golden(trained, variant).inputs[0] for variant in (first, int8))
    assert len(more) == 8 and (more[:3] == golden).all() and len(np.unique(more, axis=0)) == 8
    sizes = [variant.files["weights.bin"].bytes for variant in (first, int8, fp16)]
    assert sizes[1] < 0.35 * sizes[0] and sizes[2] < 0.6 * sizes[0]


def test_what_crosses_a_cut_is_quantised_and_the_score_is_not(trained):
    for name, dtype in (("int8", "uint8"), ("int8-symmetric", "int8"), ("fp16", "float16")):
        variant = trained.variant(name)
        assert [tensor.dtype for stage in variant.stages[1:] for tensor in stage.inputs] == [dtype] * 2
        x = draw(300, 2)[0]
        with load_uncalibrated(trained, variant=name, logits=True) as net:
            every = net.every_exit(x)
        assert every.logits.dtype == np.float32 and every.score.dtype == np.float32
        assert all(len(np.unique(every.score[:, k])) > 280 for k in range(3))  # 8 bits would give many the same


def test_every_product_runs_in_int8_on_the_engine(trained, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    folder = trained.path / trained.variant("int8").folder
    onnxruntime.InferenceSession(str(folder / "stage1.onnx"), options, providers=["CPUExecutionProvider"])
    optimised = operators(tmp_path / "optimised.onnx")
    assert "QLinearConv" in optimised and "QGemm" in optimised
    assert not {"Conv", "FusedConv", "Gemm"} & set(optimised)


def test_with_float_heads_only_the_products_that_make_logits_stay_in_float(dense):
    x = np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32)
    variant = quantize(dense, x, float_heads=True).variant("int8")
    assert variant.origin.settings["float_heads"] == 1
    graph = onnx.load(dense.path / variant.folder / variant.whole).graph
    plain = {w.name for w in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    in_float = [node for node in products if node.input[1] in plain]
    assert len(in_float) == len(variant.exits) < len(products)


def test_the_symmetric_form_has_no_zero_points_and_float_biases(trained):
    variant = trained.variant("int8-symmetric")
    model = onnx.load(trained.path / variant.folder / variant.whole)
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = weights[node.input[2]]
            assert zero.dtype == np.int8 and not zero.any()
    biases = [
        weights[node.input[2]] for node in model.graph.node if node.op_type == "Conv" and node.input[2] in weights
    ]
    assert biases and all(bias.dtype == np.float32 for bias in biases)


def test_weights_use_7_bits_unless_the_full_range_is_asked_for(trained):
    full = quantize(trained, draw(100, 3)[0], full_range=True, name="full")
    for name, most in (("int8", 64), ("full", 127)):
        variant = full.variant(name)
        model = onnx.load(full.path / variant.folder / variant.whole)
        stored = [onnx.numpy_helper.to_array(w) for w in model.graph.initializer]
        assert max(np.abs(w.astype(int)).max() for w in stored if w.dtype == np.int8 and w.ndim > 1) == most


class Rounding(nn.Module):
    """Two exits whose logits go through whole numbers; their sum is added to a mask before an attention."""

    def __init__(self, fill):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.early, self.late = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)
        self.register_buffer("mask", torch.triu(torch.full((6, 6), fill), 1))

    def forward(self, x):
        early = (8 * self.early(x.mean(1))).to(torch.int32).to(torch.float32)
        attention = (self.q(x) @ self.k(x).transpose(1, 2) / 8**0.5 + self.mask).softmax(-1)
        return [early, self.late((x + attention @ self.v(x)).mean(1))]


def write_grouped(path):
    """Write a network with two exits, and between them a transposed convolution with groups and a bias."""
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 2, 2), "b": (12,), "H0": (8, 4), "H1": (12, 4)}
    weights = [numpy_helper.from_array(rng.standard_normal(shape, np.float32), name) for name, shape in shapes.items()]
    nodes = [helper.make_node("ConvTranspose", ["x", "w", "b"], ["up"], group=4, strides=[2, 2])]
    for k, value in enumerate(["x", "up"]):
        nodes += [
            helper.make_node("GlobalAveragePool", [value], [f"mean{k}"]),
            helper.make_node("Flatten", [f"mean{k}"], [f"flat{k}"]),
            helper.make_node("MatMul", [f"flat{k}", f"H{k}"], [f"z{k}"]),
        ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 8, 4, 4])
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in ("z0", "z1")]
    graph = helper.make_graph(nodes, "grouped", [x], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_dividing(path):
    """Write a network whose last exit divides by a value that is small beside those which the same product makes."""
    rng = np.random.default_rng(0)
    shapes = {"W": (8, 9), "H0": (8, 5), "H1": (8, 5), "G": (8, 5)}
    arrays: dict[str, np.ndarray] = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    arrays["W"][:, :8] *= 1000
    arrays["W"][:, 8] = rng.uniform(0.2, 1, 8)
    arrays |= {"H1": arrays["H1"] / np.float32(1000), "eps": np.array([1e-3], np.float32)}
    arrays |= {name: np.array([value], np.int64) for name, value in {"0": 0, "8": 8, "9": 9, "1": 1}.items()}
    steps = [
        ("MatMul", ["x", "H0"], "z0"),
        ("MatMul", ["x", "W"], "product"),
        ("Slice", ["product", "0", "8", "1"], "large"),
        ("Slice", ["product", "8", "9", "1"], "small"),
        ("Add", ["small", "eps"], "divisor"),
        ("Div", ["large", "divisor"], "ratio"),
        ("MatMul", ["ratio", "H1"], "u"),
        ("MatMul", ["x", "G"], "v"),
        ("Add", ["u", "v"], "z1"),
    ]
    nodes = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 8])
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 5]) for name in ("z0", "z1")]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "dividing", [x], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_what_is_divided_by_stays_in_float(tmp_path):
    x = np.random.default_rng(1).uniform(0, 1, (500, 8)).astype(np.float32)
    bundle = quantize(export(write_dividing(tmp_path / "net.onnx"), x[:3], tmp_path / "b.offramp"), x)
    _, last = compare_variants(bundle, "int8", "fp32", x)
    assert last.alike > 0.95
    variant = bundle.variant("int8")
    graph = onnx.load(bundle.path / variant.folder / variant.whole).graph
    assert any(node.op_type == "MatMul" and node.input[0].startswith("x_Dequantize") for node in graph.node)


def test_a_transposed_convolution_with_groups_and_a_bias_stays_in_float(tmp_path):
    x = np.random.default_rng(0).standard_normal((40, 8, 4, 4)).astype(np.float32)
    variant = quantize(export(write_grouped(tmp_path / "net.onnx"), x[:3], tmp_path / "b.offramp"), x).variant("int8")
    graph = onnx.load(tmp_path / "b.offramp" / variant.folder / variant.whole).graph
    stored = {weight.name: weight.data_type for weight in graph.initializer}
    (up,) = [node for node in graph.node if node.op_type == "ConvTranspose"]
    assert [stored[name] for name in up.input[1:]] == [onnx.TensorProto.FLOAT] * 2


def test_what_the_quantiser_cannot_do_is_said_with_a_way_out(dense, monkeypatch):
    def fail(self):
        raise ValueError("planted")

    monkeypatch.setattr(QDQQuantizer, "quantize_model", fail)
    with pytest.raises(ModelError, match=r"quantiser fails on the network: planted. symmetric=True \(--symmetric\)"):
        quantize(dense, np.zeros((4, 16), np.float32))
    assert not list((dense.path / "variants").glob(".new-*"))


@pytest.mark.parametrize("to", ["fp16", "int8"])
def test_a_graph_that_is_none_is_named(dense, to):
    variant = dense.variant()
    forge(dense, variant.whole, lambda path: path.write_bytes(b"no graph"))
    x = np.zeros((40, 16), np.float32)
    with pytest.raises(BundleError, match=f"cannot simplify .*{variant.whole}: .*INVALID_PROTOBUF"):
        quantize(open_bundle(dense.path), None if to == "fp16" else x, to=to)


def test_exits_whose_labels_change_are_named_before_anybody_finds_out(dense):
    x = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize(dense, x)
    wide = np.concatenate(
        [x, 1e3 * x[:1]]
    )  # one sample stretches the ranges until eight bits tell the others not apart
    with pytest.warns(
        UserWarning, match=r"coarse gives many of the 301 samples another label than fp32: exit 0 \d+%.*percentile"
    ):
        quantize(dense, wide, name="coarse")
    with pytest.warns(UserWarning, match="Try other ranges .ranges='minmax'"):
        quantize(dense, np.concatenate([x, 1e3 * x[:9]]), name="cut", ranges="percentile")


def test_a_variant_is_replaced_only_where_that_is_asked_for(dense):
    x = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    first = quantize(dense, x).variant("int8")
    with pytest.raises(UsageError, match=r"already has a variant int8. Replace it with replace=True \(--replace\)"):
        quantize(dense, x)
    bundle = quantize(dense, x[:20], replace=True)
    assert [variant.name for variant in bundle.manifest.variants] == ["fp32", "int8"]
    assert bundle.variant("int8").origin.settings["samples"] == 20
    assert {path.name for path in (dense.path / "variants").iterdir()} == {
        variant.folder.split("/")[1] for variant in bundle.manifest.variants
    }
    assert bundle.variant("int8").folder != first.folder and check_bundle(bundle.path)
    keep(bundle, [0, 2], variant="int8")
    for name in ("fp32", "int8"):
        with pytest.raises(UsageError, match=f"Variant {name} cannot be replaced: .*is made from it"):
            quantize(dense, x, name=name, replace=True)


KILLED = """
import os, sys
import numpy as np
from offramp.export import quantize

quantize(sys.argv[1], np.zeros((4, 16), np.float32), progress=lambda *_: os._exit(9))
"""


def test_a_killed_run_leaves_nothing_that_the_next_does_not_remove(dense, tmp_path):
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    assert subprocess.run([sys.executable, "-c", KILLED, dense.path], env=environment).returncode == 9
    assert not list((tmp_path / "temporary").glob("offramp*"))
    assert [path.name for path in (dense.path / "variants").glob(".new-*/*/plain.onnx")] == ["plain.onnx"]
    quantize(dense, np.zeros((4, 16), np.float32))
    assert not list((dense.path / "variants").glob(".new-*"))


@pytest.mark.parametrize("fill", [float("-inf"), -1e9])
def test_masks_and_casts_of_the_network_stay_what_they_are(tmp_path, fill):
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((64, 6, 8)).astype(np.float32)
    bundle = export(Rounding(fill).eval(), x[:3], tmp_path / "b.offramp")
    bundle = quantize(quantize(bundle, x), to="fp16")
    for name in ("int8", "fp16"):
        with load_uncalibrated(bundle, variant=name, logits=True) as net:
            early = net.every_exit(x).logits[:, 0]
        assert (early == early.round()).all()
        late = compare_variants(bundle, name, "fp32", x)[1]
        assert late.alike > 0.95 and abs(late.score_shift) < 0.005


def test_the_log_says_which_ranges_were_found_and_what_was_quantised(dense):
    with TestCase().assertLogs("offramp.export", "DEBUG") as logs:
        quantize(dense, np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32))
    text = "\n".join(logs.output)
    assert "range of x: -" in text and "quantised nodes: " in text


def test_quiet_samples_do_not_decide_how_ranges_are_found(dense):
    x = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    x[:16] *= 1e-6
    assert quantize(dense, x, ranges="percentile").manifest.variants[-1].name == "int8"


def test_ranges_differ_by_how_they_are_found(trained):
    x = draw(300, 3)[0]
    x[0] *= 30  # one sample that stretches every range
    scales = {}
    for ranges in ("minmax", "percentile"):
        bundle = quantize(trained, x, ranges=ranges, name=ranges)
        variant = bundle.manifest.variants[-1]
        model = onnx.load(bundle.path / variant.folder / variant.whole)
        (scales[ranges],) = (onnx.numpy_helper.to_array(w) for w in model.graph.initializer if w.name == "x_scale")
    assert scales["percentile"] < 0.8 * scales["minmax"]


def test_a_quantised_variant_goes_where_any_other_goes(trained, tmp_path):
    x = draw(40, 4)[0]
    for name in ("int8", "fp16"):
        assert all(check.passed for check in verify(trained, variant=name))
        fewer = keep(trained, [0, 2], variant=name)
        two = fewer.manifest.variants[-1]
        assert (two.precision, two.origin.parent) == (trained.variant(name).precision, name)
        with load_uncalibrated(fewer, variant=two.name) as a, load_uncalibrated(fewer, variant=name) as b:
            assert (a.every_exit(x).label == b.every_exit(x).label[:, [0, 2]]).mean() > 0.95
        fuse(trained, tmp_path / f"{name}.onnx", variant=name, thresholds=[0.8, 0.8])
        with load_static(trained, variant=name, exit=1) as static:
            assert static(x[0]).label in range(CLASSES)
    fewer = quantize(keep(trained, [0, 1], name="early"), x, variant="early")
    assert fewer.manifest.variants[-1].name == "early-int8"


@pytest.mark.parametrize("name", ["shapes", "encoder", "keyword-spotter", "two-inputs", "looped", "gated", "attached"])
def test_networks_of_all_kinds_are_quantised(own_zoo, name):
    bundle = own_zoo(name)
    entry = networks.ZOO[name]
    x = entry.draw(64, 1)
    for to, most in (("int8", 0.15), ("fp16", 5e-3)):
        quantised = quantize(bundle, x, to=to, name=f"{name}-{to}")
        with (
            load_uncalibrated(quantised, logits=True) as parent,
            load_uncalibrated(quantised, variant=f"{name}-{to}", logits=True) as variant,
        ):
            ours, theirs = variant.every_exit(entry.draw(40, 5)).logits, parent.every_exit(entry.draw(40, 5)).logits
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert 0 < error <= most


def test_what_cannot_be_quantised_is_said_and_the_bundle_stays(dense, tmp_path):
    before = (dense.path / "manifest.json").read_bytes()
    x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    for match, options in {
        "Unknown precision 'int9'. Did you mean 'int8'": {"to": "int9"},
        "Unknown way to find ranges 'minmaks'": {"ranges": "minmaks"},
        "needs samples": {"data": None},
        "at least one": {"samples": 0},
        "Unknown variant": {"variant": "nowhere"},
        "already has a variant fp32": {"name": "fp32"},
        "letters, digits": {"name": "a/b"},
        "leave them out for fp16": {"to": "fp16", "symmetric": True},
        "float_heads say how int8": {"to": "fp16", "float_heads": True},
    }.items():
        with pytest.raises(UsageError, match=match):
            quantize(dense, **({"data": x} | options))
    with pytest.raises(DataError, match="takes samples of shape"):
        quantize(dense, x[:, :3])
    with pytest.raises(DataError, match="NaN"):
        quantize(dense, np.full((50, 16), np.nan, np.float32))
    assert (dense.path / "manifest.json").read_bytes() == before
    assert [path.name for path in (dense.path / "variants").iterdir()] == ["fp32"]
    quantised = quantize(dense, x)
    with pytest.raises(UsageError, match="is in int8; quantise one in fp32"):
        quantize(quantised, x, variant="int8")
    assert [variant.name for variant in open_bundle(dense.path).manifest.variants] == ["fp32", "int8"]


@pytest.mark.parametrize("opset", [11, 12])
def test_a_network_whose_opset_has_no_scale_per_channel_is_refused_in_int8(tmp_path, opset):
    bundle = export(write_onnx(tmp_path / "net.onnx", opset=opset), None, tmp_path / "b.offramp")
    with pytest.raises(ModelError, match=f"takes opset 13; the network has {opset}"):
        quantize(bundle, np.zeros((8, 16), np.float32))
    assert quantize(bundle, to="fp16").variant("fp16").precision == "fp16"
