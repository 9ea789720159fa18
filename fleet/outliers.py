"""Boards that are slower than their kind, and why, as far as their state tells."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from .measuring import MeasuredBoard

__all__ = ["BoardFigures", "compare_boards"]

MUCH_SLOWER = 0.1
"""A board is named that takes at least this share longer than its kind."""

MUCH_LOWER_CLOCK = 0.97
"""A clock below this share of the highest one is told of."""


class BoardFigures(Struct, frozen=True, kw_only=True):
    """A board beside its kind.

    Attributes:
        name: its name.
        kind: the number of its kind, from 0: boards of one kind give the same answers.
        calibration: the file that holds for it; empty if none came home.
        reference_s: median latency of the whole network there.
        slower: by which share it is slower than the lower median of its kind, at the highest clocks that are allowed there.
        outlier: how much slower it is and why, in words; empty if it is not.

    Example:
        >>> from offramp.fleet import BoardFigures
        >>> board = BoardFigures(name="pi7", kind=0, reference_s=0.0123, slower=0.14)
        >>> print(f"{board.name} takes {board.slower:.0%} longer than its kind")
        pi7 takes 14% longer than its kind
    """

    name: str
    kind: int
    calibration: str = ""
    reference_s: float
    slower: float
    outlier: str = ""


def compare_boards(boards: Sequence[MeasuredBoard]) -> list[BoardFigures]:
    """Compare each board with its kind.

    Boards of one kind may be allowed different clocks. Times are compared in cycles of the highest clock where every board of the
    kind tells it: who stays behind then does not run at that clock, or waits for something else.
    """
    kinds = list(dict.fromkeys(each.board.kind for each in boards))
    figures = {}
    for number, kind in enumerate(kinds):
        alike = [each for each in boards if each.board.kind == kind]
        clocks = np.array([each.message.max_clock_hz for each in alike])
        times = np.array([each.latencies_s() for each in alike]) * (clocks[:, None] if clocks.all() else 1)
        usual = np.sort(times, axis=0)[(len(alike) - 1) // 2]
        slower = np.median(times / usual, axis=1) - 1
        for each, share in zip(alike, slower.tolist(), strict=True):
            figures[each.board.name] = BoardFigures(
                name=each.board.name,
                kind=number,
                reference_s=each.reference_s,
                slower=share,
                outlier=_explain(each, share, len(alike)) if share >= MUCH_SLOWER else "",
            )
    return [figures[each.board.name] for each in boards]


def _explain(here: MeasuredBoard, slower: float, count: int) -> str:
    said = f"Board {here.board.name} is {slower:.0%} slower than its kind ({count} boards)"
    clock_hz, most_hz = min((hz for hz in here.message.clock_hz if hz), default=0.0), here.message.max_clock_hz
    causes = list(here.message.throttled)
    if 0 < clock_hz < MUCH_LOWER_CLOCK * most_hz:
        causes.append(f"its clock was at {clock_hz / 1e9:.2g} of {most_hz / 1e9:.2g} GHz")
    if causes:
        return f"{said}: throttled ({', '.join(causes)})."
    return f"{said}, and its state tells no cause: compare its cooling, its supply and what else runs there."
