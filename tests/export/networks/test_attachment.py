import copy
import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from offramp.bundle import open_bundle
from offramp.errors import DataError, ModelError, UsageError
from offramp.export import export
from offramp.export.networks.attachment import attach
from offramp.export.networks.heads import map_head
from offramp.export.networks.inputs import call_network, read_inputs
from offramp.runtime import load_uncalibrated

CLASSES, WORDS = 5, 30


class Block(nn.Module):
    """A residual block that adds and activates in place."""

    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o)
        self.conv2, self.norm2 = nn.Conv2d(o, o, 3, 1, 1), nn.BatchNorm2d(o)
        self.down = nn.Conv2d(i, o, 1, stride) if i != o else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.norm1(self.conv1(x)))
        shortcut = self.down(x)
        y = self.norm2(self.conv2(y))
        y += shortcut
        return self.relu(y)


class Residual(nn.Module):
    """A small ResNet. The blocks end at 23, 40, 53, 70, 83 and 100 percent of the work."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
        self.layer2 = nn.Sequential(Block(4, 8, 2), Block(8, 8, 1))
        self.layer3 = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        self.classify = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.classify(self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3)))


class Tokens(nn.Module):
    """A transformer of three layers over word indices; 0 is padding. Without padding it normalises first."""

    def __init__(self, padding=False):
        super().__init__()
        self.padding = padding
        self.embed, self.position = nn.Embedding(WORDS, 16), nn.Parameter(torch.randn(1, 6, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=not padding)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=padding)
        self.classify = nn.Linear(16, CLASSES)

    def forward(self, ids):
        mask = ids == 0 if self.padding else None
        return self.classify(self.encoder(self.embed(ids) + self.position, src_key_padding_mask=mask)[:, 0])


class Dense(nn.Module):
    """Every layer reads the input again."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3 if k == 0 else 7, 4, 3, 1, 1) for k in range(4)])
        self.classify = nn.Linear(4, CLASSES)

    def forward(self, x):
        y = self.layers[0](x)
        for layer in self.layers[1:]:
            y = layer(torch.cat([x, y], 1))
        return self.classify(y.mean((2, 3)))


class Steps(nn.Module):
    """Takes (batch, 3, 16) and has the time first inside."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.classify = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.classify(self.two(self.one(x.permute(2, 0, 1)).relu()).mean(0))


class Apply(nn.Module):
    """Some function of a network's output."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *inputs):
        return self.function(self.network(*inputs))


class Mean(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, x):
        return x.mean(self.axis)


