"""What each recipe of `train` minimises: from a network's output to a loss for every sample at every exit. Needs torch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import ModelError
from ..capture.outputs import flatten_outputs

__all__ = ["LOSSES", "distill", "gated", "joint", "logits_of_exits", "mix", "true_classes"]

SOFTENING = 3.0
"""Logits are divided by this before the softmax of teacher and exit are compared, which softens them."""

TEACHER_SHARE = 0.5
"""Share of an exit's loss that compares it with its teacher; the labels make the rest."""

SETTLED_PROBABILITY = 0.9
"""An exit that gives the true class at least this probability has settled a sample, for the `gated` recipe."""


def joint(logits: Sequence[Tensor], y: Tensor, smoothing: float, teacher: Tensor | None = None) -> Tensor:
    """Return the losses of the recipe `joint`: the cross-entropy of every sample at every exit.

    Args:
        logits: of each exit, float32 (batch, classes).
        y: labels, whole numbers (batch,) or probabilities (batch, classes).
        smoothing: share of a label that is spread evenly over all classes.
        teacher: a teacher's logits (batch, classes); the cross-entropy is then mixed with the distance to them.

    Returns:
        Losses, float32 (batch, exits).
    """
    hard = torch.stack([F.cross_entropy(z, y, reduction="none", label_smoothing=smoothing) for z in logits], 1)
    return hard if teacher is None else mix(hard, logits, teacher)


def distill(logits: Sequence[Tensor], y: Tensor, smoothing: float, teacher: Tensor | None = None) -> Tensor:
    """Return the losses of the recipe `distill`: as `joint`, and every earlier exit also learns from the last one.

    The last exit is its teacher only: it gets no gradient from what the earlier exits learn.
    """
    losses = joint(logits, y, smoothing, teacher)
    return torch.cat([mix(losses[:, :-1], logits[:-1], logits[-1].detach()), losses[:, -1:]], 1)


def gated(logits: Sequence[Tensor], y: Tensor, smoothing: float, teacher: Tensor | None = None) -> Tensor:
    """Return the losses of the recipe `gated`: as `joint`, but 0 for a sample at every exit after one that has settled it."""
    with torch.no_grad():
        true = true_classes(y)[:, None]
        unsettled = torch.stack([z.softmax(1).gather(1, true)[:, 0] < SETTLED_PROBABILITY for z in logits[:-1]], 1)
        reached = torch.cat([torch.ones_like(unsettled[:, :1]), unsettled], 1).cumprod(1)
    return joint(logits, y, smoothing, teacher) * reached


def mix(losses: Tensor, logits: Sequence[Tensor], teacher: Tensor) -> Tensor:
    """Return losses of which the share `TEACHER_SHARE` is the distance to a teacher: T^2 KL(teacher / T || exit / T).

    T is `SOFTENING`; the factor T^2 keeps gradients as large as those of the cross-entropy.

    Args:
        losses: float32 (batch, exits).
        logits: of the same exits, each (batch, classes).
        teacher: its logits (batch, classes).
    """
    t, target = SOFTENING, F.log_softmax(teacher / SOFTENING, 1)
    soft = [F.kl_div(F.log_softmax(z / t, 1), target, reduction="none", log_target=True).sum(1) * t**2 for z in logits]
    return (1 - TEACHER_SHARE) * losses + TEACHER_SHARE * torch.stack(soft, 1)


LOSSES: dict[str, Callable[[Sequence[Tensor], Tensor, float, Tensor | None], Tensor]] = {
    "joint": joint,
    "distill": distill,
    "gated": gated,
    "heads": joint,
}
"""The losses of each recipe; `heads` differs from `joint` in the parameters that train."""


def true_classes(y: Tensor) -> Tensor:
    """Return the class of every label (batch,); for labels that are probabilities, the likeliest class."""
    return y if y.ndim == 1 else y.argmax(1)


def logits_of_exits(output: Any) -> list[Tensor]:
    """Return the logits of every exit, float32 (batch, classes), from a network's output.

    Raises:
        ModelError: the output holds something besides logits.
    """
    outputs = flatten_outputs(output)
    exits = [z for value in outputs.values() for z in (value.unbind(0) if value.ndim == 3 else [value])]
    if not exits or any(z.ndim != 2 or z.shape != exits[0].shape or not z.is_floating_point() for z in exits):
        given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in outputs.items())
        raise ModelError(f"The network returns {given}; training takes logits (batch, classes) alone, one per exit.")
    return [z.float() for z in exits]
