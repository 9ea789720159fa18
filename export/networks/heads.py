"""Heads, and the network with heads that `attach` returns. Needs torch."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelError

__all__ = ["Attached", "default_head", "features_of", "hooked", "logits_of", "map_head", "token_head"]

MOST_FEATURES = 1024
"""Most features that a head reads: with 1000 classes, 1024 features are already a million weights."""


class Attached(nn.Module):
    """A classifier with heads on the outputs of some of its modules.

    Attributes:
        network: the classifier.
        heads: one module per place: features -> logits (batch, classes).
        places: names of the modules in `network` whose outputs the heads read, in the order in which they run.
        frozen: True if `network` stays in eval mode while the heads train.
    """

    def __init__(self, network: nn.Module, places: Sequence[str], heads: Sequence[nn.Module], frozen: bool) -> None:
        super().__init__()
        self.network, self.heads = network, nn.ModuleList(heads)
        self.places, self.frozen = tuple(places), frozen

    @property
    def takes_inputs(self) -> nn.Module:
        """The module that all inputs are passed to; `export` names the inputs by its forward."""
        return self.network

    def forward(self, *inputs: Any, **named: Any) -> list[Tensor]:
        """Return the logits (batch, classes) of every exit, the network's own last."""
        modules = [self.network.get_submodule(place) for place in self.places]
        recorded: dict[nn.Module, Tensor] = {}

        def record(module: nn.Module, _: Any, output: Any) -> None:
            if (features := features_of(output)) is not None:
                recorded[module] = features.clone()  # the next layer may change its input in place

        with hooked(dict.fromkeys(modules, record)):
            logits = logits_of(self.network(*inputs, **named))
        return [*(head(recorded[module]) for head, module in zip(self.heads, modules, strict=True)), logits]

    def _get_name(self) -> str:
        """Return the name of the classifier's class, by which torch prints this module."""
        return str(self.network._get_name())  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> "Attached":
        """Set the mode of the heads and of the network; a frozen network stays in eval mode."""
        super().train(mode)
        self.network.train(mode and not self.frozen)
        return self


def map_head(features: Tensor, classes: int) -> nn.Module:
    """Make a head for maps: average each cell of a grid, normalise by batch, then a linear layer.

    The grid has 4 cells along each axis of space, as in Shallow-Deep Networks (arXiv 1810.07052), because the channels of early
    layers alone do not say enough; it has 2 or 1 if it would give more than 1024 features (channels times cells). A grid of one
    cell is not normalised.

    Args:
        features: example maps (batch, channels, *space) with one to three axes of space. Their sizes become fixed.
        classes: the number of classes.

    Returns:
        A module: maps (batch, channels, *space) -> logits (batch, classes).
    """
    channels, *space = features.shape[1:]
    most = next((cells for cells in (4, 2) if channels * cells ** len(space) <= MOST_FEATURES), 1)
    cells = [min(most, size) for size in space]
    # Adaptive pooling would do the same, but neither ONNX nor the engines have it for sizes that the grid does not divide. So
    # these are plain windows, which overlap for such sizes: 7 rows in 4 cells are windows of 4 rows with a step of 1.
    steps = [size // count for size, count in zip(space, cells, strict=True)]
    sizes = [size - (count - 1) * step for size, count, step in zip(space, cells, steps, strict=True)]
    kinds: Any = ((nn.AvgPool1d, nn.BatchNorm1d), (nn.AvgPool2d, nn.BatchNorm2d), (nn.AvgPool3d, nn.BatchNorm3d))
    pool, norm = kinds[len(space) - 1]
    count = math.prod(cells)
    # In training, torch cannot normalise one value per channel in a batch of one sample, which an epoch's last batch may be.
    between = norm(channels) if count > 1 else nn.Identity()
    return nn.Sequential(pool(sizes, steps), between, nn.Flatten(), nn.Linear(channels * count, classes))


def token_head(features: Tensor, classes: int) -> nn.Module:
    """Make a head for tokens: layer normalisation, mean over the tokens, then a linear layer.

    Args:
        features: example tokens (batch, tokens, width).
        classes: the number of classes.

    Returns:
        A module: tokens (batch, tokens, width) -> logits (batch, classes).
    """
    return nn.Sequential(nn.LayerNorm(features.shape[2]), _TokenMean(), nn.Linear(features.shape[2], classes))


def default_head(features: Tensor, classes: int) -> nn.Module:
    """Make a head by the number of axes of features (batch, ...): linear for 2, `token_head` for 3, `map_head` for more."""
    if features.ndim == 2:
        return nn.Linear(features.shape[1], classes)
    return (token_head if features.ndim == 3 else map_head)(features, classes)


class _TokenMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@contextmanager
def hooked(hooks: Mapping[nn.Module, Callable[[nn.Module, Any, Any], Any]]) -> Iterator[None]:
    """Call hooks on the outputs of modules while the context lasts.

    Args:
        hooks: functions (module, inputs, output) by module. What a function returns, unless None, replaces the output.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:  # torch's fused transformer layers pass nested tensors on, which fail in layers with a hook
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def features_of(output: Any) -> Tensor | None:
    """Return a module's output, or the first of several, if it is a float tensor (batch, ...); else None."""
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    return first if isinstance(first, Tensor) and first.is_floating_point() and first.ndim > 1 else None


def logits_of(output: Any) -> Tensor:
    """Return the logits (batch, classes) in the output of a plain classifier: the only matrix of floats.

    Raises:
        ModelError: the output has none or several.
    """
    outputs = output if isinstance(output, Mapping) else vars(output) if is_dataclass(output) else {"": output}
    matrices = [x for x in outputs.values() if isinstance(x, Tensor) and x.ndim == 2 and x.is_floating_point()]
    if len(matrices) != 1:
        kind = f"{type(output).__name__} {tuple(getattr(output, 'shape', ()))}".removesuffix(" ()")
        raise ModelError(
            f"The network returns a {kind}; exits go on a classifier with one output of logits (batch, classes)."
        )
    return matrices[0]
