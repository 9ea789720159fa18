"""Two residual networks for CIFAR-10 with exits, in plain torch.

`resnet` is made for early exit. It has 161 million multiply-accumulates with its heads; most of them work on maps of 16 x 16 and
8 x 8, and a fifth lie before the first exit, whose head has two convolutions. `resnet8` is the image classifier of MLPerf Tiny
(Banbury et al., arXiv 2106.07597) with an exit after each of its three stacks. `make_teacher` makes a larger network, which only
helps to train the others.

Each function returns its network in eval mode, with weights from the file of the same name beside this one, if it exists. The
input is float32 (batch, 3, 32, 32), pixels / 255, normalised with MEAN and STD. The output is the list of the exits' logits
(batch, 10).
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CLASSES = 10


def convolve(i: int, o: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, i: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.a, self.b = convolve(i, o, 3, stride), convolve(o, o)
        self.skip = convolve(i, o, 1, stride) if stride > 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x))) + self.skip(x))


class Head(nn.Module):
    """One convolution per width, each of which halves the map, then the mean over the map and a linear layer."""

    def __init__(self, i: int, *widths: int) -> None:
        super().__init__()
        channels = [i, *widths]
        pairs = zip(channels, widths, strict=False)
        self.convs = nn.Sequential(*[nn.Sequential(convolve(a, b, 3, 2), nn.ReLU()) for a, b in pairs])
        self.out = nn.Linear(channels[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.convs(x), 1).flatten(1)
        logits: Tensor = self.out(x)
        return logits


class Exits(nn.Module):
    """Parts that run one after another, each with a head on its output."""

    def __init__(self, parts: list[nn.Module], heads: list[nn.Module]) -> None:
        super().__init__()
        self.parts, self.heads = nn.ModuleList(parts), nn.ModuleList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        exits = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = part(x)
            exits.append(head(x))
        return exits


def make_resnet() -> Exits:
    """Make `resnet` with random weights."""
    stem = nn.Sequential(convolve(3, 32), nn.ReLU(), convolve(32, 64, 3, 2), nn.ReLU())
    parts = [
        nn.Sequential(stem, Block(64, 64)),
        nn.Sequential(Block(64, 64), Block(64, 128, 2)),
        nn.Sequential(Block(128, 128), Block(128, 160), Block(160, 160), Block(160, 256, 2)),
    ]
    return Exits([*parts], [Head(64, 128, 160), Head(128, 192), Head(256)])


def make_resnet8() -> Exits:
    """Make `resnet8` with random weights."""
    stem = nn.Sequential(convolve(3, 16), nn.ReLU())
    parts = [nn.Sequential(stem, Block(16, 16)), Block(16, 32, 2), Block(32, 64, 2)]
    return Exits([*parts], [Head(16, 24, 48, 64), Head(32, 48, 64), Head(64)])


def make_teacher() -> Exits:
    """Make a network of one exit, twice as wide as `resnet` and without its early halving, with random weights."""
    stem = nn.Sequential(convolve(3, 64), nn.ReLU(), Block(64, 64))
    blocks = [Block(64, 128, 2), Block(128, 128), Block(128, 256, 2), Block(256, 256), Block(256, 512, 2)]
    return Exits([nn.Sequential(stem, *blocks)], [Head(512)])


def resnet() -> Exits:
    return load(make_resnet(), Path(__file__).with_name("resnet.safetensors"))


def resnet_pruned50() -> Exits:
    """Return a form of `resnet` with half of its multiply-accumulates; it was pruned before `resnet` was fully trained."""
    return load(make_resnet(), Path(__file__).with_name("resnet-pruned50.safetensors"))


def resnet8() -> Exits:
    return load(make_resnet8(), Path(__file__).with_name("resnet8.safetensors"))


def load(network: Exits, path: Path) -> Exits:
    """Load weights from a file in the safetensors format into a network, if the file exists; return it in eval mode.

    Each layer takes the size that it has in the file, since pruning changes sizes. The format is: the length of the header,
    8 bytes, little endian; the header, JSON with type, shape and place of each tensor; the bytes of the tensors.
    """
    if path.exists():
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header, types, state = json.loads(content[8:start]), {"F16": "<f2", "F32": "<f4"}, {}
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                values = np.frombuffer(content[start + begin : start + end], types[entry["dtype"]])
                state[name] = torch.tensor(values.astype(np.float32)).reshape(entry["shape"])
        if not set(state) == {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}:
            raise ValueError(f"{path} holds the weights of another network.")
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                module.out_channels, module.in_channels = state[f"{name}.weight"].shape[:2]
            elif isinstance(module, nn.BatchNorm2d):
                module.num_features = len(state[f"{name}.weight"])
            elif isinstance(module, nn.Linear):
                module.out_features, module.in_features = state[f"{name}.weight"].shape
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            tensor.data = state.get(name, tensor.data)
    return network.eval()


def save(network: nn.Module) -> bytes:
    """Return a network's weights in the safetensors format: matrices and kernels as float16, the rest as float32."""
    header, parts, end = {}, [], 0
    for name, value in network.state_dict().items():
        if value.is_floating_point():  # an integer is BatchNorm's counter, which only training needs
            half = value.ndim > 1
            parts.append(value.cpu().numpy().astype("<f2" if half else "<f4").tobytes())
            end += len(parts[-1])
            places = [end - len(parts[-1]), end]
            header[name] = {"dtype": "F16" if half else "F32", "shape": list(value.shape), "data_offsets": places}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # readers map the file and expect aligned tensors
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
