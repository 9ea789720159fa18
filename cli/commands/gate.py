"""The command `offramp gate`: its options, one call, and what it prints."""

import click

from ..describe import describe_made
from ..options import as_json, examples
from ..output import advises, print_result, progress_bars


@click.command(epilog=examples("offramp gate digits.offramp --data samples.npz"))
@click.argument("bundle")
@click.option(
    "--data", required=True, help="Samples to fit to, with labels or without; others than those that calibrate gets."
)
@click.option("--variant", help="The variant to start from. Default: the first.")
@click.option("--name", help="Name of the new variant. Default: such as fp32-gate.")
@click.option("--replace", is_flag=True, help="Take the place of the variant that has this name.")
@as_json
@advises()
def gate(bundle: str, data: str, variant: str | None, name: str | None, replace: bool, as_json: bool) -> None:
    """Add a variant to BUNDLE whose scores are fitted to samples: how sure an exit is, by all that it says."""
    from ...bundle import open_bundle
    from ...export import gate as fit_scores
    from ..inputs import load_samples

    opened = open_bundle(bundle)
    with progress_bars() as progress:
        samples = load_samples(data, opened.manifest, progress=progress)
        fitted = fit_scores(opened, samples, variant=variant, name=name, replace=replace, progress=progress)
    print_result(fitted.manifest, as_json, lambda: describe_made(fitted, bundle))
