"""How a camera's image becomes a network's input."""

import math
from numbers import Real
from typing import Annotated, Literal

from msgspec import Meta

from ..errors import UsageError, unknown_name
from .record import Record

__all__ = ["Preprocess"]

MOST_CHANNELS = 10_000
"""No image has more channels."""


class Preprocess(Record, frozen=True):
    """How a camera's image is prepared as in training.

    The image is resized first. Scaling and normalising are part of the first stage: (pixel / 255 - mean) / std per channel.

    Attributes:
        mean, std: per channel, on pixels from 0 to 1.
        resize: `stretch` to the input's size; `crop` so that the shorter side fits and the middle stays; `pad` so that the
            longer side fits, with black around.
        crop: for `crop`, the share of the resized image's sides that stays: 0.875 is 224 of 256, as torchvision evaluates.
        interpolation: how pixels are interpolated, with antialiasing (Pillow's filters).

    Raises:
        UsageError: a value is out of its range, or mean and std have different lengths.

    Example:
        >>> from offramp.bundle import Preprocess
        >>> Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize="crop").interpolation
        'bilinear'
    """

    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=MOST_CHANNELS)]
    std: Annotated[tuple[Annotated[float, Meta(gt=0)], ...], Meta(min_length=1, max_length=MOST_CHANNELS)]
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    crop: Annotated[float, Meta(gt=0, le=1)] = 1.0
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or not all(isinstance(value, Real) for value in values):
                raise UsageError(
                    f"{name} is a tuple of numbers, one for each channel, such as (0.5,), not {values!r:.60}."
                )
        if len(self.mean) != len(self.std):
            raise UsageError(f"mean has {len(self.mean)} channels and std {len(self.std)}: give one each per channel.")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise UsageError(f"mean and std are finite numbers, not {self.mean} and {self.std}.")
        if min(self.std) <= 0 or not 0 < self.crop <= 1:
            raise UsageError(f"std is above 0 and crop between 0 and 1, not {self.std} and {self.crop}.")
        for name, choices in (
            ("resize", ("stretch", "crop", "pad")),
            ("interpolation", ("bilinear", "bicubic", "nearest")),
        ):
            if getattr(self, name) not in choices:
                raise unknown_name(name, str(getattr(self, name)), choices)
