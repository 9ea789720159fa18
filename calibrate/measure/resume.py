"""What a calibration that was killed goes on from."""

import hashlib

import numpy as np

from ...cache import discard, fetch, store
from ...errors import MissingError
from ...runtime.chain.samples import Samples


class Kept:
    """What is kept of a calibration in the cache until it is done, so that one that was killed goes on where it was.

    Args:
        key: what decides whether it fits, by name: the device and its software, the samples, the options.
    """

    def __init__(self, key: dict[str, str]) -> None:
        self._key = key
        self._stored: list[dict[str, str]] = []

    def load(self, part: dict[str, str]) -> bytes | None:
        """Return what was kept for a part of the calibration; None where nothing was."""
        key = self._key | part
        content = fetch(key, _label(part))[0]
        if content is not None:
            self._stored.append(key)
        return content

    def save(self, part: dict[str, str], content: bytes) -> None:
        """Keep something; where the cache cannot be written nothing is kept, and nothing fails."""
        key = self._key | part
        try:
            store(key, _label(part), content)
            self._stored.append(key)
        except MissingError:
            pass

    def clear(self) -> None:
        """Remove what was kept, once the calibration is done."""
        for key in self._stored:
            discard(key)


def _label(part: dict[str, str]) -> str:
    return f"unfinished calibration: {', '.join(text for name, text in part.items() if name != 'digest')}"


def hash_samples(x: Samples) -> str:
    """Return the sha256 of samples."""
    digest = hashlib.sha256()
    for array in x.arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        for first in range(0, len(array), 256):
            digest.update(np.ascontiguousarray(array[first : first + 256]).data)
    return digest.hexdigest()
