"""Kinds of networks that others write, each as a small one."""

import pytest
import torch
from torch import nn

from offramp.errors import ModelError
from offramp.export import attach, export

CLASSES = 5


class Positioned(nn.Module):
    """Tokens (batch, 4, 8) through layers that look positions relative to each other up in a table, by indices (2, 2)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.table = nn.Parameter(torch.randn(3, 8))
        self.classify = nn.Linear(8, CLASSES)

    def forward(self, x):
        steps = torch.arange(2)
        for layer in self.layers:
            between = self.table[steps[:, None] - steps[None] + 1]
            x = layer(x) + between.flatten(0, 1)
        return self.classify(x.mean(1))


def test_a_table_of_positions_is_no_input_whatever_its_size():
    assert attach(Positioned(), torch.randn(3, 4, 8), fractions=(0.3, 0.55)).places == ("layers.0", "layers.1")


class Shared(nn.Module):
    """Layers taken out of their list by index, and one activation for all."""

    def __init__(self):
        super().__init__()
        activation = nn.ReLU()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), activation) for _ in range(4))
        self.classify = nn.Linear(8, CLASSES)

    def forward(self, x):
        for i in range(4):
            x = self.layers[i](x)
        return self.classify(x)


def test_layers_with_shared_parts_that_are_taken_by_index_are_exported(tmp_path):
    net = attach(Shared(), torch.randn(3, 8), fractions=(0.3, 0.55))
    assert export(net, torch.randn(4, 8), tmp_path / "shared.offramp").manifest.captured == "dynamo"


class Mixed(nn.Module):
    """Multiplies tokens (batch, 4, 8) with a matrix that mixes tokens and channels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 32))

    def forward(self, x):
        return (x.flatten(1) @ self.weight).view(x.shape)


class Pair(nn.Module):
    """Adds to each of two streams, (batch, tokens, 8) or so, what it makes of the other."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, inner, outer):
        rows = inner.flatten(0, 1).unflatten(0, outer.shape[:2])
        return inner + self.inner(outer.reshape(inner.shape)), outer + self.outer(rows)


class Streams(nn.Module):
    """Two streams side by side. One has the batch as an axis; the other has, for each sample, `windows` rows instead."""

    def __init__(self, windows):
        super().__init__()
        self.windows = windows
        self.blocks = nn.ModuleList(Pair() for _ in range(4))
        self.classify = nn.Linear(8, CLASSES)

    def forward(self, x):
        inner, outer = x.unflatten(1, (self.windows, -1)).flatten(0, 1), x
        for block in self.blocks:
            inner, outer = block(inner, outer)
        return self.classify(inner.reshape(x.shape).mean(1) + outer.mean(1))


class Fork(nn.Module):
    """Makes two streams of one."""

    def __init__(self):
        super().__init__()
        self.widen = nn.Linear(8, 12)

    def forward(self, x):
        return [x, self.widen(x)]


class Join(nn.Module):
    """Classifies two streams."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(20, CLASSES)

    def forward(self, streams):
        return self.classify(torch.cat([x[:, 0] for x in streams], 1))


class Crossing(nn.Module):
    """Two streams, tokens of widths 8 and 12, whose first tokens each get something of the other's."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for width in (8, 12))
        self.across = nn.ModuleList(nn.Sequential(nn.LayerNorm(a), nn.Linear(a, b)) for a, b in ((12, 8), (8, 12)))

    def forward(self, streams):
        a, b = (layer(x).relu() for layer, x in zip(self.layers, streams, strict=True))
        firsts = [across(x[:, :1]) for across, x in zip(self.across, (b, a), strict=True)]
        return [torch.cat((first, x[:, 1:]), 1) for first, x in zip(firsts, (a, b), strict=True)]


def test_the_layout_of_a_stream_is_known_behind_the_layers_of_the_other():
    net = nn.Sequential(Fork(), Crossing(), Crossing(), Join())
    assert attach(net, torch.randn(3, 5, 8), at=["1"]).attached[0].layout == ("batch", "tokens", "channels")


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        (
            1,
            r"several: \(3, 4, 8\), \(3, 4, 8\) for 3 samples. Which .*With at=\['blocks.0', 'blocks.1'\] it reads the first",
        ),
        (2, r"blocks.0, at 24.52% of the work, .* No axis of \(6, 2, 8\) is as long as there are samples"),
    ],
)
def test_of_two_streams_side_by_side_the_refusal_names_both(windows, words):
    net, x = Streams(windows), torch.randn(3, 4, 8)
    with pytest.raises(ModelError, match=words):
        attach(net, x, fractions=(0.25, 0.5))
    if windows == 1:
        assert attach(net, x, at=["blocks.0", "blocks.1"]).places == ("blocks.0", "blocks.1")


def test_where_every_place_is_near_the_end_the_refusal_names_the_first():
    net = nn.Sequential(nn.Linear(8, 90), nn.ReLU(), nn.Linear(90, 2), nn.Linear(2, CLASSES))
    words = r"is 1, at 79.* work: nearer to the network's end than to the fraction 0.5.*at=\['1'\]"
    with pytest.raises(ModelError, match=words):
        attach(net, torch.randn(3, 8), fractions=(0.2, 0.5))
    assert attach(net, torch.randn(3, 8), at=["1"]).places == ("1",)


def test_where_the_layout_is_not_known_the_refusal_names_the_place_nearest_to_what_was_asked():
    net = nn.Sequential(Mixed(), Mixed(), nn.Flatten(), nn.Linear(32, CLASSES))
    with pytest.raises(
        ModelError, match=r"nearest to 0.5 of the work is 0, at 4.*It is not known which axis of 0, .*layouts="
    ):
        attach(net, torch.randn(3, 4, 8), fractions=(0.5,))
