"""The command `offramp reuse`: its options, one call, and what it prints."""

import click

from ..describe import describe_reuse
from ..loading import Loading, with_loading
from ..options import as_json, examples, with_groups
from ..output import advises, print_result, progress_bars


@click.command(epilog=examples("offramp reuse digits.offramp clips.npz --groups clip --max-disagreement 0.02"))
@click.argument("bundle")
@click.argument("clips")
@with_groups
@click.option(
    "--max-disagreement", type=float, help="Largest share of samples that may get another answer: 0.02 is 2 percent."
)
@click.option("--max-drop", type=float, help="Instead, the accuracy that may be lost: 0.01 is 1 percent; needs labels.")
@click.option(
    "--point", "points", multiple=True, help="An operating point; may be repeated. Default: all with early exit."
)
@click.option("--most-in-row", default=10, show_default=True, help="How often one answer may be given again.")
@click.option("--confidence", default=0.9, show_default=True, help="Probability that all rules keep the limit.")
@with_loading("threads", "calibration")
@as_json
@advises("Nothing was kept: the same command measures again.")
def reuse(
    bundle: str,
    clips: str,
    groups: str | None,
    max_disagreement: float | None,
    max_drop: float | None,
    points: tuple[str, ...],
    most_in_row: int,
    confidence: float,
    loading: Loading,
    as_json: bool,
) -> None:
    """Find when a stream may give its last answer again, on CLIPS: samples in the order of time, --groups says of which clip.

    The rules are stored in the calibration of BUNDLE, one for each operating point, with what is promised. `Stream(net,
    reuse=True)` takes them.
    """
    from ...bundle import open_bundle
    from ...calibrate import calibrate_reuse
    from ...errors import UsageError
    from ..inputs import load_grouped

    if groups is None:
        raise UsageError("Say which clip each sample is of: --groups.")
    opened = open_bundle(bundle)
    with progress_bars() as progress:
        samples, parts = load_grouped(clips, groups, opened.manifest, progress=progress)
        made = calibrate_reuse(
            opened,
            samples,
            parts,
            max_disagreement=max_disagreement,
            max_drop=max_drop,
            points=points or None,
            calibration=loading.calibration,
            most_in_row=most_in_row,
            confidence=confidence,
            threads=loading.threads,
            progress=progress,
        )
    rules = {
        name: point.reuse for name, point in made.points.items() if point.reuse and name in (points or made.points)
    }
    print_result(rules, as_json, lambda: "\n\n".join(describe_reuse(name, rule) for name, rule in rules.items()))
