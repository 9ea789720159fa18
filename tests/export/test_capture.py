"""What strangers' torch networks take and return, and what must not be captured silently."""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from offramp.errors import DataError, ModelError, UsageError
from offramp.export import Preprocess, export
from offramp.runtime.loading import load_uncalibrated

import networks
from dense import CLASSES


def logits_of(bundle, *inputs, size=None):
    """What every exit of a bundle says: (N, exits, classes)."""
    with load_uncalibrated(bundle, logits=True) as chain:
        axis = bundle.manifest.inputs[0].shape.index(None)
        return chain.every_exit(inputs, size=size or min(16, inputs[0].shape[axis])).logits


def close(a, b):
    return np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


class Returns(networks.Plain):
    """The plain network, its exits handed through a function."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(super().forward(x), x)


@dataclass
class Inner:
    shallow: torch.Tensor
    deep: torch.Tensor


@pytest.mark.parametrize(
    ("how", "exits", "names"),
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
def test_exits_are_found_in_whatever_a_network_returns(how, exits, names, tmp_path):
    net = networks.build(lambda: Returns(how))
    bundle = export(net, networks.samples(3), tmp_path / "b.offramp", exits=exits)
    assert [exit_.name for exit_ in bundle.variant().exits] == names
    x = networks.samples(4, 1)
    with torch.no_grad():
        plain = np.stack([y.numpy() for y in networks.Plain.forward(net, torch.from_numpy(x))], 1)
    assert close(logits_of(bundle, x), plain[:, [0, 2]] if len(names) == 2 else plain)


@pytest.mark.parametrize(
    ("how", "options", "error", "words"),
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
def test_what_are_no_exits_is_refused_in_one_sentence(how, options, error, words, tmp_path):
    with pytest.raises(error, match=words):
        export(networks.build(lambda: Returns(how)), networks.samples(3), tmp_path / "b.offramp", **options)


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


def test_a_length_that_decides_something_cannot_be_dynamic(tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(12, CLASSES), nn.Linear(12, CLASSES)])

        def forward(self, x):
            first = self.heads[0](x)
            return first, self.heads[1](torch.tanh(x @ x.new_ones(12, 12)))

    x = np.random.default_rng(0).standard_normal((3, 12)).astype(np.float32)
    with pytest.raises(ModelError, match=r"time|torch cannot export"):
        export(Fixed().eval(), x, tmp_path / "b.offramp", axes=("batch", "time"))


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


class Subsampled(nn.Module):
    """A sequence whose length is divided on the way, and counted where it is short."""

    def __init__(self, stride=16):
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 6, 5, 1, 2), nn.Conv1d(6, 8, stride, stride)
        self.third = nn.Conv1d(8, 8, 1)
        self.heads = nn.ModuleList([nn.Linear(i, CLASSES) for i in (6, 8, 8)])

    def forward(self, x):
        x = torch.relu(self.first(x))
        exits = [self.heads[0](x.mean(2))]
        x = torch.relu(self.second(x))
        exits.append(self.heads[1](x.sum(2) / x.shape[2]))
        x = torch.relu(self.third(x)) + x
        return [*exits, self.heads[2](x.sum(2) / x.shape[2])]


@pytest.mark.parametrize("example", [16, 40])
def test_lengths_far_from_the_examples_own_are_right(example, tmp_path):
    torch.manual_seed(0)
    net, rng = Subsampled().eval(), np.random.default_rng(0)
    x = rng.standard_normal((3, 2, example)).astype(np.float32)
    bundle = export(net, x, tmp_path / "b.offramp", axes=("batch", None, "time"))
    with load_uncalibrated(bundle, logits=True) as chain:
        for length in (16, 17, 33, 64, 250):
            x = rng.standard_normal((2, 2, length)).astype(np.float32)
            with torch.no_grad():
                expected = np.stack([y.numpy() for y in net(torch.from_numpy(x))], 1)
            assert close(chain.every_exit(x, size=2).logits, expected)
        with pytest.raises(DataError, match="The engine cannot run this sample"):
            chain(x[0, :, :3])
        assert close(chain(x[0]).logits, expected[0, -1])


class LoopedSequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h, exits = self.embed(x), []
        for _ in range(4):
            h = h + torch.tanh(self.block(h))
            exits.append(self.head(h.mean(1)))
        return exits


def test_a_loop_over_sequences_of_any_length_is_stored_once_too(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 9, 3)).astype(np.float32)
    bundle = export(LoopedSequence().eval(), x, tmp_path / "b.offramp", axes=("batch", "time", None))
    assert [stage.file for stage in bundle.variant().stages] == ["stage0.onnx", *["stage1.onnx"] * 3]
    assert {t.shape for stage in bundle.variant().stages for t in stage.outputs} == {(None, "time", 8)}


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
