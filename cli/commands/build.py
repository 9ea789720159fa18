"""The commands that compile a bundle's stages ahead, and that look after what was compiled."""

import click

from ..options import as_json, calibrated_devices, devices_of, on_devices, variant_to_run, with_threads, with_variant
from ..output import print_result, progress_bars, table


@click.command()
@click.argument("bundle")
@on_devices
@click.option("--into-bundle", is_flag=True, help="Keep them in the bundle, to travel with it, instead of the cache.")
@click.option("--logits", is_flag=True, help="For networks that are loaded with logits, as verify does.")
@with_threads
@with_variant
@as_json
def build(
    bundle: str,
    device: str | None,
    place: str | None,
    into_bundle: bool,
    logits: bool,
    threads: int,
    variant: str | None,
    as_json: bool,
) -> None:
    """Compile BUNDLE's stages for a device ahead, so that loading it takes no time for that.

    What another machine will run, such as rknn:rk3588, is always kept in the bundle, static networks for calibrating included.
    """
    from ...bundle import open_bundle
    from ...runtime import build as build_bundle

    opened = open_bundle(bundle)
    variant = variant_to_run(opened, variant)
    devices = devices_of(opened, variant, device, place) or calibrated_devices(opened, variant)
    with progress_bars() as progress:
        found = build_bundle(
            opened,
            devices,
            variant=variant,
            threads=threads,
            logits=logits,
            into_bundle=into_bundle,
            progress=progress,
        )
    lines = [("stage", "device", "MB", "", "path")]
    for one in found:
        state = "was there" if one.was_there else "built"
        lines.append((one.stage, one.device, f"{one.bytes / 1e6:.2f}", state, one.path))
    nothing = "There is nothing to build ahead: these engines compile a stage when it is loaded and keep nothing."
    print_result(found, as_json, lambda: table(lines) if found else nothing)
