"""The input of a network that tells which tokens are padding, found by what the network leaves out. Needs torch."""

from inspect import signature
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import ModelError
from .heads import logits_of
from .inputs import ExampleInputs

__all__ = ["Mask", "find_mask"]

LEAST_RATIO = 1e3
"""Tokens are left out if changing them changes the logits this many times less than changing tokens that are not."""


class Mask(NamedTuple):
    """An input (batch, tokens) of a network that says which tokens are padding.

    Attributes:
        name: of the input.
        position: of the input among all, for a network that is called with its inputs in order.
        length: of the mask in the example.
        padding: the value of tokens that are left out, 0 or 1.
    """

    name: str
    position: int
    length: int
    padding: int

    def keeps(self, mask: Tensor) -> Tensor:
        """Return booleans (batch, tokens): True where a token counts."""
        return mask != self.padding


def find_mask(network: nn.Module, inputs: ExampleInputs) -> Mask | None:
    """Return the mask among the inputs; None if there is none, or several.

    An input of zeros and ones is a mask if one of the two values makes tokens not matter: where the last quarter of the tokens
    has that value, other inputs may change there, and the logits stay as they were. With the other value the logits change.
    """
    found = []
    for position, (name, x) in enumerate(zip(inputs.names, inputs.tensors, strict=True)):
        is_binary = (
            x.ndim == 2 and x.shape[1] > 1 and inputs.batch_axes[position] == 0 and bool(((x == 0) | (x == 1)).all())
        )
        others = [p for p, other in enumerate(inputs.tensors) if p != position and x.shape[1:] == other.shape[1:2]]
        if is_binary and others:
            changes = [_measure_change(network, inputs, position, others, value) for value in (0, 1)]
            for padding in (0, 1):
                if changes[1 - padding] > 0 and changes[padding] * LEAST_RATIO <= changes[1 - padding]:
                    found.append(Mask(name, _place_in_forward(network, inputs, position), int(x.shape[1]), padding))
    return found[0] if len(found) == 1 else None


def _place_in_forward(network: nn.Module, inputs: ExampleInputs, position: int) -> int:
    """Return which argument of the network's forward an input is, counted from 0."""
    return list(signature(network.forward).parameters).index(inputs.names[position]) if inputs.by_name else position


def _measure_change(network: nn.Module, inputs: ExampleInputs, position: int, others: list[int], value: int) -> float:
    """Return how much the logits change with the last tokens, if the mask has a value there and the other value before."""
    mask = inputs.tensors[position]
    last = torch.arange(mask.shape[1], device=mask.device) >= mask.shape[1] * 3 // 4
    given = inputs.replaced(position, (last if value else ~last).to(mask.dtype).expand_as(mask).clone())
    changed = given
    for other in others:
        x = inputs.tensors[other]
        where = last.reshape(1, -1, *[1] * (x.ndim - 2))
        # Whole numbers may be indices of a table, so only such as are in the example take their place.
        new = x + 1 if x.is_floating_point() else torch.where(x == x.max(), x.min(), x.max())
        changed = changed.replaced(other, torch.where(where, new, x))
    try:
        return float((logits_of(changed.run(network)) - logits_of(given.run(network))).abs().max())
    except ModelError:
        raise
    except Exception:  # a network may refuse such a mask
        return 0.0