class Odd(nn.Module):
    """One layer is run twice, one never, one gives whole numbers and one no batch."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.spare = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.rounded, self.scale = Apply(self.first, torch.Tensor.long), Apply(nn.Identity(), torch.mean)
        self.classify = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.classify(self.again(self.again(x)) + self.rounded(x)) * self.scale(x)


@dataclass
class Output:
    logits: torch.Tensor
    states: tuple[torch.Tensor, ...]


class Pair(NamedTuple):
    features: torch.Tensor
    more: torch.Tensor


def make(kind, *arguments):
    """Make a network in eval mode and samples for it."""
    torch.manual_seed(0)
    net = kind(*arguments).eval()
    return net, torch.randint(1, WORDS, (4, 6)) if kind is Tokens else torch.randn(4, 3, 16, 16)


def run(net, *inputs):
    with torch.no_grad():
        return net(*inputs)


def last_state(output):
    return output[0][:, -1, :CLASSES]


def close(values, expected):
    return np.abs(values - expected).max() / np.abs(expected).max() <= 1e-5


def test_named_places_get_exits_and_the_network_says_the_same():
    net, x = make(Residual)
    expected, start = run(net, x), run(net.get_submodule("stem")[:2], x)
    attached = attach(net, x, at=["stem.1", "layer2.0", "layer3"])
    exits = run(attached, x)
    assert attached.network is net and attached.places == ("stem.1", "layer2.0", "layer3")
    assert torch.equal(exits[0], run(attached.heads[0], start))  # though an activation in place follows
    assert [tuple(logits.shape) for logits in exits] == [(4, CLASSES)] * 4
    assert torch.equal(exits[-1], expected)


@pytest.mark.parametrize(
    ("network", "places"),
    [
        ((Residual,), ("layer1.0", "layer1", "layer2.0")),
        ((Tokens,), ("encoder.layers.0", "encoder.layers.1")),  # two fractions share the second
        ((Tokens, True), ("encoder.layers.0.norm1", "encoder.layers.0", "encoder.layers.1")),
    ],
    ids=["residual", "tokens", "normalised last"],
)
def test_auto_finds_the_places_nearest_to_the_fractions(network, places):
    net, x = make(*network)
    expected = run(net, x)
    attached = attach(net, x)
    assert attached.places == places
    assert close(run(attached, x)[-1].numpy(), expected.numpy())


def test_all_takes_one_place_at_each_depth_but_the_last_of_the_work():
    network = attach(Residual(), torch.zeros(2, 3, 8, 8), at="all")
    assert network.places == ("stem", "layer1.0", "layer1", "layer2.0", "layer2", "layer3.0")
    assert network.notes == ()
    with pytest.raises(ModelError, match="The first module that could have one is 0, at 9"):
        attach(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2)), torch.zeros(2, 64), at="all")


def test_auto_leaves_out_what_is_nearer_to_the_end():
    net, x = make(Residual)
    assert attach(net, x, fractions=(0.8, 0.99)).places == ("layer3.0",)


def test_auto_takes_no_shortcut_for_the_depth_it_is_run_at():
    net, x = make(Residual)  # layer1.1.down, an identity, is run at 32 percent
    assert attach(net, x, fractions=(0.32,)).places == ("layer1",)


def test_auto_takes_the_last_of_the_layers_without_work():
    parts = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.Flatten()]
    net, x = make(nn.Sequential, *parts, nn.Linear(200, CLASSES))
    assert attach(net, x, fractions=(0.5,)).places == ("2",)


def test_auto_sees_through_tuples_and_in_place_first_layers():
    class Layer(nn.Module):
        def __init__(self, i):
            super().__init__()
            self.conv = nn.Conv2d(i, 8, 3)

        def forward(self, x):
            x = x.mul_(0.5).add_(1)
            return Pair(self.conv(x), x[:, :1, 1:-1, 1:-1])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.classify = Layer(3), Layer(8), Layer(9), nn.Linear(8, CLASSES)

        def forward(self, x):
            y = self.b(self.a(x).features)
            return self.classify(self.c(torch.cat(list(y), 1)).features.mean((2, 3)))

    # b hands on more than its features, so the only cut before c is a.
    net, x = make(Net)
    before = x.clone()
    assert attach(net, x, fractions=(0.5,)).places == ("a",)
    assert torch.equal(x, before)


@pytest.mark.parametrize("wrap", [lambda y: {"logits": y}, lambda y: Output(y, (y, y))], ids=["dict", "dataclass"])
def test_logits_are_taken_out_of_a_dict_or_dataclass(wrap):
    net, x = make(Residual)
    attached = attach(Apply(net, wrap), x, at=["network.layer1"])
    assert torch.equal(run(attached, x)[-1], run(net, x))


def test_arrays_and_several_inputs_make_an_example():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.classify = nn.Conv2d(3, 8, 3), nn.Linear(9, CLASSES)

        def forward(self, image, number):
            return self.classify(torch.cat([self.image(image).mean((2, 3)), number], 1))

    net, x = make(Two)
    attached = attach(net, (x.numpy(), np.ones((4, 1), np.float32)), at="image")
    named = run(lambda: attached(x, number=torch.ones(4, 1)))
    assert torch.equal(named[0], run(attached, x, torch.ones(4, 1))[0])


def test_the_default_head_suits_the_axes_and_takes_dtype_from_the_features():
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.Flatten(), nn.Linear(14 * 8, 8), nn.Linear(8, CLASSES)).double()
    x = torch.randn(4, 3, 16, dtype=torch.float64)
    attached = attach(net, x, at=["0", "1", "2"])
    assert [value.dtype for value in run(attached, x)] == [torch.float64] * 4
    assert type(attached.heads[1]) is type(attached.heads[2]) is nn.Linear


def test_three_axes_are_maps_where_convolutions_made_them_and_tokens_elsewhere():
    convolved = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(112, CLASSES))
    (head,) = attach(convolved, torch.randn(4, 3, 16), at=["2"]).heads
    assert type(head[0]) is nn.AvgPool1d
    tokens = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES))
    (head,) = attach(tokens, torch.randn(4, 3, 16), at=["1"]).heads
    assert type(head[0]) is nn.LayerNorm


@pytest.mark.parametrize(
    ("channels", "space", "cells"),
    [(4, (8,), (4,)), (4, (3, 20), (3, 4)), (4, (2, 4, 8), (2, 4, 4)), (100, (8, 6), (2, 2))],
)
def test_the_map_head_averages_in_the_cells_of_a_grid(channels, space, cells):
    x = torch.randn(2, channels, *space)
    head: Any = map_head(x, CLASSES).eval()
    pool = [nn.functional.adaptive_avg_pool1d, nn.functional.adaptive_avg_pool2d, nn.functional.adaptive_avg_pool3d]
    means = pool[len(space) - 1](x, cells if len(space) > 1 else cells[0])  # the same where the cells divide the sizes
    assert torch.allclose(head(x), head[3](head[1](means).flatten(1)), atol=1e-6)


def test_the_map_head_sees_all_of_a_map_and_stays_small():
    for sizes in [(1, 1), (5, 7), (30, 14), (56, 56)]:
        x = torch.zeros(1, 8, *sizes, requires_grad=True)
        map_head(x, CLASSES).eval()(x).abs().sum().backward()
        assert x.grad is not None and (x.grad != 0).all()
    for channels in (3, 64, 65, 256, 257, 2048):
        assert map_head(torch.zeros(1, channels, 14, 14), CLASSES)[3].in_features <= max(1024, channels)


@pytest.mark.parametrize("channels", [8, 300])
def test_the_map_head_trains_on_a_single_sample(channels):
    assert map_head(torch.zeros(2, channels, 7, 7), CLASSES).train()(torch.randn(1, channels, 7, 7)).shape == (
        1,
        CLASSES,
    )


def test_the_map_head_reads_one_axis_of_space_too():
    head: Any = map_head(torch.randn(2, 8, 14), CLASSES)
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.Flatten(), nn.Linear(14 * 8, CLASSES))
    attached = attach(net, torch.randn(2, 3, 16), at=["0"], head=map_head)
    assert [name for name, _ in attached.heads.named_parameters()] == [
        f"0.{name}" for name, _ in head.named_parameters()
    ]


def test_a_head_of_ones_own_may_read_what_has_no_batch_first():
    net, x = make(Steps)[0], torch.randn(4, 3, 16)
    head = Apply(nn.Linear(8, CLASSES), lambda y: y.mean(0))
    assert run(attach(net, x, at=["one"], head=lambda features, classes: head), x)[0].shape == (4, CLASSES)
    with pytest.raises(ModelError, match=r"exit at one gives \(16, 5\)"):
        attach(net, x, at=["one"], head=lambda features, classes: nn.Sequential(nn.Linear(8, CLASSES), Mean(1)))
    with pytest.raises(ModelError, match=r"exit at one gives \(16, 5\)"):  # as many steps as samples
        attach(
            net,
            torch.randn(16, 3, 16),
            at=["one"],
            head=lambda features, classes: nn.Sequential(nn.Linear(8, CLASSES), Mean(1)),
        )


@pytest.mark.parametrize(
    ("at", "error", "words"),
    [
        (["agian"], UsageError, "Did you mean 'again'"),
        ([], UsageError, "must list modules"),
        (["first", "first"], UsageError, r"once each.*at=\['first'\]"),
        (["classify", "first"], UsageError, r"at=\['first', 'classify'\]"),
        (["again"], ModelError, "again is run 2 times.*again:1 to again:2"),
        (["again:3"], ModelError, "run 2 times.*no again:3"),
        (["again:two"], UsageError, "Unknown module"),
        (["spare"], ModelError, "spare is run 0 times"),
        (["rounded"], ModelError, "rounded returns no float tensor"),
        (["scale"], ModelError, "scale returns no float tensor"),
    ],
)
def test_modules_that_cannot_have_an_exit_are_refused(at, error, words):
    with pytest.raises(error, match=words):
        attach(Odd(), torch.randn(4, 8), at=at)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at": None}, "names of modules, not None"),
        ({"at": ["stem", 3]}, "names of modules, not .*3"),
        ({"fractions": 0.5}, "list of numbers, not 0.5"),
        ({"fractions": ["0.5"]}, "list of numbers, not .*0.5"),
    ],
)
def test_places_of_another_kind_are_refused(options, words):
    net, x = make(Residual)
    with pytest.raises(UsageError, match=words):
        attach(net, x, **options)


class TwoInputs(nn.Module):
    def forward(self, left, right):
        return left + right


@pytest.mark.parametrize("names", [("left", "rigth"), ("left", "right", "third"), ("right", "third")])
def test_inputs_of_other_names_than_the_networks_are_refused(names):
    x = {name: torch.zeros(2, 3) for name in names}
    with pytest.raises(DataError, match=f"{names[-1]}|right"):
        call_network(TwoInputs(), x)
    with pytest.raises(DataError, match=f"{names[-1]}|right"):
        read_inputs(TwoInputs(), x, None)


@pytest.mark.parametrize("fractions", [(), (0.0, 0.5), (0.5, 0.5), (0.6, 0.3), (0.5, 1.0)])
def test_fractions_that_do_not_rise_are_refused(fractions):
    net, x = make(Residual)
    with pytest.raises(UsageError, match="do not rise"):
        attach(net, x, fractions=fractions)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Dense, "layers.3, at 99.99% of the work: nearer.*fraction 0.6"),
        (lambda: Apply(Residual(), torch.Tensor.detach), "no gradient.*Name modules"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)), "Name modules"),
        (
            lambda: nn.Sequential(nn.Flatten(1, 2), nn.LSTM(16, 8, 3), Apply(nn.Identity(), last_state)),
            "num_layers above 1",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Identity(), Apply(nn.Identity(), lambda x: x[:, :CLASSES])),
            "not known: none",
        ),
    ],
)
def test_auto_asks_for_names_where_it_finds_no_place(network, words):
    net, x = make(network)
    with pytest.raises(ModelError, match=words):
        attach(net, x)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda y: [y, y], "returns a list"),
        (lambda y: {"a": None, "b": "y"}, "returns a dict"),
        (lambda y: {"a": y, "b": y, "c": y.argmax(1)}, r"The part c of what the network returns is int64 \(4,\)"),
        (lambda y: y.argmax(1), r"What the network returns is int64 \(4,\)"),
        (lambda y: y.sum(), r"What the network returns is float32 \(\)"),
        (lambda y: y.T, r"returns \(5, 4\) for 4 samples; the first axis of an answer is the batch"),
        (lambda y: y.reshape(3, 3, 3), "does not run on the example .*: shape"),
        (lambda y: y.reshape(4, 5), "4 samples but not on 5"),
    ],
)
def test_what_gives_no_answer_for_each_sample_is_refused(function, words):
    net, x = make(Residual)
    with pytest.raises(ModelError, match=words):
        attach(Apply(net, function), x, at=["network.stem"])


def test_what_cannot_train_is_refused():
    with pytest.raises(ModelError, match="the module that it was made from"):
        attach(torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, CLASSES))), torch.randn(4, 8))
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, CLASSES))
    with pytest.raises(ModelError, match="inference_mode"):
        attach(net, torch.randn(4, 8))


@pytest.mark.parametrize(
    "example", [[], [1, 2], np.float32(1), torch.zeros(0, 3), (torch.zeros(2, 3), np.zeros((3, 3)))]
)
def test_what_is_no_example_is_refused(example):
    with pytest.raises(DataError, match="batch axis"):
        attach(Odd(), example)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (lambda features, classes: nn.Flatten(), r"layer1 gives \(5, 1024\)"),
        (lambda features, classes: nn.Linear(3, classes), "layer1 fails on features"),
        (lambda features, classes: None, "layer1 fails on features"),
    ],
)
def test_a_head_without_logits_is_named_and_the_network_is_left_as_it_was(head, words):
    net, x = make(Residual)
    net.train().stem.eval()
    net.classify.bias.requires_grad_(False)
    modes, before = [part.training for part in net.modules()], copy.deepcopy(net.state_dict())
    with pytest.raises(ModelError, match=words):
        attach(net, x, head=head, fractions=(0.4,))
    assert [part.training for part in net.modules()] == modes
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["classify.bias"]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def train(attached, x, steps):
    """Train on every exit; returns the first and last loss of all exits but the last."""
    attached.train()
    y = torch.arange(len(x)) % CLASSES
    optimizer = torch.optim.Adam((p for p in attached.parameters() if p.requires_grad), 0.05)
    losses = []
    for _ in range(steps):
        exits = attached(x)
        loss = sum(nn.functional.cross_entropy(logits, y) for logits in exits[:-1])
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss + nn.functional.cross_entropy(exits[-1], y)).backward()
        optimizer.step()
    return losses[0], losses[-1]


def test_training_a_frozen_network_changes_its_heads_only():
    net, x = make(Residual)
    before = copy.deepcopy(net.state_dict())
    attached = attach(net, x)
    assert not attached.training and not any(p.requires_grad for p in net.parameters())
    first, last = train(attached, x, 20)
    assert last < 0.8 * first
    assert attached.heads[0].training and not any(part.training for part in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_network_that_an_earlier_attach_froze_is_not_said_to_train():
    net, x = make(Residual)
    attach(net, x)
    with pytest.raises(UsageError, match=r"none of its parameters takes gradients.*requires_grad_\(True\)"):
        attach(net, x, frozen=False)
    attach(net.requires_grad_(True), x, frozen=False)


def test_training_a_network_that_is_not_frozen_changes_it():
    net, x = make(Residual)
    before = copy.deepcopy(net.state_dict())
    train(attach(net, x, frozen=False), x, 1)
    assert net.training
    assert not any(torch.equal(value, before[name]) for name, value in net.state_dict().items() if value.ndim > 1)
    assert not torch.equal(net.stem[1].running_mean, before["stem.1.running_mean"])


def test_a_padded_transformer_trains_frozen():
    net, x = make(Tokens, True)
    x[:, 4:] = 0
    expected = run(net, x)
    attached = attach(net, x)
    assert close(run(attached, x)[-1].numpy(), expected.numpy())
    first, last = train(attached, x, 10)
    assert last < first


def test_copies_and_saved_weights_give_the_same():
    net, x = make(Residual)
    attached = attach(net, x)
    expected = run(attached, x)
    twin = copy.deepcopy(attached)
    assert twin.network is not net
    other = attach(Residual(), x)
    assert not torch.equal(run(other, x)[0], expected[0])
    other.load_state_dict(attached.state_dict())
    for copied in (twin, other):
        assert all(torch.equal(a, b) for a, b in zip(run(copied, x), expected, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False])
def test_both_exporters_take_it_at_any_batch_size(tmp_path, dynamo):
    class Whole(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return tuple(self.network(x))

    net, x = make(nn.Sequential, nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(784, CLASSES))
    attached = attach(net, x[:2], at=["0", "2"])
    axes = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
    path = tmp_path / "net.onnx"
    torch.onnx.export(Whole(attached).eval(), (x[:2],), path, dynamo=dynamo, input_names=["x"], **axes)
    outputs = onnxruntime.InferenceSession(path).run(None, {"x": x[:3].numpy()})
    assert all(close(a, b.numpy()) for a, b in zip(outputs, run(attached, x[:3]), strict=True))


def test_an_attached_network_whose_inputs_were_given_by_name_is_exported_beside_itself(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
            self.classify = nn.Linear(8, CLASSES)

        def forward(self, left, right):
            return self.classify((self.left(left) - 2 * self.right(right)).mean((2, 3)))

    net, x = make(Pair)
    attached = attach(net, (x, x), at="left")
    example = {"right": x.numpy(), "left": 2 * x.numpy()}
    bundle = export(attached, example, tmp_path / "net.offramp")
    export(attached, None, tmp_path / "net.offramp", beside="again")
    expected = np.stack([logits.numpy() for logits in run(attached, 2 * x, x)], 1)
    for variant in ("fp32", "again"):
        with load_uncalibrated(open_bundle(bundle.path), variant=variant, logits=True) as chain:
            assert close(chain.every_exit(example).logits, expected)


@pytest.mark.parametrize("kind", [Residual, Tokens])
def test_an_attached_network_is_exported_and_run(tmp_path, kind):
    net, x = make(kind)
    attached = attach(net, x)
    bundle = export(attached, x, tmp_path / "net.offramp")
    assert [tensor.name for tensor in bundle.manifest.inputs] == list(inspect.signature(net.forward).parameters)
    expected = np.stack([logits.numpy() for logits in run(attached, x)], 1)
    with load_uncalibrated(bundle, logits=True) as chain:
        assert close(chain.every_exit(x.numpy()).logits, expected)
