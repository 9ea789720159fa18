"""The command `offramp build`: its options, one call, and what it prints."""

import click

from ..describe import describe_builds
from ..loading import Loading, with_loading
from ..options import as_json, examples
from ..output import advises, print_result, progress_bars


@click.command(
    epilog=examples("offramp build digits.offramp", "offramp build digits.offramp --device openvino:CPU --into-bundle")
)
@click.argument("bundle")
@with_loading("device", "place", "threads", "variant")
@click.option("--into-bundle", is_flag=True, help="Keep the builds in the bundle, to travel with it, not in the cache.")
@click.option("--logits", is_flag=True, help="Build networks that also give logits, as verify loads them.")
@as_json
@advises("What was built is kept: the same command goes on from there.")
def build(bundle: str, loading: Loading, into_bundle: bool, logits: bool, as_json: bool) -> None:
    """Compile BUNDLE's stages for a device ahead, so that loading need not compile them.

    Builds for another machine, such as rknn:rk3588, are always kept in the bundle. They include the static networks that
    calibration measures.
    """
    from ...bundle import open_bundle
    from ...runtime import build as build_bundle

    opened = open_bundle(bundle)
    variant = loading.variant_to_run(opened)
    with progress_bars() as progress:
        builds = build_bundle(
            opened,
            loading.devices_or_calibrated(opened, variant),
            variant=variant,
            threads=loading.threads,
            logits=logits,
            into_bundle=into_bundle,
            progress=progress,
        )
    print_result(builds, as_json, lambda: describe_builds(builds))
