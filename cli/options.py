"""Options that commands share, and how their texts are read."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from ..bundle import Bundle, Preprocess
from ..errors import UsageError

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")


def on_devices(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where stages run: `device` and `place`."""
    options = [
        click.option(
            "--device",
            help="Where to run: cpu, cuda:0, openvino:CPU, ...; or auto. By default where it was calibrated, or cpu.",
        ),
        click.option("--place", help="Place stages apart: 0=openvino:CPU,1-=cpu. The others run on --device, or cpu."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


TARGETS: dict[str, tuple[str, float, str]] = {
    "min_accuracy": ("--min-accuracy", 1.0, "Least accuracy, a fraction."),
    "max_drop": (
        "--max-drop",
        1.0,
        "Largest accuracy drop against the whole network, a fraction: 0.01 is one percent.",
    ),
    "max_disagreement": ("--max-disagreement", 1.0, "Largest share of labels that differ from the whole network's."),
    "max_latency_s": ("--max-latency-ms", 1e-3, "Largest mean latency in milliseconds."),
    "deadline_s": ("--deadline-ms", 1e-3, "A deadline in milliseconds ..."),
    "max_late": ("--max-late", 1.0, "... and the largest share that may miss it; 0.01 by default."),
    "max_energy_j": ("--max-energy-mj", 1e-3, "Largest mean energy of an inference in millijoules."),
}
"""The limits of a target, each with its flag, the unit of that in the target's, and what it says."""


def with_target(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what is to be optimised under which limits; `read_target` takes their values."""
    options = [
        click.option("--goal", help="What to optimise: latency, energy or accuracy."),
        *(click.option(flag, name, type=float, help=said) for name, (flag, _, said) in TARGETS.items()),
        click.option(
            "--target", "target_file", help="A YAML file with a target, or several by the names of their points."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_target(*, target_file: str | None, goal: Any, **limits: float | None) -> Any:
    """Return the target that flags or a file ask for; None where there are none."""
    from ..calibrate import Target, read_targets

    given = {name: value * TARGETS[name][1] for name, value in limits.items() if value is not None}
    if target_file is None:
        return Target(goal=goal, **given) if given or goal else None
    if given or goal:
        raise UsageError("--target names a file that says everything: leave --goal and the limits out.")
    return read_targets(target_file)


with_fallback = click.option(
    "--fallback", help="Device to take where another is missing or cannot run a stage, such as cpu."
)


def devices_of(
    bundle: Bundle, variant: str | None, device: str | None, place: str | None
) -> str | tuple[str, ...] | None:
    """Return what --device and --place ask for: a device, one for each stage, or None where they say nothing."""
    if place is None:
        return device
    from ..runtime.placement import AUTO, parse_placement

    if device == AUTO:
        raise UsageError("--device auto chooses for all stages at once: leave --place out.")
    return parse_placement(place, len(bundle.variant(variant).stages), device=device or "cpu")


def calibrated_devices(bundle: Bundle, variant: str) -> str | tuple[str, ...]:
    """Return where a variant's chain was calibrated, or `cpu` where it was not, or several times."""
    from ..runtime.selection import choose_point

    try:
        _, found, _ = choose_point(bundle, variant=variant)
    except UsageError:
        return "cpu"
    chains = [one for one in found.chains if one.variant == variant] if found else []
    return chains[0].placement if chains else "cpu"


def variant_to_run(bundle: Bundle, variant: str | None) -> str:
    """Return the name of the variant that runs: the one that is asked for, or was calibrated, or the first."""
    from ..runtime.selection import choose_point

    return variant or choose_point(bundle)[0].name


with_meter = click.option(
    "--meter",
    default="auto",
    show_default=True,
    help="Name of a meter, as offramp doctor lists them, or file.py:function.",
)
with_threads = click.option("--threads", default=1, show_default=True, help="Threads per stage.")
with_seed = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draws what is drawn at random.",
)
with_variant = click.option(
    "--variant", help="Name of a variant; the first, or the one that was calibrated, by default."
)
with_point = click.option("--point", help="Operating point; the only or first one by default.")
with_calibration = click.option("--calibration", help="A calibration file outside the bundle.")


def with_loading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what of a calibrated bundle is loaded, and how; `read_loading` takes their values."""
    for option in (with_calibration, with_point, with_variant, with_threads, with_fallback, on_devices):
        command = option(command)
    return command


def read_loading(bundle: Bundle, *, place: str | None, **how: Any) -> dict[str, Any]:
    """Return the arguments of `runtime.load` that the options of `with_loading` ask for."""
    if place is not None:
        from ..runtime.selection import choose_point

        named = {name: how[name] for name in ("calibration", "variant", "point", "threads")}
        how["device"] = devices_of(bundle, choose_point(bundle, **named)[0].name, how["device"], place)
    return how


def parse_seconds(option: str, text: str, *, least: float = 0.01) -> float:
    """Read `10s`, `500ms`, `2m` or `10`, in seconds."""
    for unit, seconds in (("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit)) * seconds
            except ValueError:
                break
            if least <= value < float("inf"):
                return value
            break
    raise UsageError(f"{option} is a time of at least {least:g} s, such as 10s, 500ms or 2m, not {text!r}.")


def parse_shape(text: str) -> tuple[int, ...]:
    """Read `3x32x32`."""
    try:
        shape = tuple(int(axis) for axis in text.replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--shape is the sample's axes, such as 3x32x32, not {text!r}.")
    return shape


def split_names(text: str | None) -> list[str] | None:
    """Read `a,b`."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Read `0.5,0.25`."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes numbers joined by commas, such as 0.5,0.25, not {text!r}.") from None


def parse_preprocess(mean: str | None, std: str | None, **how: Any) -> Preprocess | None:
    """Make the preprocessing that --mean or --std ask for; the one that is missing changes nothing."""
    means, stds = parse_numbers("--mean", mean), parse_numbers("--std", std)
    if means is None and stds is None:
        return None
    return Preprocess(mean=means or (0.0,) * len(stds or ()), std=stds or (1.0,) * len(means or ()), **how)


def parse_axes(texts: Sequence[str]) -> Any:
    """Read `batch,time`, or several `input=batch,time`."""
    named: dict[str, list[str | None]] = {}
    for text in texts:
        name, _, listed = text.rpartition("=")
        named[name] = [None if part.strip() == "-" else part.strip() for part in listed.split(",")]
    if "" in named and len(named) > 1:
        raise UsageError("With several inputs every --axes begins with the input's name: tokens=batch,time.")
    return named.get("", named or None)


def random_example(shape: tuple[int, ...], *, images: bool) -> Any:
    """Draw three samples: uint8 images, or standard normal float32."""
    import numpy as np

    rng = np.random.default_rng(0)
    try:
        if images:
            return rng.integers(0, 256, (3, *shape), np.uint8)
        return rng.standard_normal((3, *shape), np.float32)
    except (MemoryError, ValueError) as error:
        raise UsageError(f"Three samples of the shape {shape} do not fit into memory.") from error
