"""Networks that are refused, each by its true reason and with what to do; nothing is printed beside it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from offramp.errors import ModelError, UsageError
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo.two_exits import TwoExits, build_two_exits, vectors


class Leaving(TwoExits):
    """Leaves by itself in eval mode, and says where."""

    def forward(self, x):
        early, late = super().forward(x)
        return (early, 0) if not self.training and early.softmax(1).max() > 2 else (late, 1)


class TrainingOnly(TwoExits):
    """Returns its early exit in training mode only."""

    def forward(self, x):
        exits = super().forward(F.dropout(x, training=self.training))
        return exits if self.training else exits[-1]


class Branching(TwoExits):
    """Returns both exits, but branches on a value."""

    def forward(self, x):
        early, late = super().forward(x)
        return [early, early if early.max() > 1e3 else late]


class Faulty(TwoExits):
    """Fails while it is exported."""

    def forward(self, x):
        scale = {False: 1.0}[torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()]
        return [logits * scale for logits in super().forward(x)]


REFUSED = {
    "a plain list": (
        lambda: build_two_exits(second=lambda net, y: net.layers[0](net.b(y)), layers=[nn.BatchNorm1d(16).train()]),
        "Stranger.layers holds layers in a plain list, where eval.*training mode",
    ),
    "a plain dict": (
        lambda: build_two_exits(second=lambda net, y: net.layers["a"](y), layers={"a": nn.Dropout().train()}),
        "Stranger.layers holds layers in a plain dict",
    ),
    "leaving by itself": (lambda: Leaving().eval(), "Output exit1 is a number .*all its exits instead"),
    "a branch": (
        lambda: Branching().eval(),
        "branch that depends on the values of a tensor.*test_refusals.py, line [0-9]+.*all its exits instead",
    ),
    "a fault of its own": (
        lambda: Faulty().eval(),
        "network: KeyError: True, in test_refusals.py, line [0-9]+. TorchScript cannot either: KeyError: True, in test_ref",
    ),
    "exits in training mode only": (
        lambda: TrainingOnly().eval(),
        "returns 2 outputs in training mode, but 1 in eval mode",
    ),
    "logits and features": (
        lambda: build_two_exits(forward=lambda net, x: (net.late(net.second(net.first(x))), net.first(x))),
        r"wrap the network so that it returns that one alone, and attach\(\)",
    ),
    "no sample alone": (
        lambda: build_two_exits(
            second=lambda net, y: net.norm(net.b(y)), norm=nn.BatchNorm1d(16, track_running_stats=False)
        ),
        r"runs on 3 samples, but not on one alone \(a batch normalisation without running statistics",
    ),
    "NaN": (
        lambda: build_two_exits(second=lambda net, y: net.b(y) / 0),
        "logits of exit exit1 are NaN or infinite on the example, whose values are finite",
    ),
    "an exit of no input": (
        lambda: build_two_exits(forward=lambda net, x: (torch.zeros(x.shape[0], 5), net.late(net.first(x)))),
        r"Exit exit0 does not depend on the input: its answer is the same .*exits=\[",
    ),
    "bfloat16": (lambda: build_two_exits().bfloat16(), r"weights are bfloat16.*call .float\(\)"),
    "hidden batch": (lambda: build_two_exits(first=lambda net, x: net.a(x.data)), r"batch sizes 2 and 3.*x.detach\(\)"),
    "a number of the batch": (
        lambda: build_two_exits(second=lambda net, y: net.b(y) + torch.zeros(len(y.data), 16)),
        "batch of input x was fixed to 3",
    ),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_a_network_is_refused_by_its_true_reason_and_nothing_is_printed(make, words, tmp_path, capfd):
    net = make()
    with pytest.raises(ModelError, match=words):
        export(net, vectors(3), tmp_path / "b.offramp")
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_torch_cannot_export_is_named_with_its_node(tmp_path, capfd):
    net = build_two_exits(second=lambda net, y: torch.special.bessel_j0(net.b(y)))
    with pytest.raises(ModelError, match="the operator prims.bessel_j0 has no ONNX form: replace it") as raised:
        export(net, vectors(3), tmp_path / "b.offramp")
    assert raised.value.nodes == ("bessel_j0",) and capfd.readouterr() == ("", "")


def test_exits_in_a_wrong_order_are_named_with_their_nodes(dense_onnx, tmp_path):
    with pytest.raises(ModelError, match="not in order") as raised:
        export(dense_onnx, None, tmp_path / "b.offramp", exits=["z1", "z0", "z2"])
    assert len(raised.value.nodes) == 3


@pytest.mark.parametrize("name", ["exits", "gates", "class_names"])
def test_a_text_is_no_list_of_names(name, dense_onnx, tmp_path):
    with pytest.raises(UsageError, match=rf"{name} is a list of names, not a text: give {name}=\['z0'\]"):
        export(dense_onnx, None, tmp_path / "b.offramp", **{name: "z0"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exits": 3}, "exits is a list of names, not 3"),
        ({"class_names": range(5)}, "class_names is a list of names, not range"),
        ({"temperatures": 1.5}, "Temperatures are a list of numbers above 0, one for each exit, not 1.5"),
        ({"temperatures": ["1", "2"]}, "Temperatures are a list of numbers"),
        ({"preprocess": {"mean": (0.5,), "std": (0.5,)}}, r"preprocess is a Preprocess\(mean=..., std=...\)"),
    ],
)
def test_arguments_of_another_kind_are_refused_before_anything_runs(options, words, dense_onnx, tmp_path):
    with pytest.raises(UsageError, match=words):
        export(dense_onnx, None, tmp_path / "b.offramp", **options)


def test_layers_in_a_plain_list_that_is_registered_too_or_in_eval_mode_are_captured(tmp_path):
    net = build_two_exits(
        second=lambda net, y: net.spare[0](net.layers[0](net.b(y))), spare=[nn.BatchNorm1d(16).eval()]
    )
    net.layers = [nn.BatchNorm1d(16)]
    net.registered = nn.ModuleList(net.layers)
    assert len(export(net.train(), vectors(3), tmp_path / "b.offramp").variant().exits) == 2


def trace(net):
    return torch.jit.trace(net, torch.from_numpy(vectors(3)), strict=False)


RECORDS = {
    "traced": (trace, "TorchScript module"),
    "frozen": (lambda net: torch.jit.freeze(trace(net)), "TorchScript module"),
    "exported": (
        lambda net: torch.export.export(net, (torch.from_numpy(vectors(3)),)).module(),
        "module of torch.export",
    ),
}


@pytest.mark.parametrize(("record", "words"), RECORDS.values(), ids=RECORDS)
def test_a_record_of_a_network_is_refused_with_what_to_give_instead(record, words, tmp_path):
    with pytest.raises(UsageError, match=f"{words}.*Give the Python network that it was made from"):
        export(record(build_two_exits()), vectors(3), tmp_path / "b.offramp")


def test_a_record_within_a_network_is_named(tmp_path):
    part = torch.jit.script(nn.Sequential(nn.Tanh()))
    net = build_two_exits(second=lambda net, y: net.part(net.b(y)), part=part)
    with pytest.raises(ModelError, match="its part part is a TorchScript module: put the Python module"):
        export(net, vectors(3), tmp_path / "b.offramp")


@pytest.mark.filterwarnings("ignore")
def test_a_traced_network_is_exported_as_the_message_says(tmp_path):
    net = build_two_exits(forward=lambda net, x: tuple(TwoExits.forward(net, x)))
    traced, x = trace(net), torch.from_numpy(vectors(3))
    names = {"input_names": ["x"], "output_names": ["early", "late"]}
    dynamic = {name: {0: "N"} for name in ("x", "early", "late")}
    torch.onnx.export(traced, (x,), tmp_path / "net.onnx", dynamo=False, dynamic_axes=dynamic, **names)
    bundle = export(tmp_path / "net.onnx", None, tmp_path / "b.offramp")
    assert [exit_.name for exit_ in bundle.variant().exits] == ["early", "late"]


def test_a_compiled_network_is_captured_without_compiling_it(tmp_path):
    def never(*arguments):
        raise AssertionError("compiled")

    bundle = export(torch.compile(build_two_exits(), backend=never), vectors(3), tmp_path / "b.offramp")
    assert bundle.manifest.network == "Stranger"


ATTENTION = {
    "five axes": ((2, 2, 2, 2), {}),
    "five axes, causal": ((2, 2, 2, 2), {"is_causal": True}),
    "three axes, masked": ((4, 4), {"attn_mask": torch.eye(4, dtype=torch.bool)}),
    "three axes, a row that sees nothing": ((4, 4), {"attn_mask": torch.arange(4)[:, None] > torch.arange(4)}),
    "three axes, added": ((4, 4), {"attn_mask": torch.eye(4), "scale": 0.3}),
}


@pytest.mark.parametrize(("shape", "options"), ATTENTION.values(), ids=ATTENTION)
def test_attention_over_other_than_four_axes_is_captured_by_its_products(shape, options):
    from offramp.export.capture.exporter_patches import Decompositions

    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(x, x + 1, x, **options)
    with Decompositions():
        assert torch.allclose(F.scaled_dot_product_attention(x, x + 1, x, **options), expected, atol=1e-6)


def test_attention_over_five_axes_is_captured_by_dynamo(tmp_path):
    def attend(net, y):
        blocks = net.b(y).reshape(-1, 2, 2, 2, 2)
        return F.scaled_dot_product_attention(blocks, blocks, blocks).reshape(-1, 16)

    net, x = build_two_exits(second=attend), vectors(5, 1)
    bundle = export(net, vectors(3), tmp_path / "b.offramp")
    assert bundle.manifest.captured == "dynamo"
    with torch.no_grad(), load_uncalibrated(bundle, logits=True) as chain:
        expected = torch.stack(net(torch.from_numpy(x)), 1).numpy()
        assert abs(chain.every_exit(x, size=5).logits - expected).max() < 1e-5


def test_an_export_says_how_far_it_is(dense_onnx, tmp_path):
    steps = []
    export(dense_onnx, None, tmp_path / "b.offramp", progress=lambda *step: steps.append(step))
    assert steps[0] == ("capturing the network", 0, 1) and steps[-1] == ("comparing with the original", 4, 4)
    assert list(dict.fromkeys(what for what, _, _ in steps))[1] == "cutting it into stages"
