"""What manifests and calibrations are made of."""

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["Count", "Positive", "Record"]

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen part of a manifest or calibration. Decoding refuses unknown fields."""
