"""The part of `attach` that needs torch as it is imported: heads, and the network that carries them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ModelError

MOST_FEATURES = 1024
"""A head that reads more costs much memory where there are many classes."""


class Attached(nn.Module):
    """A classifier, `network`, with one of `heads` on the output of each of `places`, names of modules in it."""

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
        kept: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, _: Any, output: Any) -> None:
            if (features := features_of(output)) is not None:
                kept[module] = features.clone()  # the next layer may work in place

        with hooked(dict.fromkeys(modules, keep)):
            logits = logits_of(self.network(*inputs, **named))
        return [*(head(kept[module]) for head, module in zip(self.heads, modules, strict=True)), logits]

    def _get_name(self) -> str:
        """Return what torch calls the network."""
        return str(self.network._get_name())  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> "Attached":
        """Set the mode of the heads, and of the network unless it is frozen, which keeps it in eval mode."""
        super().train(mode)
        self.network.train(mode and not self.frozen)
        return self


def map_head(features: Tensor, classes: int) -> nn.Module:
    """Make a head for maps: their average in each cell of a grid, batch normalisation where there are several cells, linear.

    The grid has 4 cells along each axis, as in Shallow-Deep Networks (arXiv 1810.07052), since early layers do not tell by their
    channels alone what is seen; 2 or 1 where there are so many channels that it would give over 1024 features.

    Args:
        features: example maps (batch, channels, *space), with one to three axes of space, which keep their sizes.
        classes: how many.

    Returns:
        A module: maps (batch, channels, *space) -> logits (batch, classes).
    """
    channels, *space = features.shape[1:]
    most = next((cells for cells in (4, 2) if channels * cells ** len(space) <= MOST_FEATURES), 1)
    cells = [min(most, size) for size in space]
    # Adaptive pooling would do, but neither ONNX nor engines have it for sizes that the grid does not divide: cells overlap then.
    steps = [size // count for size, count in zip(space, cells, strict=True)]
    sizes = [size - (count - 1) * step for size, count, step in zip(space, cells, steps, strict=True)]
    kinds: Any = ((nn.AvgPool1d, nn.BatchNorm1d), (nn.AvgPool2d, nn.BatchNorm2d), (nn.AvgPool3d, nn.BatchNorm3d))
    pool, norm = kinds[len(space) - 1]
    count = math.prod(cells)
    # Of one mean per channel, torch does not take the statistics in a batch of one sample, as an epoch's last may be.
    between = norm(channels) if count > 1 else nn.Identity()
    return nn.Sequential(pool(sizes, steps), between, nn.Flatten(), nn.Linear(channels * count, classes))


def token_head(features: Tensor, classes: int) -> nn.Module:
    """Make a head for tokens: layer normalisation, mean over the tokens, linear.

    Args:
        features: example tokens (batch, tokens, width).
        classes: how many.

    Returns:
        A module: tokens (batch, tokens, width) -> logits (batch, classes).
    """
    return nn.Sequential(nn.LayerNorm(features.shape[2]), _TokenMean(), nn.Linear(features.shape[2], classes))


def default_head(features: Tensor, classes: int) -> nn.Module:
    """Make the head that suits features (batch, ...): linear for 2 axes, `token_head` for 3, `map_head` for more."""
    if features.ndim == 2:
        return nn.Linear(features.shape[1], classes)
    return (token_head if features.ndim == 3 else map_head)(features, classes)


class _TokenMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@contextmanager
def hooked(hooks: Mapping[nn.Module, Callable[[nn.Module, Any, Any], Any]]) -> Iterator[None]:
    """Hook modules for a while: hook(module, inputs, output) sees each output, and what it returns takes its place."""
    fast = torch.backends.mha.get_fastpath_enabled()
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:  # torch's fused transformer layers would pass nested tensors on, which layers with a hook refuse
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def features_of(output: Any) -> Tensor | None:
    """Return a module's output, or the first of its outputs, if it is a float tensor (batch, ...)."""
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    return first if isinstance(first, Tensor) and first.is_floating_point() and first.ndim > 1 else None


def logits_of(output: Any) -> Tensor:
    """Return the logits (batch, classes) of a plain classifier; in a dict or dataclass, the only matrix of floats."""
    inside = output if isinstance(output, Mapping) else vars(output) if is_dataclass(output) else {"": output}
    found = [x for x in inside.values() if isinstance(x, Tensor) and x.ndim == 2 and x.is_floating_point()]
    if len(found) != 1:
        what = f"{type(output).__name__} {tuple(getattr(output, 'shape', ()))}".removesuffix(" ()")
        raise ModelError(
            f"The network returns a {what}; exits go on a classifier with one output of logits (batch, classes)."
        )
    return found[0]
