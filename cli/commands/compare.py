"""The command `offramp compare`: its options, one call, and what it prints."""

import click

from ..compare_view import describe_comparison
from ..options import as_json, examples, with_plot
from ..output import print_result


@click.command(
    epilog=examples(
        "offramp compare old.offramp new.offramp", "offramp compare digits.offramp --calibration pi5 --calibration orin"
    )
)
@click.argument("first", metavar="A")
@click.argument("second", metavar="[B]", required=False)
@click.option(
    "--calibration",
    multiple=True,
    help="Name of a calibration, as offramp inspect shows it, or its file. Given once it counts for both, given twice for A, "
    "then B; so do --variant and --point. Default: the only one.",
)
@click.option("--variant", multiple=True, help="Name of a variant. Default: that of the operating point.")
@click.option("--point", multiple=True, help="Name of an operating point. Default: all that both have.")
@with_plot("accuracy over latency of both")
@as_json
def compare(
    first: str,
    second: str | None,
    calibration: tuple[str, ...],
    variant: tuple[str, ...],
    point: tuple[str, ...],
    plot: str | None,
    as_json: bool,
) -> None:
    """Show two bundles side by side, A and B, and say what is surely different: speed, accuracy, boards, promises.

    Without B, two calibrations, variants or operating points of A are compared. Nothing is measured: a difference is claimed only
    where it is larger than the noise that calibrations stored.
    """
    from ...calibrate import compare_bundles

    found = compare_bundles(
        first,
        second,
        calibration=calibration or None,
        variant=variant or None,
        point=point or None,
        plot=plot,
    )
    print_result(found, as_json, lambda: describe_comparison(found))
