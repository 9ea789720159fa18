"""What manifests and calibrations are made of."""

from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct

__all__ = ["MOST_NAMED", "Count", "Positive", "Record", "Seconds", "Share", "Text", "Texts", "encode_number"]

MOST_CHARACTERS, MOST_NAMED = 10_000, 1000
"""A text has no more characters; and there are no more of what is told by name, such as settings or notes."""

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=MOST_CHARACTERS)]
Texts = Annotated[tuple[Text, ...], Meta(max_length=MOST_NAMED)]


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen part of a manifest or calibration. Decoding refuses unknown fields."""


def encode_number(value: Any) -> Any:
    """Return a number or text of NumPy's as one of Python's, for msgspec to encode: programs give them as settings."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Objects of {type(value)} cannot be encoded.")
