"""What strangers' torch networks take and return, and what must not be captured silently."""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch.nn import functional as F

from offramp.errors import CheckError, DataError, ModelError, UsageError
from offramp.export import Preprocess, attach, capture, export, train
from offramp.runtime import load_uncalibrated
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import CLASSES


def logits_of(bundle, *inputs, size=None):
    """What every exit of a bundle says: (N, exits, classes)."""
    with load_uncalibrated(bundle, logits=True) as chain:
        axis = bundle.manifest.inputs[0].shape.index(None)
        return chain.every_exit(inputs, size=size or min(16, inputs[0].shape[axis])).logits


def close(a, b):
    return np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


class Returns(networks.Plain):
    """The plain network, its exits handed through a function."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x), x)


@dataclass
class Inner:
    shallow: torch.Tensor
    deep: torch.Tensor


@pytest.mark.parametrize(
    ("change", "exits", "names"),
    [
        (lambda e, x: {"a": e[0], "b": e[1:]}, None, ["a", "b.0", "b.1"]),
        (lambda e, x: (e[0], Inner(e[1], e[2])), None, ["exit0", "exit1.shallow", "exit1.deep"]),
        (lambda e, x: {"y": e, "extra": x.mean((2, 3)), "none": None}, ["y.0", "y.2"], ["y.0", "y.2"]),
        (lambda e, x: torch.stack(e), None, ["exit0", "exit1", "exit2"]),
        (lambda e, x: {"all": torch.stack(e), "x": x}, ["all"], ["all.0", "all.1", "all.2"]),
        (lambda e, x: torch.cat([e[0][None], torch.stack(e[1:])]), None, ["exit0", "exit1", "exit2"]),
    ],
    ids=["nested", "dataclass", "selected", "stacked", "stacked in a dict", "joined"],
)
def test_exits_are_found_in_whatever_a_network_returns(change, exits, names, tmp_path):
    net = networks.build(lambda: Returns(change))
    bundle = export(net, networks.samples(3), tmp_path / "b.offramp", exits=exits)
    assert [exit_.name for exit_ in bundle.variant().exits] == names
    x = networks.samples(4, 1)
    with torch.no_grad():
        plain = np.stack([y.numpy() for y in networks.Plain.forward(net, torch.from_numpy(x))], 1)
    assert close(logits_of(bundle, x), plain[:, [0, 2]] if len(names) == 2 else plain)


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        (lambda e, x: [*e, x.mean((2, 3))], {}, ModelError, "exit3 has 3. Name the outputs that are exits"),
        (lambda e, x: [*e, x], {}, ModelError, r"Output exit3 has the shape \(3, 3, 16, 16\)"),
        (lambda e, x: [e[0], e[1].argmax(1)], {}, ModelError, "exit1 has the shape .*exits="),
        (lambda e, x: e, {"exits": ["exit0", "exit4"]}, UsageError, "Unknown output 'exit4'. Did you mean 'exit"),
        (lambda e, x: {"a": e, "b": "text"}, {}, ModelError, "Output b is a str"),
        (lambda e, x: torch.stack(e, 1), {}, ModelError, r"stacked \(exit, batch, class\)"),
        (lambda e, x: torch.stack(e) * 2, {}, ModelError, "not stacked from them along its first axis at the end"),
        (lambda e, x: [e[2], e[0], e[1]], {}, ModelError, "not in order: exit0 [0-9]+, exit1"),
        (lambda e, x: [e[0], e[0] + 0, e[2]], {}, ModelError, "exit0 and exit1"),
        (lambda e, x: [y.bfloat16() for y in e], {}, ModelError, "Output exit0 is torch.bfloat16"),
        (lambda e, x: [y[:, :1] for y in e], {}, ModelError, "one class only"),
    ],
)
def test_what_are_no_exits_is_refused_in_one_sentence(change, options, error, words, tmp_path):
    with pytest.raises(error, match=words):
        export(networks.build(lambda: Returns(change)), networks.samples(3), tmp_path / "b.offramp", **options)


def test_exits_are_sorted_by_the_work_below_them_when_asked(tmp_path):
    net = networks.build(lambda: Returns(lambda e, x: {"last": e[2], "first": e[0], "middle": e[1]}))
    bundle = export(net, networks.samples(3), tmp_path / "b.offramp", sort=True)
    assert [exit_.name for exit_ in bundle.variant().exits] == ["first", "middle", "last"]


class Masked(nn.Module):
    """Two inputs of the same dynamic length."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.heads = nn.ModuleList([nn.Linear(8, CLASSES) for _ in range(2)])

    def forward(self, tokens, mask):
        x, weight = self.embed(tokens), mask.unsqueeze(-1)
        first = self.heads[0]((x * weight).sum(1) / weight.sum(1))
        x = torch.relu(self.mix(x)) + x
        return first, self.heads[1]((x * weight).sum(1) / weight.sum(1))


