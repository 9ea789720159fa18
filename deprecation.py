"""What goes away in a later version: it warns for two minor versions, and then a test asks for its removal."""

import warnings
from typing import NamedTuple

__all__ = ["DeprecatedWarning", "Deprecation"]

MINOR_VERSIONS = 2
"""For so many minor versions something deprecated goes on working."""


class DeprecatedWarning(FutureWarning):
    """Something is used that goes away. Python shows this to everybody, and a `DeprecationWarning` to hardly anybody."""


class Deprecation(NamedTuple):
    """Something that goes away, written where it is still served: `Deprecation("load(half=)", since="0.2", ...).warn()`.

    Attributes:
        what: the name, parameter, option or field.
        since: the version that warned first, such as `0.2`; it stands there as a text, which a test reads.
        instead: what to use in its place, as an instruction.
    """

    what: str
    since: str
    instead: str

    @property
    def gone_in(self) -> str:
        """The first version without it."""
        major, minor = map(int, self.since.split(".")[:2])
        return f"{major}.{minor + MINOR_VERSIONS}"

    def warn(self, *, level: int = 2) -> None:
        """Warn whoever uses it; `level` counts the calls up to the user's, as for `warnings.warn` in the caller's place."""
        words = f"{self.what} is deprecated since offramp {self.since} and is gone in {self.gone_in}. {self.instead}"
        warnings.warn(words, DeprecatedWarning, stacklevel=level + 1)
