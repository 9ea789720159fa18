"""What a calibration of a fleet goes on from: what boards sent home, kept in this machine's cache until all of it is there."""

from collections.abc import Mapping

from ..cache import discard, fetch, store
from ..errors import MissingError

__all__ = ["Kept"]


class Kept:
    """Messages of boards, by what decides them.

    Args:
        key: what all of them depend on.
    """

    def __init__(self, key: Mapping[str, str]) -> None:
        self._key, self._used = dict(key), list[dict[str, str]]()

    def load(self, key: Mapping[str, str]) -> bytes | None:
        """Return a message that was kept; None if there is none."""
        whole = {**self._key, **key}
        content = fetch(whole, _title(key))[0]
        if content is not None:
            self._used.append(whole)
        return content

    def save(self, key: Mapping[str, str], content: bytes) -> None:
        """Keep a message; if the cache cannot be written nothing is kept and nothing fails."""
        whole = {**self._key, **key}
        try:
            store(whole, _title(key), content)
            self._used.append(whole)
        except MissingError:
            pass

    def clear(self) -> None:
        """Remove what was kept."""
        for key in self._used:
            discard(key)


def _title(key: Mapping[str, str]) -> str:
    return f"unfinished calibration of a fleet: {', '.join(key.values()):.200}"
