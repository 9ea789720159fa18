"""Memory that stages read and write. It is aligned, allocated once for the largest batch, and viewed at any smaller size."""

import math
from collections.abc import Iterable

import numpy as np

from ...bundle import Tensor
from ..engines._memory import make_aligned


class Buffers:
    """One block of memory per tensor, large enough for `batch` samples."""

    def __init__(self, tensors: Iterable[Tensor], *, batch: int) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._blocks = {
            name: make_aligned((math.prod(tensor.at(batch)),), tensor.dtype) for name, tensor in self._tensors.items()
        }

    def views(self, batch: int) -> dict[str, np.ndarray]:
        """Return every tensor at a batch size. All share memory; each is contiguous, also if the batch is not its first axis."""
        views = {}
        for name, tensor in self._tensors.items():
            shape = tensor.at(batch)
            views[name] = self._blocks[name][: math.prod(shape)].reshape(shape)
        return views