def test_inputs_that_share_a_dynamic_length_are_taken_by_name_or_in_order(tmp_path):
    net, rng = Masked().eval(), np.random.default_rng(0)
    example = {"mask": np.ones((3, 9), np.float32), "tokens": rng.integers(0, 20, (3, 9))}
    axes = {"tokens": ("batch", "time"), "mask": ("batch", "time")}
    bundle = export(net, example, tmp_path / "b.offramp", axes=axes)
    assert {t.name: t.shape for t in bundle.manifest.inputs} == {"mask": (None, "time"), "tokens": (None, "time")}
    tokens, mask = rng.integers(0, 20, (4, 5)), rng.integers(0, 2, (4, 5)).astype(np.float32) + 0.5
    with torch.no_grad():
        expected = np.stack([y.numpy() for y in net(torch.from_numpy(tokens), torch.from_numpy(mask))], 1)
    with load_uncalibrated(bundle, logits=True) as chain:
        assert close(chain.every_exit({"tokens": tokens, "mask": mask}, size=4).logits, expected)
        assert close(chain({"tokens": tokens[0], "mask": mask[0]}).logits, expected[0, -1])
        with pytest.raises(Exception, match="takes a sample of shape"):
            chain({"tokens": tokens[0], "mask": mask[0, :4]})


class Pools(nn.Module):
    def __init__(self, pool, features):
        super().__init__()
        self.pool, self.conv = pool, nn.Conv2d(3, 3, 3, 1, 1)
        self.heads = nn.ModuleList([nn.Linear(features, CLASSES) for _ in range(2)])

    def forward(self, x):
        first = self.heads[0](self.pool(x).flatten(1))
        return first, self.heads[1](self.pool(self.conv(x)).flatten(1))


@pytest.mark.parametrize(
    ("pool", "features"),
    [
        (nn.AdaptiveAvgPool2d(3), 27),
        (nn.AdaptiveAvgPool2d((None, 5)), 3 * 7 * 5),
        (nn.AdaptiveMaxPool2d((3, 2)), 18),
        (lambda x: F.adaptive_avg_pool1d(x.flatten(2), 10), 30),
        (lambda x: F.adaptive_max_pool1d(x.flatten(2), output_size=5), 15),
        (lambda x: F.adaptive_avg_pool3d(x.unsqueeze(2), (1, 3, 3)), 27),
    ],
    ids=["2d", "one axis", "max", "1d", "max 1d", "3d"],
)
def test_adaptive_pooling_to_a_size_that_does_not_divide_becomes_slices(pool, features, tmp_path):
    torch.manual_seed(0)
    net = Pools(pool, features).eval()
    x = np.random.default_rng(0).standard_normal((3, 3, 7, 11)).astype(np.float32)
    bundle = export(net, x, tmp_path / "b.offramp")
    nodes = operators(bundle)
    assert "GatherND" not in nodes and nodes.count("Slice") + nodes.count("Split") >= 4
    with torch.no_grad():
        assert close(logits_of(bundle, x), np.stack([y.numpy() for y in net(torch.from_numpy(x))], 1))


@pytest.fixture
def no_dynamo(monkeypatch):
    """torch's dynamo exporter fails as it does at an operator that it does not know."""
    original = torch.onnx.export

    def fail(*arguments, dynamo, **options):
        if dynamo:
            raise RuntimeError("an operator that this exporter does not know")
        return original(*arguments, dynamo=dynamo, **options)

    monkeypatch.setattr(torch.onnx, "export", fail)


def test_torchscript_takes_the_slices_too(no_dynamo, tmp_path):
    torch.manual_seed(0)
    net, x = Pools(nn.AdaptiveAvgPool2d(3), 27).eval(), np.random.default_rng(0).standard_normal((3, 3, 7, 11))
    bundle = export(net, x.astype(np.float32), tmp_path / "b.offramp")
    assert bundle.manifest.captured == "torchscript" and operators(bundle).count("ReduceMean") >= 12


def operators(bundle):
    path = bundle.path / bundle.variant().folder / "whole.onnx"
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def test_torchscript_captures_what_dynamo_cannot_and_the_manifest_says_so(no_dynamo, tmp_path):
    net = networks.build(networks.Plain)
    bundle = export(net, networks.samples(3), tmp_path / "b.offramp")
    assert bundle.manifest.captured == "torchscript"
    x = networks.samples(5, 1)
    with torch.no_grad():
        assert close(logits_of(bundle, x), np.stack([y.numpy() for y in net(torch.from_numpy(x))], 1))


