"""Memory for samples: an array, which lies in an unnamed file where it is large."""

import contextlib
import math
import os
import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from ..cache import make_cache_folder

__all__ = ["make_array"]

LARGE_BYTES = 1 << 30
"""Arrays of at least this size lie in a file, so that the system may keep on the disk what is not in use."""


def make_array(shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
    """Return an array to be filled. A large one is a map of an unnamed file in the cache's folder, which vanishes with it.

    Where no such file can be made, or the disk has too little room, the array lies in memory.

    Raises:
        MemoryError: the array does not fit into memory.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size >= LARGE_BYTES and hasattr(os, "posix_fallocate"):
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=make_cache_folder()) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full would end the process later
            return np.memmap(file, dtype, "r+", shape=tuple(shape))
    return np.empty(tuple(shape), dtype)
