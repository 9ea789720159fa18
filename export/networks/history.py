"""What training reports, epoch by epoch."""

import msgspec


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass over the training samples gave, per exit, shallowest first."""

    epoch: int
    """Counted from 1."""
    loss: tuple[float, ...]
    """Mean of what the recipe minimises, before the exits' weights."""
    accuracy: tuple[float, ...]
    """Share of the training samples, as they came, that the exit got right while it was being trained."""
    validation: tuple[float, ...] | None
    """Share of the validation samples that it got right after the epoch."""
    seconds: float


class History(msgspec.Struct, frozen=True, kw_only=True):
    """How a training went."""

    recipe: str
    epochs: tuple[Epoch, ...]
