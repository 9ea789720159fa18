from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from offramp.export import attach
from offramp.export.networks.heads import arrange

CLASSES, SAMPLES = 4, 512


class Apply(nn.Module):
    """Some function of the features, such as a change of the order of the axes."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Net(nn.Module):
    """A body whose output is classified by the mean over all axes but those of the batch and of the channels."""

    def __init__(self, *body, channels, batch=0):
        super().__init__()
        self.body, self.channels, self.batch = nn.Sequential(*body), channels, batch
        self.classify = nn.LazyLinear(CLASSES)

    def means(self, features):
        return features.movedim((self.batch, self.channels), (0, 1)).flatten(2).mean(2)

    def forward(self, x):
        return self.classify(self.means(self.body(x)))


class Looped(nn.Module):
    """One block, run three times on tokens."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh())
        self.classify = nn.LazyLinear(CLASSES)

    def means(self, features):
        return features.mean(1)

    def forward(self, x):
        for _ in range(3):
            x = x + self.body(x)
        return self.classify(self.means(x))


class Masked(nn.Module):
    """Tokens, some of which are padding and hold nothing but noise."""

    def __init__(self, width):
        super().__init__()
        self.body, self.classify = nn.Sequential(nn.Linear(width, width), nn.Tanh()), nn.LazyLinear(CLASSES)

    def forward(self, x, padding):
        kept = (~padding.bool()).float()[:, :, None]
        return self.classify((self.body(x) * kept).sum(1) / kept.sum(1))


def swap(*order):
    return Apply(lambda x: x.permute(order))


def normalise_tokens(width):
    """BatchNorm1d of tokens (batch, tokens, width), as LeViT has it."""
    return nn.Sequential(swap(0, 2, 1), nn.BatchNorm1d(width), swap(0, 2, 1))


def cut_blocks(x):
    """Cut (batch, 8, 8, channels) into four blocks of 16 tokens, as NesT does."""
    n, _, _, channels = x.shape
    return x.reshape(n, 2, 4, 2, 4, channels).transpose(2, 3).reshape(n, 4, 16, channels)


LAYOUTS: dict[str, tuple[Any, tuple[int, ...], str, tuple[str, ...], tuple[str, ...]]] = {
    # name: network, shape of a sample, place, how a head should read it, and how it should not
    "channels first": (
        lambda: Net(nn.Conv2d(12, 24, 1), nn.Tanh(), channels=1),
        (12, 6, 6),
        "body",
        ("batch", "channels", "space", "space"),
        ("batch", "space", "space", "channels"),
    ),
    "channels last": (
        lambda: Net(nn.Conv2d(8, 8, 1), swap(0, 2, 3, 1), nn.LayerNorm(8), channels=3),
        (8, 8, 8),
        "body",
        ("batch", "space", "space", "channels"),
        ("batch", "channels", "space", "space"),
    ),
    "tokens": (
        lambda: Net(nn.Linear(6, 12), nn.Tanh(), channels=2),
        (12, 6),
        "body",
        ("batch", "tokens", "channels"),
        ("batch", "channels", "space"),
    ),
    "tokens behind BatchNorm1d": (
        lambda: Net(nn.Linear(6, 12), normalise_tokens(12), nn.Tanh(), channels=2),
        (12, 6),
        "body",
        ("batch", "tokens", "channels"),
        ("batch", "channels", "space"),
    ),
    "blocks of tokens": (
        lambda: Net(nn.Linear(6, 16), Apply(cut_blocks), nn.LayerNorm(16), nn.Tanh(), channels=3),
        (8, 8, 6),
        "body",
        ("batch", "space", "space", "channels"),
        ("batch", "channels", "space", "space"),
    ),
    "sequence first": (
        lambda: Net(swap(1, 0, 2), nn.Linear(6, 12), nn.Tanh(), channels=2, batch=1),
        (12, 6),
        "body",
        ("tokens", "batch", "channels"),
        ("channels", "batch", "tokens"),
    ),
    "recurrent": (
        lambda: Net(swap(1, 0, 2), nn.LSTM(6, 12), Apply(lambda x: x[0]), channels=2, batch=1),
        (12, 6),
        "body.1",
        ("tokens", "batch", "channels"),
        ("channels", "batch", "tokens"),
    ),
    "length behind LayerNorm": (
        lambda: Net(nn.Conv1d(3, 12, 1), swap(0, 2, 1), nn.LayerNorm(12), swap(0, 2, 1), nn.Tanh(), channels=1),
        (3, 12),
        "body",
        ("batch", "channels", "space"),
        ("batch", "tokens", "channels"),
    ),
    "three axes of space": (
        lambda: Net(nn.Conv3d(12, 24, 1), nn.Tanh(), channels=1),
        (12, 4, 3, 3),
        "body",
        ("batch", "channels", "space", "space", "space"),
        ("batch", "space", "space", "space", "channels"),
    ),
    "looped": (
        lambda: Looped(12),
        (12, 12),
        "body:2",
        ("batch", "tokens", "channels"),
        ("batch", "channels", "space"),
    ),
}


