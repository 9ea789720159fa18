"""The operating point that is compared: one that exits early."""

from ..bundle import Calibration
from ..errors import UsageError, unknown_name

__all__ = ["choose_early"]


def choose_early(calibration: Calibration, point: str | None) -> str:
    """Return the name of the point that is compared: the given one, or the first that exits early.

    Raises:
        UsageError: the point is unknown or does not exit early, or no point does.
    """
    chains = [name for name, candidate in calibration.points.items() if candidate.exits_early]
    if point is None and not chains:
        raise UsageError("No operating point exits early: no thresholds meet the target. There is nothing to compare.")
    point = point or chains[0]
    if point not in calibration.points:
        raise unknown_name("operating point", point, calibration.points)
    if not calibration.points[point].exits_early:
        raise UsageError(
            f"The operating point {point} is {calibration.points[point].engines}, which does not exit early. "
            f"{'Name one that does: ' + ', '.join(chains) if chains else 'No other does either'}."
        )
    return point
