"""Small multi-exit networks, one per difficulty, with random weights. Each takes (N, 3, 16, 16) unless it says otherwise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from offramp.tests.zoo.convolutions import (
    DeepResidual,
    DepthwiseSeparable,
    MixtureOfExperts,
    MultiScaleDense,
    ResolutionAdaptive,
    classify,
    conv,
)
from offramp.tests.zoo.dense import CLASSES
from offramp.tests.zoo.sequences import Encoder, Head, KeywordSpotter, Looped, Spotter1d

SHAPE = (3, 16, 16)


class Plain(nn.Module):
    """One boundary tensor per cut; exits as a list."""

    def __init__(self, exits=3):
        super().__init__()
        self.parts = nn.ModuleList([conv(3 if k == 0 else 8, 8) for k in range(exits)])
        self.heads = nn.ModuleList([nn.Linear(8, CLASSES) for _ in range(exits)])

    def forward(self, x):
        exits = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            exits.append(4 * head(classify(x)))
        return exits


class MultiScale(nn.Module):
    """Two scales kept side by side and concatenated later, as in MSDNet: several boundary tensors; exits as a tuple."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = conv(3, 6), conv(3, 6, 2)
        self.fine2, self.down, self.coarse2 = conv(6, 6), conv(6, 6, 2), conv(6, 6)
        self.down3, self.coarse3 = conv(12, 6, 2), conv(12, 6)
        self.heads = nn.ModuleList([nn.Linear(c, CLASSES) for c in (6, 12, 12)])

    def forward(self, x):
        f, c = self.fine(x), self.coarse(x)
        first = self.heads[0](classify(c))
        f2, c2 = torch.cat([f, self.fine2(f)], 1), torch.cat([self.down(f), self.coarse2(c)], 1)
        second = self.heads[1](classify(c2))
        c3 = torch.cat([self.down3(f2), self.coarse3(c2)], 1)
        return first, second, self.heads[2](classify(c3) + classify(f2))


class ReadsInputLate(nn.Module):
    """The last exit reads the input again, and an earlier exit's logits; exits as a dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 4, 2), conv(4, 8), conv(3, 8, 2)
        self.heads = nn.ModuleList([nn.Linear(4, CLASSES), nn.Linear(8, CLASSES)])

    def forward(self, x):
        a = self.a(x)
        early = self.heads[0](classify(a))
        late = self.heads[1](classify(self.b(a) + self.c(x)))
        return {"early": early, "late": late + 0.5 * early}


class Shapes(nn.Module):
    """Shape arithmetic and a tensor with the batch on axis 1 cross the cut."""

    def __init__(self):
        super().__init__()
        self.part = conv(3, 8, 2)
        self.recurrent = nn.GRU(8, 12)
        self.last = conv(12, 12)
        self.heads = nn.ModuleList([nn.Linear(8, CLASSES), nn.Linear(12, CLASSES), nn.Linear(12, CLASSES)])

    def forward(self, x):
        n = x.shape[0]
        y = F.avg_pool2d(self.part(x), 2)
        first = self.heads[0](classify(y))
        steps, _ = self.recurrent(y.reshape(n, 8, -1).permute(2, 0, 1))
        second = self.heads[1](steps[-1])
        grid = self.last(steps.permute(1, 2, 0).reshape(n, 12, 4, 4))
        return first, second, self.heads[2](F.avg_pool2d(grid, 4).reshape(n, -1) + torch.zeros(n, 12))


class Branches(nn.Module):
    """A Python branch on the values of a tensor, which no exporter may bake in."""

    def __init__(self):
        super().__init__()
        self.net = Plain(2)

    def forward(self, x):
        first, second = self.net(x)
        return [first, second if x.sum() > 0 else first]


class Swapped(Plain):
    """The exits in the wrong order."""

    def forward(self, x):
        return super().forward(x)[::-1]


class Twice(Plain):
    """The same exit listed twice."""

    def forward(self, x):
        exits = super().forward(x)
        return [exits[0], exits[0], exits[2]]


class HeadsReadHeads(nn.Module):
    """Each head reads the logits of all heads before it."""

    def __init__(self, exits=3):
        super().__init__()
        self.parts = nn.ModuleList([conv(8 if k else 3, 8) for k in range(exits)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(8) for _ in range(exits)])
        self.heads = nn.ModuleList([nn.Linear(8 + k * CLASSES, CLASSES) for k in range(exits)])

    def forward(self, x):
        exits: list[torch.Tensor] = []
        for part, norm, head in zip(self.parts, self.norms, self.heads, strict=True):
            x = part(x)
            exits.append(head(torch.cat([4 * norm(classify(x)), *exits], 1)))
        return exits


class Stacked(nn.Module):
    """Returns one tensor (exit, batch, class)."""

    def __init__(self, exits=3):
        super().__init__()
        self.parts = nn.ModuleList([conv(8 if k else 3, 8) for k in range(exits)])
        self.heads = nn.ModuleList([Head(8) for _ in range(exits)])

    def forward(self, x):
        exits = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            exits.append(head(x))
        return torch.stack(exits)


class Tied(nn.Module):
    """All exits share one head, and two linear layers one weight."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([conv(3, 12), conv(12, 12, 2), conv(12, 12)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(12) for _ in range(3)])
        self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)
        self.b.weight = self.a.weight
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        exits = []
        for part, norm, mix in zip(self.parts, self.norms, (None, self.a, self.b), strict=True):
            x = part(x)
            if mix is not None:
                x = x * torch.sigmoid(mix(classify(x)))[:, :, None, None]
            exits.append(4 * self.head(norm(classify(x))))
        return exits


