"""Where labels stand beside the marks of a plot, and which part of an axis its marks need."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from msgspec import Struct

__all__ = ["Axis", "choose_axis", "place_labels"]

LINE_HEIGHT, MARK_RADIUS = 14, 6
"""Pixels that a label takes in height, and a mark from its middle."""

STEPS = 9
"""A label may stand so many lines above or below its mark."""

LEAST_DECADES = 8.0
"""An axis is logarithmic only where its largest value is so many times the least."""

MOST_EMPTY = 0.5
"""A larger empty share of an axis is cut off, if few marks lie beyond it."""

MOST_BEYOND = 1 / 3
"""The share of marks that may lie beyond the end of an axis."""

MARGIN = 0.12
"""The share of the axis that is left free at both ends."""

Box = tuple[float, float, float, float]


class Axis(Struct, frozen=True):
    """An axis: is it logarithmic, and from where to where it goes. Values outside stand at its ends."""

    is_log: bool
    low: float
    high: float

    def place(self, value: float) -> float:
        """Return the value, or the end of the axis that is nearest to it."""
        return min(max(value, self.low), self.high)

    def is_outside(self, value: float) -> bool:
        """Return True if a value is outside."""
        return not self.low <= value <= self.high


def choose_axis(values: Sequence[float], needed: Sequence[float], *, may_be_log: bool) -> Axis:
    """Return the axis on which values stand apart, and no far one takes the room of the others.

    Args:
        values: what is shown.
        needed: those of them that must lie inside.
        may_be_log: a logarithmic axis is chosen where it leaves the smaller largest gap; of values that are above 0.

    Example:
        >>> choose_axis([50, 52, 54, 5000], [50], may_be_log=False).high < 60
        True
        >>> choose_axis([10, 30, 100, 300, 1000], [], may_be_log=True).is_log
        True
    """
    ordered = sorted(values)
    is_log = (
        may_be_log
        and 0 < ordered[0] * LEAST_DECADES < ordered[-1]
        and _largest_gap([math.log(value) for value in ordered])[0] < _largest_gap(ordered)[0]
    )
    scaled = [math.log(value) for value in ordered] if is_log else ordered
    share, k = _largest_gap(scaled)
    most = MOST_BEYOND * len(ordered)
    if share > MOST_EMPTY and len(ordered) - k <= most and max(needed, default=ordered[0]) <= ordered[k - 1]:
        scaled = scaled[:k]
    elif share > MOST_EMPTY and k <= most and min(needed, default=ordered[-1]) >= ordered[k]:
        scaled = scaled[k:]
    low, high = scaled[0], scaled[-1]
    margin = MARGIN * ((high - low) or abs(high) or 1.0)
    if is_log:
        return Axis(True, math.exp(low - margin), math.exp(high + margin))
    if may_be_log and scaled is ordered and low < high / 2:
        return Axis(False, 0.0, high + margin)  # a cost that begins at 0
    return Axis(False, low - margin, high + margin)


def _largest_gap(ordered: Sequence[float]) -> tuple[float, int]:
    """Return the largest gap between neighbours, as a share of the whole length, and the place of the value after it."""
    whole = ordered[-1] - ordered[0]
    if not whole:
        return 0.0, len(ordered)
    return max(((right - left) / whole, i + 1) for i, (left, right) in enumerate(pairwise(ordered)))


def place_labels(
    points: Sequence[tuple[float, float]],
    widths: Sequence[float],
    *,
    area: tuple[float, float],
    others: Sequence[tuple[float, float]] = (),
) -> list[tuple[float, float] | None]:
    """Return where to write each label, in pixels right of and above its mark; None where it would cover another, or a mark.

    Args:
        points: the marks, in pixels from the lower left corner of the plot; the most important first.
        widths: what their labels take, in pixels.
        area: width and height of the plot in pixels, in which labels stay.
        others: marks without labels.
    """
    taken = [(x - MARK_RADIUS, y - MARK_RADIUS, x + MARK_RADIUS, y + MARK_RADIUS) for x, y in (*points, *others)]
    offsets: list[tuple[float, float] | None] = []
    for (x, y), width in zip(points, widths, strict=True):
        offset = None
        for dx, dy in _places(width):
            box = (x + dx, y + dy, x + dx + width, y + dy + LINE_HEIGHT)
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= area[0] and box[3] <= area[1]
            if inside and not any(_overlap(box, other) for other in taken):
                offset = (dx, dy)
                taken.append(box)
                break
        offsets.append(offset)
    return offsets


def _places(width: float) -> Iterator[tuple[float, float]]:
    """Yield where a label may stand, the nearest to its mark first."""
    for step in range(STEPS):
        if step == 1:
            yield from ((10.0, -LINE_HEIGHT / 2), (-10.0 - width, -LINE_HEIGHT / 2))
        for up in (5 + LINE_HEIGHT * step, -5 - LINE_HEIGHT * (step + 1)):
            yield from ((8.0, up), (-8.0 - width, up), (-width / 2, up + math.copysign(4, up)))


def _overlap(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
