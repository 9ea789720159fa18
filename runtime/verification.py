"""The device's self-test: a bundle's golden samples replayed through whatever may run of it, on the engine that will run it."""

import os
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from ..bundle import Bundle, Variant, opened
from ..bundle.golden import Golden, read_golden
from ..devices import fingerprint
from ..errors import MissingError, quoted
from ..progress import Progress
from .golden_check import AnswerCheck, ExitCheck, check_answers, check_exits, check_logits, tolerances_of
from .opening import open_network
from .placement import describe_devices
from .request import LoadOptions, NetworkParts, chain_parts, static_parts
from .selection import packages_of

__all__ = ["Verification", "verify"]


class Verification(Struct, frozen=True):
    """Whether a variant passes its golden samples on a device. `print` shows it as a table.

    Attributes:
        variant: the variant's name.
        device: the device, or those of the stages.
        tolerance: the largest relative error that is allowed at any exit.
        passed: True if every exit passed.
        exits: the check of each exit.
        fingerprint: the device and its software, as `devices.fingerprint` describes them.
        networks: the check of everything that `load` may run of the variant: the chain and each static network.

    Example:
        >>> from offramp.runtime import verify
        >>> fp32, int8 = verify("digits.offramp")
        >>> fp32.variant, fp32.device, fp32.passed
        ('fp32', 'cpu', True)
    """

    variant: str
    device: str
    tolerance: float
    passed: bool
    exits: tuple[ExitCheck, ...]
    fingerprint: dict[str, str]
    networks: tuple[AnswerCheck, ...] = ()

    def __str__(self) -> str:
        has_labels = any(network.labels for network in self.networks) or not self.networks
        last = f"{'labels equal':>15}" if has_labels else ""
        lines = [f"{'exit':12}{'largest error':>15}{'relative':>12}{'of a score':>12}{last}"]
        for check in self.exits:
            labels = f"{f'{check.labels_equal} of {check.samples}':>15}" if has_labels else ""
            lines.append(f"{check.exit:12}{check.absolute:15.3g}{check.relative:12.3g}{check.score:12.3g}{labels}")
        for network in self.networks:
            lines.append(_describe(network))
        verdict = "passed" if self.passed else "failed"
        lines.append(
            f"variant {self.variant} on {self.device}: {verdict}, {self.tolerance:.0e} relative error is allowed"
        )
        return "\n".join(lines)


def _describe(check: AnswerCheck) -> str:
    """Say in a line how a network did."""
    if check.problem is not None:
        return f"{check.network} does not run here: {quoted(check.problem)}"
    verdict = "" if check.passed else ": FAILED"
    origin = " (built in the bundle)" if "bundle" in check.built else ""
    labels = f"{check.labels_equal} of {check.labels} labels equal, " if check.labels else ""
    what = "a logit" if check.labels else "a value of its answer"
    values = "" if check.relative is None else f", {what} by at most {check.relative:.3g} of the largest"
    return f"{check.network}{origin}: {labels}a score is off by at most {check.score:.3g}{values}{verdict}"


def verify(
    path: str | os.PathLike[str] | Bundle,
    device: str | Sequence[str] = "cpu",
    *,
    variant: str | None = None,
    threads: int = 1,
    fallback: str | None = None,
    progress: Progress | None = None,
) -> tuple[Verification, ...]:
    """Replay the golden samples of a bundle on a device and compare every exit's answers with those in the bundle.

    The chain and each static network are run twice: with logits, which show the smallest error, and as `load` makes them, of the
    builds that `load` takes. Of a network that does not classify the parts of its answers are compared in place of logits. The
    tolerance is that of the variant's precision, or four times its `own_error`, up to 1e-2. A static network may be
    off by twice the variant's `error`, if that is above the tolerance.

    Args:
        path: the bundle's folder, or a bundle already opened.
        device, threads, fallback, progress: as for `load`.
        variant: name of a variant; all by default.

    Returns:
        A verification for each variant.

    Raises:
        UsageError, BundleError, MissingError: as for `load`.
        DataError: the engine cannot run the samples.

    Example:
        >>> from offramp.runtime import verify
        >>> all(verification.passed for verification in verify("digits.offramp"))
        True
    """
    bundle = opened(path)
    variants = bundle.manifest.variants if variant is None else (bundle.variant(variant),)
    options = LoadOptions(threads=threads, fallback=fallback, progress=progress, is_for_use=False)
    return tuple(_verify_variant(bundle, chosen, device, options) for chosen in variants)


def _verify_variant(
    bundle: Bundle,
    variant: Variant,
    device: str | Sequence[str],
    options: LoadOptions,
) -> Verification:
    golden, parts = read_golden(bundle, variant), chain_parts(bundle, variant)
    with open_network(parts, device, replace(options, logits=True)) as net:
        exits, provenance = check_exits(variant, net, golden), net.provenance
    devices = provenance.devices
    networks = [_check_network(parts, devices, options, golden, "the chain")]
    for k in range(len(variant.exits)):
        name, static = f"the static network to exit {k}", static_parts(bundle, variant, k)
        check = AnswerCheck(name)
        try:
            check = _check_network(static, devices[k], options, golden, name)
            with open_network(static, devices[k], replace(options, logits=True)) as net:
                check = check_logits(static, net, golden, check)
        except MissingError as error:  # what cannot be loaded here gives no wrong answer
            check = AnswerCheck(name, problem=str(error)) if check.passed else check
        networks.append(check)
    return Verification(
        variant=variant.name,
        device=describe_devices(devices),
        tolerance=max(tolerances_of(variant, provenance)),
        passed=all(check.passed for check in exits) and all(check.passed for check in networks),
        exits=exits,
        fingerprint=fingerprint(packages=packages_of(devices), threads=options.threads),
        networks=tuple(networks),
    )


def _check_network(
    parts: NetworkParts, devices: str | Sequence[str], options: LoadOptions, golden: Golden, name: str
) -> AnswerCheck:
    """Check a network as `load` makes it: without logits, of the builds that `load` would take."""
    with open_network(parts, devices, options) as net:
        return check_answers(parts, net, golden, name)
