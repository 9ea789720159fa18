"""The record of what `attach` did: where each exit is, and how its head reads the features there."""

import msgspec

from ...units import show_share

__all__ = ["BATCH", "CHANNELS", "SPACE", "TOKENS", "Place", "name_axes"]

BATCH, CHANNELS, TOKENS, SPACE = "batch", "channels", "tokens", "space"
"""The names of axes of features. A head averages over tokens; of axes of space it averages the cells of a grid."""

MOST_SPACE = 3
"""Most axes of space; torch has no pooling for more."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an exit reads the network, and how.

    Attributes:
        name: of the module whose output the exit reads; for one that runs several times with the run: `encoder.layer:3`.
        module: the module's name, as in `named_modules()`.
        run: which run of the module, counted from 1.
        share: of the network's multiply-accumulates, those up to this place: 0.35.
        layout: the name of each axis of the features: `batch`, `channels`, and `tokens` or `space` for all others. Empty for a
            head of one's own, which reads the features as they are.
        mask: the input that tells which tokens are padding; None if the mean is over all tokens.

    Example:
        >>> import torch
        >>> from net import plain
        >>> from offramp.export import attach
        >>> network = attach(plain(), torch.zeros(2, 1, 8, 8), fractions=(0.3, 0.6))
        >>> print(network.attached[0])
        3: 34.01% of the work, reads (batch, channels, space, space)
    """

    name: str
    module: str
    run: int
    share: float
    layout: tuple[str, ...]
    mask: str | None = None

    def __str__(self) -> str:
        reads = f"reads ({', '.join(self.layout)})" if self.layout else "read by a head of your own"
        masked = f", without what {self.mask} leaves out" if self.mask else ""
        return f"{self.name}: {show_share(self.share)} of the work, {reads}{masked}"


def name_axes(count: int, batch: int, channels: int) -> tuple[str, ...]:
    """Return the layout of features whose axes of the batch and of the channels are known.

    A single other axis in front of the channels holds tokens. Other axes are space, as long as there are no more than three.
    """
    others = [axis for axis in range(count) if axis not in (batch, channels)]
    is_space = len(others) <= MOST_SPACE and not (len(others) == 1 and others[0] < channels)
    names = {batch: BATCH, channels: CHANNELS}
    return tuple(names.get(axis, SPACE if is_space else TOKENS) for axis in range(count))
