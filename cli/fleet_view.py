"""Options and printing of commands that work with boards elsewhere."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..errors import MeasurementError, UsageError
from ..units import show_us
from .output import table

if TYPE_CHECKING:
    from ..fleet import FleetCalibration, Tls

__all__ = ["check_missing", "describe_fleet", "refuse_with_fleet", "with_tls"]


def with_tls(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for TLS. The command gets `tls`, the files; None without them."""

    @functools.wraps(command)
    def gather(tls_ca: str | None, tls_cert: str | None, tls_key: str | None, **values: Any) -> Any:
        return command(tls=_read_tls(tls_ca, tls_cert, tls_key), **values)

    for name, what in (
        ("key", "its private key"),
        ("cert", "this process' certificate"),
        ("ca", "the authority's certificate, for a scheduler at tls://"),
    ):
        gather = click.option(f"--tls-{name}", help=f"File with {what} (PEM).")(gather)
    return gather


def _read_tls(ca: str | None, cert: str | None, key: str | None) -> "Tls | None":
    given = [each for each in (ca, cert, key) if each is not None]
    if not given:
        return None
    if len(given) < 3:
        raise UsageError("TLS takes three files: --tls-ca, --tls-cert and --tls-key.")
    from ..fleet import Tls

    return Tls(*given)


def refuse_with_fleet(**options: object) -> None:
    """Refuse options that boards elsewhere do not take.

    Raises:
        UsageError: one is given.
    """
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name.replace('_', '-')} and --fleet do not go together: leave one out.")


def describe_fleet(found: "FleetCalibration") -> str:
    """Describe what came home: the boards, the points that all of them share, and where calibrations lie."""
    rows = [("board", "kind", "whole network us", "beside its kind", "calibration")]
    for board in found.boards:
        file = board.calibration.rpartition("/")[2]
        rows.append(
            (board.name, str(board.kind), show_us(board.reference_s).removesuffix(" us"), f"{board.slower:+.0%}", file)
        )
    lines = [table(rows), ""]
    for path, calibration in found.calibrations.items():
        lines.append(f"{path}:")
        for name, point in calibration.points.items():
            lines.append(f"  {name}: {point.engines}, {show_us(point.latency_s)}. {point.promise}")
            if point.spread is not None:
                lines.append(f"    {point.verdict}")
        lines.append(f"  note: {calibration.notes[-1]}")
    lines += [f"note: {note}" for note in (*found.outliers, *found.notes)]
    return "\n".join([*lines, *(f"missing: {name}: {reason}" for name, reason in found.missing.items())])


def check_missing(found: "FleetCalibration") -> None:
    """Raise an error if boards are missing.

    Raises:
        MeasurementError: they are.
    """
    if found.missing:
        raise MeasurementError(
            f"{len(found.missing)} boards are missing: {', '.join(found.missing):.300}. The same command asks them again."
        )
