"""The command `offramp verify`: its options, one call, and what it prints."""

import warnings
from typing import TYPE_CHECKING

import click

from ...errors import CheckError, UnsupportedError
from ..loading import Loading, with_loading
from ..options import as_json, examples
from ..output import advises, print_result, progress_bars
from ..signatures import describe_signatures, with_trust

if TYPE_CHECKING:
    from ...bundle import Bundle
    from ...progress import Progress
    from ...runtime import Verification


@click.command(epilog=examples("offramp verify digits.offramp", "offramp verify digits.offramp --device openvino:CPU"))
@click.argument("bundle")
@with_loading("device", "place", "fallback", "threads")
@click.option("--variant", help="Name of a variant. Default: all.")
@with_trust
@as_json
@advises("The bundle is as it was: the same command starts again.")
def verify(bundle: str, loading: Loading, variant: str | None, trust: str | None, as_json: bool) -> None:
    """Replay BUNDLE's golden samples through every stage on this device, and compare with what was exported."""
    from ...bundle import open_bundle

    opened = open_bundle(bundle, trust=trust)
    names = [variant] if variant else [each.name for each in opened.manifest.variants]
    with progress_bars() as progress:
        verifications = _verify_each(opened, names, loading, progress)
    print_result(verifications, as_json, lambda: _describe(opened, verifications))
    if failed := [verification.variant for verification in verifications if not verification.passed]:
        device = verifications[0].device
        raise CheckError(
            f"{', '.join(failed)}: what runs on {device} is not what was exported. Do not deploy it here.",
            device=device,
        )


def _describe(bundle: "Bundle", verifications: "list[Verification]") -> str:
    counts = " or ".join(str(count) for count in sorted({each.exits[0].samples for each in verifications}))
    origin = (
        f"{counts} golden samples were replayed. The export took them from its examples; in an int8 variant, quantize may have "
        "added some of its own. The bundle keeps no others."
    )
    return "\n\n".join(filter(None, [*map(str, verifications), origin, describe_signatures(bundle)]))


def _verify_each(bundle: "Bundle", names: list[str], loading: Loading, progress: "Progress") -> "list[Verification]":
    """Verify variants one by one where each was calibrated; warn of those that a device cannot run.

    Raises:
        UnsupportedError: no variant can run.
    """
    from ...runtime import verify as verify_bundle

    verifications: list[Verification] = []
    for name in names:
        try:
            verifications += verify_bundle(
                bundle,
                loading.devices_or_calibrated(bundle, name),
                variant=name,
                threads=loading.threads,
                fallback=loading.fallback,
                progress=progress,
            )
        except UnsupportedError as error:
            if name == names[-1] and not verifications:
                raise
            warnings.warn(f"{name} is left out: {error}", stacklevel=1)
    return verifications
