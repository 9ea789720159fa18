"""What a calibration that was killed goes on from."""

from typing import Literal

from msgspec import Struct

from ...bundle import Variant
from ...cache import discard, fetch, store
from ...errors import MissingError

__all__ = ["Part", "Resume", "Work"]

Work = Literal["given", "outside", "energy"]
"""The kind of work: answers to the given samples, answers to those from outside, or joules."""


class Part(Struct, frozen=True, kw_only=True):
    """One piece of work that is stored when it is done, or half done.

    Attributes:
        variant: the variant that ran.
        placement: the device of each stage; of a static network the device of the whole.
        work: the kind of work.
        static: the exit at which a static network ends; None for the chain.
    """

    variant: Variant
    placement: tuple[str, ...]
    work: Work
    static: int | None = None

    @property
    def key(self) -> dict[str, str]:
        """The key of the part in the cache."""
        key = {
            "variant": self.variant.name,
            "digest": self.variant.digest,
            "placement": ", ".join(self.placement),
            "work": self.work,
        }
        return key if self.static is None else key | {"static": str(self.static)}

    @property
    def title(self) -> str:
        """The name of the part in lists of the cache: `unfinished calibration: fp32, cpu, cpu, given`."""
        return f"unfinished calibration: {', '.join(text for name, text in self.key.items() if name != 'digest')}"


class Resume:
    """Work of an unfinished calibration, stored in the cache until the calibration is done.

    Args:
        key: decides whether stored work fits this calibration: the device and its software, the samples, the options.
    """

    def __init__(self, key: dict[str, str]) -> None:
        self._key = key
        self._stored: list[dict[str, str]] = []

    def load(self, part: Part) -> bytes | None:
        """Return what was stored for a part of the calibration; None if nothing was."""
        key = self._key | part.key
        content = fetch(key, part.title)[0]
        if content is not None:
            self._stored.append(key)
        return content

    def save(self, part: Part, content: bytes) -> None:
        """Store a part; if the cache cannot be written nothing is stored and nothing fails."""
        key = self._key | part.key
        try:
            store(key, part.title, content)
            self._stored.append(key)
        except MissingError:
            pass

    def clear(self) -> None:
        """Remove what was stored, once the calibration is done."""
        for key in self._stored:
            discard(key)