class TwoInputs(nn.Module):
    """Takes an image and a vector (batch, 6), which the first stage reads and the last stage again."""

    def __init__(self):
        super().__init__()
        self.parts, self.scale = nn.ModuleList([conv(3, 8), conv(8, 12, 2), conv(12, 12)]), nn.Linear(6, 8)
        self.heads = nn.ModuleList([Head(8), Head(12), Head(12 + 6)])

    def forward(self, image, vector):
        x = self.parts[0](image) * torch.sigmoid(self.scale(vector))[:, :, None, None]
        y = self.parts[1](x)
        z = self.parts[2](y)
        return self.heads[0](x), self.heads[1](y), self.heads[2](torch.cat([classify(z), vector], 1))


@dataclass
class Output:
    """What AsDataclass returns."""

    early: torch.Tensor
    middle: torch.Tensor
    late: torch.Tensor
    features: torch.Tensor


class AsDataclass(nn.Module):
    """Returns a dataclass, one field of which is no exit."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 12, 2), conv(12, 16)
        self.heads = nn.ModuleList([Head(c) for c in (8, 12, 16)])

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        c = self.c(b)
        return Output(self.heads[0](a), self.heads[1](b), self.heads[2](c), features=c)


class Gated(nn.Module):
    """Learned gates beside the logits: {"logits": [three], "gates": [two, each (batch, 1) in 0 to 1]}."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([conv(3, 8), conv(8, 12, 2), conv(12, 12)])
        self.heads = nn.ModuleList([Head(c) for c in (8, 12, 12)])
        self.gates = nn.ModuleList([nn.Sequential(nn.BatchNorm1d(c), nn.Linear(c, 1)) for c in (8, 12)])

    def forward(self, x):
        features = []
        for part in self.parts:
            x = part(x)
            features.append(x)
        gates = [torch.sigmoid(4 * gate(classify(y))) for gate, y in zip(self.gates, features[:2], strict=True)]
        return {"logits": [head(y) for head, y in zip(self.heads, features, strict=True)], "gates": gates}


def attached():
    """A plain network to which exits were attached."""
    from offramp.export import attach

    plain = nn.Sequential(
        conv(3, 8),
        conv(8, 8),
        conv(8, 16, 2),
        conv(16, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )
    return attach(plain, images(2, 0)[0], fractions=(0.2, 0.6), frozen=False)


class Entry(NamedTuple):
    """A network of the zoo, how to draw its inputs (n, seed -> one array per input) and how to export it."""

    kind: Callable[[], nn.Module]
    draw: Callable[[int, int], tuple[np.ndarray, ...]]
    options: dict[str, Any]


def normal(*shapes, axis=0):
    """Return a function that draws one array per shape, with the samples on `axis`."""

    def draw(n, seed):
        rng = np.random.default_rng(seed)
        return tuple(rng.standard_normal((*s[:axis], n, *s[axis:])).astype(np.float32) for s in shapes)

    return draw


def draw_tokens(n, seed):
    return (np.random.default_rng(seed).integers(0, 50, (n, 12)),)


images = normal(SHAPE)

ZOO: dict[str, Entry] = {
    "plain": Entry(Plain, images, {}),
    "multi-scale": Entry(MultiScale, images, {}),
    "reads-input-late": Entry(ReadsInputLate, images, {}),
    "shapes": Entry(Shapes, images, {}),
    "multi-scale-dense": Entry(MultiScaleDense, images, {}),
    "deep-residual": Entry(DeepResidual, images, {}),
    "depthwise-separable": Entry(DepthwiseSeparable, images, {}),
    "resolution-adaptive": Entry(ResolutionAdaptive, images, {}),
    "heads-read-heads": Entry(HeadsReadHeads, images, {}),
    "stacked": Entry(Stacked, images, {}),
    "encoder": Entry(Encoder, draw_tokens, {"axes": ("batch", "time")}),
    "keyword-spotter": Entry(KeywordSpotter, normal((10, 12), axis=1), {"axes": (None, "batch", None)}),
    "spotter-1d": Entry(Spotter1d, normal((1, 400)), {}),
    "looped": Entry(Looped, normal((24,)), {}),
    "tied": Entry(Tied, images, {}),
    "mixture-of-experts": Entry(MixtureOfExperts, images, {}),
    "attached": Entry(attached, images, {}),
    "two-inputs": Entry(TwoInputs, normal(SHAPE, (6,)), {}),
    "dataclass": Entry(AsDataclass, images, {"exits": ["early", "middle", "late"]}),
    "gated": Entry(
        Gated,
        images,
        {"exits": ["logits.0", "logits.1", "logits.2"], "rule": "gate", "gates": ["gates.0", "gates.1"]},
    ),
}


def build(kind, seed=0):
    """Make a network, of a class that takes images or of an entry, in eval mode; its batch normalisation has seen data."""
    entry = kind if isinstance(kind, Entry) else Entry(kind, images, {})
    torch.manual_seed(seed)
    net = entry.kind().train()
    for part in net.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.momentum = None  # the plain mean of what it has seen
    with torch.no_grad():
        for k in range(3):
            net(*(torch.from_numpy(x) for x in entry.draw(16, 1000 + k)))
    return net.eval()


def samples(n, seed=0):
    return images(n, seed)[0]
