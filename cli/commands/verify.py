"""offramp verify"""

import warnings

import click

from ...errors import CheckError, UnsupportedError
from ..options import as_json, calibrated_devices, devices_of, on_devices, with_fallback, with_threads
from ..output import print_result, progress_bars


@click.command()
@click.argument("bundle")
@on_devices
@with_fallback
@with_threads
@click.option("--variant", help="Name of a variant; all by default.")
@as_json
def verify(
    bundle: str,
    device: str | None,
    place: str | None,
    fallback: str | None,
    threads: int,
    variant: str | None,
    as_json: bool,
) -> None:
    """Replay BUNDLE's golden samples through every stage on this device and compare with what was exported."""
    from ...bundle import open_bundle
    from ...runtime import Verification
    from ...runtime import verify as verify_bundle

    opened = open_bundle(bundle)
    names = [variant] if variant else [one.name for one in opened.manifest.variants]
    found: list[Verification] = []
    with progress_bars() as progress:
        for name in names:
            devices = devices_of(opened, name, device, place) or calibrated_devices(opened, name)
            try:
                found += verify_bundle(
                    opened, devices, variant=name, threads=threads, fallback=fallback, progress=progress
                )
            except UnsupportedError as error:
                if name == names[-1] and not found:
                    raise
                warnings.warn(f"{name} is left out: {error}", stacklevel=1)
    print_result(found, as_json, lambda: "\n\n".join(map(str, found)))
    if failed := [result.variant for result in found if not result.passed]:
        raise CheckError(
            f"{', '.join(failed)}: what runs on {found[0].device} is not what was exported. Do not deploy it here."
        )
