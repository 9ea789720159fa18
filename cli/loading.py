"""The options that say what of a bundle a command loads, and where: one record of their values, and the devices they mean."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

import click
from msgspec import Struct

from ..errors import UsageError

if TYPE_CHECKING:
    from ..bundle import Bundle

__all__ = ["LoadArguments", "Loading", "with_loading"]

Devices = str | tuple[str, ...]
"""One device for all stages, or one for each."""


class LoadArguments(TypedDict):
    """The arguments of `runtime.load` that options give."""

    device: Devices | None
    threads: int
    fallback: str | None
    variant: str | None
    point: str | None
    calibration: str | None


class Loading(Struct, frozen=True, kw_only=True):
    """Values of the options that say what is loaded, and where. A command has some of these options; the others stay as they are.

    Attributes:
        device: --device, the device of every stage that `place` does not name.
        place: --place, devices of single stages: `0=openvino:CPU,1-=cpu`.
        fallback: --fallback, the device to take where another is missing.
        threads: --threads, threads within a stage.
        variant, point, calibration: --variant, --point, --calibration.
    """

    device: str | None = None
    place: str | None = None
    fallback: str | None = None
    threads: int = 1
    variant: str | None = None
    point: str | None = None
    calibration: str | None = None

    def devices(self, bundle: "Bundle", variant: str | None) -> Devices | None:
        """Return the devices that --device and --place ask for; None if neither is given.

        Raises:
            UsageError: --place goes with --device auto, or names stages that the variant does not have.
        """
        if self.place is None:
            return self.device
        from ..runtime.placement import AUTO, parse_placement

        if self.device == AUTO:
            raise UsageError("--device auto chooses for all stages at once: leave --place out.")
        return parse_placement(self.place, len(bundle.chain(variant).stages), device=self.device or "cpu")

    def devices_or_calibrated(self, bundle: "Bundle", variant: str) -> Devices:
        """Return the devices that are asked for, or else those where the variant was calibrated, or else `cpu`.

        Raises:
            UsageError: as for `devices`; or it was calibrated on a server, which nobody asked for.
        """
        return self.devices(bundle, variant) or _calibrated_devices(bundle, variant)

    def variant_to_run(self, bundle: "Bundle") -> str:
        """Return the variant that is asked for, or else the calibrated one, or else the first."""
        from ..runtime.selection import choose_point

        return self.variant or choose_point(bundle)[0].name

    def arguments(self, bundle: "Bundle") -> LoadArguments:
        """Return the arguments of `runtime.load` that the options ask for."""
        devices: Devices | None = self.device
        if self.place is not None:
            from ..runtime.selection import choose_point

            variant, _, _ = choose_point(
                bundle, self.calibration, variant=self.variant, point=self.point, threads=self.threads
            )
            devices = self.devices(bundle, variant.name)
        return LoadArguments(
            device=devices,
            threads=self.threads,
            fallback=self.fallback,
            variant=self.variant,
            point=self.point,
            calibration=self.calibration,
        )


def _calibrated_devices(bundle: "Bundle", variant: str) -> Devices:
    """Return the devices on which a variant's chain was calibrated, or `cpu` if it was not, or by several calibrations."""
    from ..runtime.placement import refuse_servers
    from ..runtime.selection import choose_point

    try:
        _, calibration, _ = choose_point(bundle, variant=variant)
    except UsageError:
        return "cpu"
    chains = [chain for chain in calibration.chains if chain.variant == variant] if calibration else []
    return tuple(refuse_servers(chains[0].placement)) if chains else "cpu"


OPTIONS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "device": click.option(
        "--device",
        help="Where to run: cpu, cuda:0, openvino:CPU, ...; or auto. Default: the device of the calibration, or cpu.",
    ),
    "place": click.option(
        "--place",
        help="Devices of single stages: 0=openvino:CPU,1-=cpu. All other stages run on --device, or cpu.",
    ),
    "fallback": click.option(
        "--fallback", help="Device to use if another is missing or cannot run a stage, such as cpu."
    ),
    "threads": click.option("--threads", default=1, show_default=True, help="Threads that the engine uses per stage."),
    "variant": click.option("--variant", help="Name of a variant. Default: the calibrated one, or the first."),
    "point": click.option("--point", help="Name of an operating point. Default: the first."),
    "calibration": click.option("--calibration", help="A calibration file outside the bundle."),
}


def with_loading(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add some of the `OPTIONS`, all by default; the command gets their values as one `Loading`, named `loading`."""
    chosen = names or tuple(OPTIONS)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def gather(**values: Any) -> Any:
            loading = Loading(**{name: values.pop(name) for name in chosen})
            return command(loading=loading, **values)

        decorated: Callable[..., Any] = gather
        for name in reversed(chosen):
            decorated = OPTIONS[name](decorated)
        return decorated

    return decorate
