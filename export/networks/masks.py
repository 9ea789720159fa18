"""The input of a network that tells which tokens are padding, found by what the network leaves out. Needs torch."""

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import ModelError
from .answers import answer_of
from .inputs import ExampleInputs

__all__ = ["Mask", "find_mask"]

LEAST_RATIO = 1e3
"""Tokens are left out if changing them changes the answer this many times less than changing tokens that are not."""


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


def find_mask(network: nn.Module, inputs: ExampleInputs, answer: Sequence[str] = ()) -> Mask | None:
    """Return the mask among the inputs; None if there is none, or several. `answer` names the parts of the answer.

    An input of zeros and ones is a mask if one of the two values makes tokens not matter: where the last quarter of the tokens
    has that value, other inputs may change there, and the answer stays as it was. With the other value it changes.
    Where the test says nothing of an `attention_mask` that is not 0 alone, 0 is padding, as in the library transformers.
    """
    found = []
    for position, (name, x) in enumerate(zip(inputs.names, inputs.tensors, strict=True)):
        if not _is_binary(x) or inputs.batch_axes[position]:
            continue
        padding = _find_padding(network, inputs, position, answer)
        if padding is None and name == "attention_mask" and x.any():
            padding = 0
        if padding is not None:
            found.append(Mask(name, _place_in_forward(network, inputs, position), int(x.shape[1]), padding))
    return found[0] if len(found) == 1 else None


def _is_binary(x: Tensor) -> bool:
    return x.ndim == 2 and x.shape[1] > 1 and bool(((x == 0) | (x == 1)).all())


def _place_in_forward(network: nn.Module, inputs: ExampleInputs, position: int) -> int:
    """Return which argument of the network's forward an input is, counted from 0."""
    parameters, name = list(signature(network.forward).parameters), inputs.names[position]
    return parameters.index(name) if inputs.by_name and name in parameters else position


def _find_padding(network: nn.Module, inputs: ExampleInputs, position: int, answer: Sequence[str]) -> int | None:
    """Return the value of an input, 0 or 1, that makes the network leave tokens out; None if neither does."""
    length = inputs.tensors[position].shape[1]
    # The axis of tokens is the first beside the batch.
    axes = {p: int(not inputs.batch_axes[p]) for p in range(len(inputs.tensors)) if p != position}
    axes = {p: axis for p, axis in axes.items() if inputs.tensors[p].shape[axis : axis + 1] == (length,)}
    if not axes:
        return None
    changes = [_measure_change(network, inputs, position, axes, value, answer) for value in (0, 1)]
    low = min((0, 1), key=changes.__getitem__)
    return low if changes[low] * LEAST_RATIO <= changes[1 - low] and changes[1 - low] > 0 else None


def _measure_change(
    network: nn.Module,
    inputs: ExampleInputs,
    position: int,
    axes: Mapping[int, int],
    value: int,
    answer: Sequence[str],
) -> float:
    """Return how much the answer changes with the last tokens, if the mask has a value there and the other value before.

    Args:
        network: runs twice.
        inputs: the example.
        position: of the mask.
        axes: the axis of tokens of every other input, by its position.
        value: of the mask for the last tokens.
        answer: the names of its parts.
    """
    mask = inputs.tensors[position]
    last = torch.arange(mask.shape[1], device=mask.device) >= mask.shape[1] * 3 // 4
    given = inputs.replaced(position, (last if value else ~last).to(mask.dtype).expand_as(mask).clone())
    changed = given
    for other, axis in axes.items():
        x = inputs.tensors[other]
        where = last.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        # Whole numbers may be indices of a table, so only such as are in the example take their place.
        new = x + 1 if x.is_floating_point() else torch.where(x == x.max(), x.min(), x.max())
        changed = changed.replaced(other, torch.where(where, new, x))
    try:
        ours, theirs = (answer_of(x.run(network), answer).values() for x in (changed, given))
        return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    except ModelError:
        raise
    except Exception:  # a network may refuse such a mask
        return math.nan
