"""A point's recommendation as a card shows it: whoever sees no colours still sees whether it is promised."""

from typing import Literal

from msgspec import Struct

from ...bundle import OperatingPoint

__all__ = ["Recommendation", "recommend"]


class Recommendation(Struct, frozen=True):
    """What the card of a point says.

    Attributes:
        kind: how it looks: `good` is promised early exit, `stop` a static network in its place, `unsure` whatever is not promised
            or not known, `missed` a target that is missed.
        sign: a letter that says the same without colours.
        headline: in a few words.
        reason: the figures.
    """

    kind: Literal["good", "stop", "unsure", "missed"]
    sign: str
    headline: str
    reason: str


def recommend(point: OperatingPoint) -> Recommendation:
    """Return what the card of a point says, by its verdict, by whether its target is met, and by whether it is promised."""
    headline, _, reason = point.verdict.partition(": ")
    reason = reason[:1].upper() + reason[1:]
    if not point.met:
        return Recommendation("missed", "!", headline or "The target is missed", reason)
    if not point.is_promised:
        headline = headline or "Not surely within the target"
        return Recommendation("unsure", "?", f"{headline}, without a promise" if point.pays else headline, reason)
    if point.pays:
        return Recommendation("good", "\N{CHECK MARK}", headline or "Use early exit", reason)
    if headline.startswith("Do not"):
        return Recommendation("stop", "\N{MULTIPLICATION SIGN}", headline, reason)
    return Recommendation("unsure", "?", headline, reason)
