"""The picture of two calibrations: what each can have of accuracy and latency."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import Calibration, OperatingPoint
from ..bundle.calibration import StaticPoint, Tradeoff
from ..pictures import COLOURS, style_axes, write_caption, written_figure
from .sides import Side

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_frontiers"]


def draw_frontiers(first: Side, second: Side, output: Path) -> None:
    """Write a picture of the frontiers, the operating points and the static networks of both sides.

    Args:
        first, second: A and B; one without a calibration is not drawn.
        output: the file to write, as `check_picture` returns it.

    Raises:
        MissingError: the file cannot be written.
    """
    calibrations = [(name, side.calibration, side) for name, side in (("A", first), ("B", second))]
    drawn = [(name, found, side) for name, found, side in calibrations if found is not None]
    slowest_s = max((static.latency_s for _, found, _ in drawn for static in found.statics), default=0.0)
    unit, factor = ("us", 1e6) if slowest_s < 0.01 else ("ms", 1e3)
    heights = " or ".join(dict.fromkeys(_name_height(found) for _, found, _ in drawn))
    with written_figure(output, 8.0, 4.6) as figure:
        axes = figure.add_subplot()
        style_axes(axes, "What each can have", f"mean latency, {unit}", f"{heights}, %" if drawn else "")
        looks = (COLOURS[1], "o", "-"), (COLOURS[0], "s", "--")
        for (name, found, side), look in zip(drawn, looks, strict=False):
            _draw_side(axes, name, found, side, factor, look)
        if drawn:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        axes.set_xlim(left=0)
        write_caption(figure, [f"{name}: {side.facts.path}, {side.facts.calibration}" for name, _, side in drawn], 115)


def _draw_side(
    axes: "Axes", name: str, calibration: Calibration, side: Side, factor: float, look: tuple[str, str, str]
) -> None:
    colour, mark, line = look

    def place(networks: "list[Tradeoff] | list[StaticPoint] | list[OperatingPoint]") -> tuple[list[float], list[float]]:
        heights = list(_heights(calibration, networks))
        return [each.latency_s * factor for each in networks], heights

    frontier = sorted(calibration.frontier, key=lambda each: each.latency_s)
    axes.step(*place(frontier), where="post", color=colour, linestyle=line, linewidth=1.2, label=f"{name}: frontier")
    statics = [each for each in calibration.statics if calibration.took_part(each)]
    axes.plot(*place(statics), mark, color=colour, fillstyle="none", markersize=7, label=f"{name}: static networks")
    points = list(side.points.values())
    axes.plot(*place(points), mark, color=colour, markersize=9, label=f"{name}: operating points")


def _name_height(calibration: Calibration) -> str:
    """Say what is drawn of a calibration's networks: how right they are, or without labels how much like the whole network."""
    has_losses = calibration.point.target.counts == "losses"
    if calibration.point.accuracy is not None:
        return "mean loss" if has_losses else "accuracy"
    if calibration.point.full_accuracy_interval is not None:  # some labels are unknown
        return "accuracy against the whole network's"
    return "disagreement with the whole network" if has_losses else "agreement with the whole network"


def _heights(
    calibration: Calibration, networks: "list[Tradeoff] | list[StaticPoint] | list[OperatingPoint]"
) -> Iterator[float]:
    """Yield what is drawn of networks, in percent; see `_name_height`."""
    has_losses, whole = calibration.point.target.counts == "losses", calibration.point.full_accuracy_interval
    for each in networks:
        right = each.accuracy
        if isinstance(each, Tradeoff):
            right = each.accuracy + (0.0 if whole is None else 1 - whole[1])
        elif right is None:
            right = 1 - (each.disagreement if each.drop is None else each.drop)
        yield 100 * abs(has_losses - right)
