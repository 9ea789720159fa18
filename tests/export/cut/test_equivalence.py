"""The comparison with the original: how exact the original is itself, and networks that mix the samples of a batch."""

import copy

import numpy as np
import onnx
import pytest
import torch
from msgspec.structs import replace
from onnx import helper
from torch import nn

from offramp.cli.describe import describe_bundle
from offramp.errors import CheckError, ModelError
from offramp.export import export, fuse, keep, pipeline
from offramp.export.cut import equivalence
from offramp.export.cut.equivalence import allow_error
from offramp.tests.zoo.dense import write_onnx
from offramp.tests.zoo.two_exits import TwoExits, build_two_exits, vectors


class Inexact(TwoExits):
    """Adds 1,024 products of a hundred times their sum: float32 is exact to about 5e-5 of the logits."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(16, 1024), nn.Linear(1024, 16)
        self.register_buffer("shift", 100 * self.narrow.weight.detach().sum(1))
        self.eye = torch.eye(16)  # which .double() does not find

    def second(self, y):
        return self.narrow(self.wide(y) + 100) @ self.eye - self.shift


@pytest.fixture(scope="module")
def inexact(tmp_path_factory):
    """A network whose float32 is less exact than what is allowed an exact one, and its bundle."""
    net = Inexact().eval()
    return net, export(net, vectors(3), tmp_path_factory.mktemp("inexact") / "b.offramp")


def test_a_network_may_differ_as_its_own_float32_does_and_both_figures_are_kept(inexact):
    _, bundle = inexact
    variant = bundle.variant()
    assert 1e-5 < variant.error <= allow_error("fp32", variant.own_error) < 1e-3
    text = describe_bundle(bundle)
    assert f"{variant.error:.2g} of the largest logit; rounding moves the original by {variant.own_error:.2g}" in text


def test_the_own_error_is_that_from_float64(inexact):
    net, bundle = inexact
    with torch.no_grad():
        x = torch.from_numpy(vectors(3))
        ours, wide = net(x), copy.deepcopy(net).double()
        wide.eye = wide.eye.double()
        exact = wide(x.double())
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, exact, strict=True))
    assert bundle.variant().own_error == pytest.approx(error, rel=0.05)


def test_a_bundle_of_an_inexact_network_is_kept_and_fused(inexact, tmp_path):
    import shutil

    _, bundle = inexact
    shutil.copytree(bundle.path, tmp_path / "b.offramp")
    kept = keep(tmp_path / "b.offramp", [0, 1], name="same").variant("same")
    assert kept.own_error == bundle.variant().own_error > 1e-5
    fuse(tmp_path / "b.offramp", tmp_path / "one.onnx", thresholds=[2.0])


def test_the_errors_do_not_decide_what_a_variant_computes(inexact):
    variant = inexact[1].variant()
    assert replace(variant, error=None, own_error=None).digest == variant.digest


def test_a_small_error_of_a_weight_is_refused_all_the_same_and_both_figures_are_said(monkeypatch, tmp_path):
    net = Inexact().eval()
    original = pipeline.capture

    def wrong(*arguments, **options):
        network, golden = original(*arguments, **options)
        other = copy.deepcopy(net)
        other.narrow.weight.data[0, 0] *= 1.001
        run = lambda x: [{"logits": y.detach().numpy()} for y in other(torch.from_numpy(np.array(x[0])))]  # noqa: E731
        return replace(network, reference=run), golden

    monkeypatch.setattr(pipeline, "capture", wrong)
    with pytest.raises(CheckError, match=r"by 0\.[0-9]+ of .* is allowed. Rounding alone moves .* by [0-9.e-]+\. "):
        export(net, vectors(3), tmp_path / "b.offramp")


def test_the_original_is_not_measured_where_the_tolerance_of_its_precision_suffices(dense):
    assert dense.variant().error <= 1e-5 and dense.variant().own_error is None


@pytest.mark.parametrize(
    ("precision", "own_error", "allowed"),
    [
        ("fp32", None, 1e-5),
        ("fp32", 1e-6, 1e-5),
        ("fp32", 5e-5, 2e-4),
        ("fp32", 0.3, 1e-2),
        ("fp16", 2e-3, 8e-3),
        ("int8", 0.1, 0.2),
    ],
)
def test_what_is_allowed_grows_with_the_own_error_to_an_end(precision, own_error, allowed):
    assert allow_error(precision, own_error) == pytest.approx(allowed)


MIXING = {
    "normalised over the batch": {
        "second": lambda net, y: net.norm(net.b(y)[:, :, None].expand(-1, -1, 3)).mean(2),
        "norm": nn.BatchNorm1d(16, track_running_stats=False),
    },
    "mean": {"second": lambda net, y: net.b(y) - net.b(y).mean(0)},
    "item": {"second": lambda net, y: net.b(y) * net.b(y).max().item()},
    "first stage": {"first": lambda net, x: net.a(x) - net.a(x).mean(0)},
}


@pytest.mark.parametrize("steps", MIXING.values(), ids=MIXING)
def test_a_network_that_mixes_the_samples_of_a_batch_in_any_stage_is_refused(steps, tmp_path):
    with pytest.raises(CheckError, match="mixes the samples of a batch.*running statistics"):
        export(build_two_exits(**steps), vectors(3), tmp_path / "b.offramp")


def test_a_mix_that_leaves_nothing_of_a_sample_alone_differs_by_no_more_than_all(tmp_path):
    a, h = np.eye(16, dtype=np.float32), np.ones((16, 5), np.float32)
    values = [helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 16), ("z0", 5), ("z1", 5))]
    nodes = [
        helper.make_node("MatMul", ["x", "h"], ["z0"]),
        helper.make_node("MatMul", ["x", "a"], ["b"]),
        helper.make_node("ReduceMean", ["b"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["b", "mean"], ["c"]),
        helper.make_node("MatMul", ["c", "h"], ["z1"]),
    ]
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in (("a", a), ("h", h))]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "net.onnx"
    )
    with pytest.raises(CheckError, match="differs from that among 3 samples by 1 of its largest logit"):
        export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")


def test_a_dynamically_quantised_network_is_refused_in_any_stage(tmp_path):
    for k in range(3):
        model = onnx.load(write_onnx(tmp_path / "net.onnx"))
        at = next(i for i, node in enumerate(model.graph.node) if node.output[0] == f"z{k}")
        model.graph.node[at].input[0] = "v"
        model.graph.node.insert(at, helper.make_node("DequantizeLinear", ["q", "s", "p"], ["v"]))
        model.graph.node.insert(at, helper.make_node("DynamicQuantizeLinear", [f"a{k}"], ["q", "s", "p"], name="scale"))
        onnx.save(model, tmp_path / "net.onnx")
        with pytest.raises(
            ModelError, match="quantised dynamically: each scale is found for the whole batch"
        ) as raised:
            export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")
        assert raised.value.nodes == ("scale",)


def test_a_shrinking_batch_keeps_two_samples_to_the_last_stage(dense_onnx, tmp_path, monkeypatch):
    sizes = []
    net_batch = equivalence.Net.batch

    def spy(net, samples):
        answers = net_batch(net, samples)
        sizes.append([int((answers.exit >= k).sum()) for k in range(len(net.exits))])
        return answers

    monkeypatch.setattr(equivalence.Net, "batch", spy)
    export(dense_onnx, None, tmp_path / "b.offramp")
    assert len(sizes) == 2 and all(left[-1] >= 2 and left[-1] < left[0] for left in sizes)


@pytest.mark.parametrize("flags", ["fma avx2", "fma avx2 avx_vnni"])
def test_a_quantised_network_that_differs_is_told_of_processors_without_vnni(flags, monkeypatch, tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["a1", "scale", "point"], ["q1"]),
        helper.make_node("DequantizeLinear", ["q1", "scale", "point"], ["d1"]),
    ]
    model = onnx.load(write_onnx(tmp_path / "net.onnx"))
    at = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "z1")
    model.graph.node[at].input[0] = "d1"
    for node in reversed(nodes):
        model.graph.node.insert(at, node)
    scale, point = np.array(0.01, np.float32), np.array(128, np.uint8)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in (("scale", scale), ("point", point))
    )
    onnx.save(model, tmp_path / "net.onnx")
    capture = pipeline.capture

    def wrong(*arguments, **options):
        network, golden = capture(*arguments, **options)
        return replace(
            network, reference=lambda x: [{"logits": 1.5 * y["logits"]} for y in network.reference(x)]
        ), golden

    monkeypatch.setattr(pipeline, "capture", wrong)
    monkeypatch.setattr(equivalence, "read_text", lambda path: f"processor\t: 0\nflags\t\t: {flags}\n")
    with pytest.raises(CheckError, match="differs from the original") as raised:
        export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")
    assert ("reduce_range=True" in str(raised.value)) == ("vnni" not in flags)
