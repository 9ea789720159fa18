"""Heads: small networks from features to logits, and how features are brought into the order that they read. Needs torch."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from .answers import name_parts
from .places import BATCH, CHANNELS, TOKENS

__all__ = ["all_features", "arrange", "default_head", "features_of", "hooked", "map_head", "token_head"]

MOST_FEATURES = 1024
"""Most features that a head reads: with 1000 classes, 1024 features are already a million weights."""


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


class TokenHead(nn.Sequential):
    """What `token_head` makes: layer normalisation, mean over the tokens, a linear layer."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Identity(), nn.Linear(width, classes))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return logits (batch, classes) of tokens (batch, tokens, width); of those that count, booleans (batch, tokens)."""
        norm, _, linear = self
        x = norm(x)
        if keep is None:
            return cast(Tensor, linear(x.mean(1)))
        weights = keep.to(x.dtype).unsqueeze(2)
        return cast(Tensor, linear((x * weights).sum(1) / weights.sum(1).clamp(min=1)))


def token_head(features: Tensor, classes: int) -> nn.Module:
    """Make a head for tokens: layer normalisation, mean over the tokens, then a linear layer.

    Args:
        features: example tokens (batch, tokens, width).
        classes: the number of classes.

    Returns:
        A module: tokens (batch, tokens, width) -> logits (batch, classes). It also takes booleans (batch, tokens), True for the
        tokens that the mean is over.
    """
    return TokenHead(features.shape[2], classes)


def default_head(features: Tensor, layout: Sequence[str], classes: int) -> nn.Module:
    """Make a head for features in the order of `arrange`: `token_head`, `map_head`, or linear for features (batch, channels)."""
    if features.ndim == 2:
        return nn.Linear(features.shape[1], classes)
    return (token_head if TOKENS in layout else map_head)(features, classes)


def arrange(features: Tensor, layout: Sequence[str]) -> Tensor:
    """Return features in the order that heads read.

    Args:
        features: as a module gives them.
        layout: the names of their axes (`places.Place`); empty to leave them as they are.

    Returns:
        Features (batch, channels), (batch, tokens, channels), with all axes of tokens in one, or (batch, channels, *space).
    """
    if not layout:
        return features
    others = [axis for axis, name in enumerate(layout) if name not in (BATCH, CHANNELS)]
    batch, channels = layout.index(BATCH), layout.index(CHANNELS)
    order = [batch, *others, channels] if TOKENS in layout else [batch, channels, *others]
    if order != sorted(order):
        features = features.permute(order)
    return features.flatten(1, -2) if TOKENS in layout and len(others) > 1 else features


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
    return next(iter(all_features(output)), None)


def all_features(output: Any) -> list[Tensor | None]:
    """Return what a module returns, one or several: each float tensor with two axes or more, None for anything else."""
    parts = output if isinstance(output, (tuple, list)) else list(name_parts(output).values()) or [output]
    return [x if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1 else None for x in parts]
