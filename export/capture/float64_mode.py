"""A torch network run in float64: shows how far rounding takes its own logits."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = ["Float64Mode", "widen"]


class Float64Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While this is active, every operation takes its floats widened to float64: also constants that a network makes as it runs.

    What is written in place keeps the type that it has.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation on widened values."""
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            return function(*args, **kwargs)
        return tree_map(widen, function(*tree_map(widen, args), **tree_map(widen, kwargs)))


def widen(value: Any) -> Any:
    """Return a tensor of floats, or the type of floats, as float64; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value if value.dtype == torch.float64 else value.to(torch.float64)
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value