class Branching(networks.Plain):
    """The plain network behind a function of its input."""

    @classmethod
    def of(cls, branch):
        net = networks.build(networks.Plain)
        net.__class__, net.branch = cls, branch
        return net

    def forward(self, x):
        return super().forward(self.branch(x))


@pytest.mark.parametrize(
    "branch",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * int(x.abs().max() > 3),
    ],
    ids=["if", "int"],
)
def test_a_branch_on_values_is_never_baked_in(branch, tmp_path):
    with pytest.raises(ModelError, match="torch cannot export the network"):
        export(Branching.of(branch), networks.samples(3), tmp_path / "b.offramp")


def test_a_branch_on_values_is_never_baked_in_by_torchscript_either(no_dynamo, tmp_path):
    with pytest.raises(ModelError, match="TorchScript cannot either"):
        export(Branching.of(lambda x: x if x.sum() > 0 else -x), networks.samples(3), tmp_path / "b.offramp")


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (("batch",), "one entry per axis"),
        ((None, None, None, None), "'batch' once"),
        (("batch", "batch", None, None), "'batch' once"),
        ({"y": ("batch", None, None, None)}, "Unknown input 'y'. .*Known: x"),
    ],
)
def test_axes_that_do_not_fit_are_refused(axes, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        export(networks.build(networks.Plain), networks.samples(3), tmp_path / "b.offramp", axes=axes)


def test_one_sample_is_enough_for_an_example(tmp_path):
    bundle = export(networks.build(networks.Plain), networks.samples(1), tmp_path / "b.offramp")
    x = networks.samples(7, 1)
    assert close(logits_of(bundle, x, size=7), logits_of(bundle, x, size=1))


def test_equal_sizes_of_batch_and_length_are_told_apart(tmp_path):
    net, rng = Masked().eval(), np.random.default_rng(0)
    example = (rng.integers(0, 20, (3, 3)), np.ones((3, 3), np.float32))
    bundle = export(net, example, tmp_path / "b.offramp", axes={"tokens": ("batch", "time"), "mask": ("batch", "time")})
    tokens, mask = rng.integers(0, 20, (2, 7)), np.ones((2, 7), np.float32)
    with torch.no_grad():
        expected = np.stack([y.numpy() for y in net(torch.from_numpy(tokens), torch.from_numpy(mask))], 1)
    assert close(logits_of(bundle, tokens, mask), expected)


class HeavyHead(networks.Plain):
    """The first head alone multiplies more than all that follows."""

    def __init__(self):
        super().__init__()
        self.heads[0] = nn.Sequential(nn.Flatten(), nn.Linear(8 * 256, 400), nn.Linear(400, CLASSES))

    def forward(self, x):
        x = self.parts[0](x)
        first = self.heads[0](x)
        x = self.parts[1](x)
        second = self.heads[1](networks.classify(x))
        return [first, second, self.heads[2](networks.classify(self.parts[2](x)))]


def test_a_heavy_head_does_not_make_an_exit_a_deep_one(tmp_path):
    net = networks.build(HeavyHead)
    stages = export(net, networks.samples(3), tmp_path / "b.offramp").variant().stages
    assert stages[0].macs > stages[1].macs + stages[2].macs
    wrong = networks.build(lambda: Returns(lambda e, x: [e[1], e[0], e[2]]))
    with pytest.raises(ModelError, match="here exit1, exit0, exit2, or ask"):
        export(wrong, networks.samples(3), tmp_path / "b.offramp")


def test_an_exit_named_twice_is_refused(tmp_path):
    with pytest.raises(UsageError, match="named twice among the exits exit0, exit1, exit1"):
        export(
            networks.build(networks.Plain),
            networks.samples(3),
            tmp_path / "b.offramp",
            exits=["exit0", "exit1", "exit1"],
        )


def test_torchscript_keeps_an_input_that_nothing_reads(no_dynamo, tmp_path):
    class Unused(networks.Plain):
        def forward(self, x, spare=None):
            return super().forward(x)

    net = networks.build(networks.Plain)
    net.__class__ = Unused
    bundle = export(net, (networks.samples(3), np.zeros((3, 2), np.float32)), tmp_path / "b.offramp")
    assert [t.name for t in bundle.manifest.inputs] == ["x", "spare"]


def test_a_float64_network_takes_images(tmp_path):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(48, 8), nn.Linear(8, 8)
            self.heads = nn.ModuleList([nn.Linear(8, CLASSES) for _ in range(2)])

        def forward(self, x):
            x = torch.tanh(self.a(x.flatten(1)))
            return self.heads[0](x), self.heads[1](torch.tanh(self.b(x)))

    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    bundle = export(
        Wide().double(), images, tmp_path / "b.offramp", preprocess=Preprocess(mean=(0.5,) * 3, std=(0.2,) * 3)
    )
    assert (bundle.variant().precision, bundle.manifest.inputs[0].dtype) == ("fp64", "uint8")


@pytest.mark.parametrize("masked", [0.0, -1e9, float("-inf")])
def test_a_network_that_draws_random_numbers_is_refused(masked, tmp_path):
    class Drawing(networks.Plain):
        def forward(self, x):
            exits = super().forward(x + 0.1 * torch.rand_like(x))
            return [y + torch.tensor([0, 0, 0, 0, masked]) for y in exits]

    net = networks.build(networks.Plain)
    net.__class__ = Drawing
    with pytest.raises(ModelError, match="draws random numbers"):
        export(net, networks.samples(3), tmp_path / "b.offramp")


@pytest.mark.parametrize("masked", [-1e9, float("-inf")])
def test_a_masked_class_hides_no_error_of_the_others(masked, tmp_path, monkeypatch):
    def mask(exits, x):
        return [y + torch.tensor([0, 0, 0, 0, masked]) for y in exits]

    net = networks.build(lambda: Returns(mask))
    export(net, networks.samples(3), tmp_path / "b.offramp")
    captured = capture.capture_torch

    def wrong(*arguments, **options):
        network = captured(*arguments, **options)
        return replace(
            network, reference=lambda x: [{"logits": 1.001 * parts["logits"]} for parts in network.reference(x)]
        )

    monkeypatch.setattr(capture, "capture_torch", wrong)
    with pytest.raises(CheckError, match="differs from the original"):
        export(net, networks.samples(3), tmp_path / "c.offramp")


def test_attributes_of_a_network_that_are_called_as_those_of_attached_ones_are_not_read(tmp_path):
    net = networks.build(networks.Plain)
    net.takes_inputs, net.exit_places = True, {"exit0": 3}
    bundle = export(net, networks.samples(3), tmp_path / "b.offramp")
    assert bundle.variant().exits[0].place is None


def test_a_buffer_that_is_expanded_is_left_as_it_is(tmp_path):
    net = networks.build(networks.Plain)
    net.register_buffer("ones", torch.ones(1).expand(16))
    export(net, networks.samples(3), tmp_path / "b.offramp")
    assert net.ones.stride() == (0,) and net.ones.sum() == 16


def test_what_a_network_counts_in_its_buffers_is_put_back(tmp_path):
    class Counting(networks.Plain):
        def forward(self, x):
            self.calls.add_(1)
            self.last = x.mean()
            return super().forward(x)

    net = networks.build(networks.Plain)
    net.register_buffer("calls", torch.tensor(0))
    net.register_buffer("last", torch.tensor(0.0))
    net.__class__ = Counting
    export(net, networks.samples(3), tmp_path / "b.offramp")
    assert net.calls == 0 and net.last == 0


@pytest.mark.parametrize("dtype", ["float64", "uint8"])
@pytest.mark.parametrize(
    "use",
    [
        lambda x, path: export(networks.build(networks.Plain), x, path),
        lambda x, path: attach(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 5)), x),
        lambda x, path: train(networks.build(networks.Plain), [(x, np.zeros(len(x), np.int64))], epochs=1),
    ],
)
def test_samples_of_another_dtype_than_the_weights_are_named_with_both(dtype, use, tmp_path):
    x = networks.samples(3).astype(dtype)
    with pytest.raises(DataError, match=rf"is {dtype}; the weights of .* are float32, .*astype\(numpy.float32\)"):
        use(x, tmp_path / "b.offramp")


def test_a_dtype_that_numpy_does_not_have_is_not_proposed_to_it():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 5)).bfloat16()
    with pytest.raises(DataError, match=r"are bfloat16, in which it runs. Convert by x.to\(torch.bfloat16\)"):
        attach(net, torch.randn(3, 8))


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda x, path: export(networks.build(networks.Plain), x, path), ModelError),
        (lambda x, _: attach(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 5)), x), DataError),
    ],
)
def test_a_dtype_that_torch_does_not_have_is_named(use, error, tmp_path):
    with pytest.raises(error, match="can't convert np.ndarray of type numpy.longdouble"):
        use(networks.samples(3).astype(np.longdouble), tmp_path / "b.offramp")


def test_a_dtype_is_not_blamed_for_what_fails_in_any(tmp_path):
    with pytest.raises(ModelError, match=r"does not run on the example of shape \(3, 5, 12, 12\) float64"):
        export(networks.build(networks.Plain), np.zeros((3, 5, 12, 12)), tmp_path / "b.offramp")