def make(name):
    torch.manual_seed(0)
    network, shape, place, right, wrong = LAYOUTS[name]
    # Each channel of the input has a mean of its own in every sample: nothing else tells the classes.
    x = torch.randn(SAMPLES, *shape)
    axis = 0 if name in ("channels first", "length behind LayerNorm", "three axes of space") else len(shape) - 1
    means = torch.randn(SAMPLES, *[size if i == axis else 1 for i, size in enumerate(shape)])
    network = network()
    network(x[:2])  # sizes lazy layers
    return network.eval(), x + 2 * means, place, right, wrong


def features_at(network, place, *inputs):
    """Return a module's outputs, one for each run."""
    outputs: list[torch.Tensor] = []
    handle = network.get_submodule(place.partition(":")[0]).register_forward_hook(
        lambda module, _, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    network(*inputs)
    handle.remove()
    return outputs


def label(means):
    """Return classes that are a linear function of each channel's mean."""
    means = (means - means.mean(0)) / means.std(0)
    return (means @ torch.randn(means.shape[1], CLASSES, generator=torch.Generator().manual_seed(1))).argmax(1)


def learn(attached, inputs, y):
    """Train the only head on half of the samples; return the accuracy of its exit on the other half."""
    (place,), (head,), half = attached.attached, attached.heads, SAMPLES // 2
    with torch.no_grad():
        (features,), _ = attached.read_features(*(x[:half] for x in inputs))
    kept = [inputs[1][:half] == 0] if place.mask else []
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    head.train()
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(head(arrange(features, place.layout), *kept), y[:half]).backward()
        optimizer.step()
    attached.eval()
    with torch.no_grad():
        return (attached(*(x[half:] for x in inputs))[0].argmax(1) == y[half:]).float().mean().item()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_head_reads_the_right_axis(name):
    network, x, place, right, wrong = make(name)
    with torch.no_grad():
        *_, features = features_at(network, place, x)[: 2 if ":" in place else None]
        y = label(network.means(features))
    attached = attach(network, x[:3], at=[place])
    accuracy = learn(attached, (x,), y)
    assert accuracy > 0.75
    assert attached.attached[0].layout == right
    shuffled = attach(network, x[:3], at=[place], layouts={place: wrong})
    assert shuffled.attached[0].layout == wrong
    assert accuracy > learn(shuffled, (x,), y) + 0.15


def test_a_head_leaves_out_what_the_mask_leaves_out():
    torch.manual_seed(0)
    network = Masked(12)
    x = torch.randn(SAMPLES, 12, 12) + torch.randn(SAMPLES, 1, 12)
    padding = (torch.arange(12) >= torch.randint(2, 13, (SAMPLES, 1))).to(torch.int64)
    x[padding.bool()] = 20 * torch.randn(int(padding.sum()), 12)
    network(x[:2], padding[:2])
    network.eval()
    with torch.no_grad():
        kept = (1 - padding)[:, :, None]
        y = label((network.body(x) * kept).sum(1) / kept.sum(1))
    attached = attach(network, (x[:3], padding[:3]), at=["body"])
    assert attached.attached[0].mask == "padding"
    accuracy = learn(attached, (x, padding), y)
    unmasked = attach(network, (x[:3], torch.randn(3, 12)), at=["body"])
    assert unmasked.attached[0].mask is None
    assert accuracy > learn(unmasked, (x, padding), y) + 0.1
    with torch.no_grad():
        changed = torch.where(padding.bool()[:, :, None], x + 1, x)
        assert torch.allclose(attached(x, padding)[0], attached(changed, padding)[0], atol=1e-5)
        assert torch.allclose(attached(x, padding)[0], attached(x, padding=padding)[0])
