"""A tensor as the manifest describes it: its name, its dtype, and which of its axes differ from call to call."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from .record import Count, Record, Text

__all__ = ["MOST_VALUES", "Dtype", "Tensor"]

MOST_AXES, MOST_VALUES = 32, 2**28
"""No array of a network has more axes, or more values for one sample."""

Dtype = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]


class Tensor(Record, frozen=True):
    """A named tensor.

    Attributes:
        name: as in the graph.
        dtype: of its values.
        shape: one entry per axis: a size; `None` (JSON null) for the batch axis; or a name for an axis whose length differs from
            call to call, such as the length of a sequence. Axes of the same name are equally long. A tensor without a batch
            axis does not depend on the batch.

    Example:
        >>> from offramp.bundle import Tensor
        >>> image = Tensor(name="x", dtype="float32", shape=(None, 1, 8, 8))
        >>> image.batch_axis, image.at(4)
        (0, (4, 1, 8, 8))
    """

    name: Text
    dtype: Dtype
    shape: tuple[Count | Annotated[Text, Meta(min_length=1)] | None, ...]

    def __post_init__(self) -> None:
        if self.shape.count(None) > 1:
            raise ValueError(f"tensor {self.name} has several batch axes: {self.shape}")
        if len(self.shape) > MOST_AXES or self.least_values > MOST_VALUES:
            raise ValueError(f"tensor {self.name} is too large: more than {MOST_AXES} axes or {MOST_VALUES} values")

    @property
    def batch_axis(self) -> int | None:
        """The index of the axis that grows with the batch; None if the tensor has none."""
        return self.shape.index(None) if None in self.shape else None

    @property
    def is_sized(self) -> bool:
        """Whether every axis but the batch has a fixed size: true of (None, 3, 32, 32), false of (None, "time", 64)."""
        return not any(isinstance(axis, str) for axis in self.shape)

    @property
    def least_values(self) -> int:
        """How many values a sample has if its named axes have length 1; axes of length 0 count as 1."""
        return math.prod(axis for axis in self.shape if isinstance(axis, int) and axis)

    def at(self, batch: int) -> tuple[int, ...]:
        """Return the shape at a batch size: (None, 3, 32, 32) at 8 is (8, 3, 32, 32). The tensor has no named axes."""
        return tuple(batch if axis is None else int(axis) for axis in self.shape)

    def fits(self, shape: Sequence[int], lengths: dict[str, int]) -> bool:
        """Return True if an array of this shape can be the tensor.

        Args:
            shape: of the array, batch axis included.
            lengths: sizes of the named axes seen so far. New ones are added, so that later tensors must agree with them.
        """
        if len(shape) != len(self.shape):
            return False
        for size, axis in zip(shape, self.shape, strict=True):
            if isinstance(axis, str) and (size == 0 or lengths.setdefault(axis, size) != size):
                return False
            if isinstance(axis, int) and size != axis:
                return False
        return True
