"""Options that several commands have, and readers for the texts of options. Those about loading are in `loading`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..errors import UsageError

if TYPE_CHECKING:
    from ..bundle import Preprocess, Target


def examples(*lines: str) -> str:
    """Return the end of a command's help: command lines to copy, which click leaves as they are."""
    listed = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExample{'s' * (len(lines) > 1)}:\n{listed}"


as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")


LIMITS: dict[str, tuple[str, float, str]] = {
    "min_accuracy": ("--min-accuracy", 1.0, "Smallest accuracy, as a fraction: 0.95 is 95 percent."),
    "max_drop": (
        "--max-drop",
        1.0,
        "Largest accuracy drop against the whole network, as a fraction: 0.01 is one percent; of other answers the largest mean "
        "loss added.",
    ),
    "max_loss": ("--max-loss", 1.0, "Largest mean loss from 0 to 1; of a classifier the share of wrong labels."),
    "max_disagreement": (
        "--max-disagreement",
        1.0,
        "Largest share of samples with another label than the whole network gives; of other answers the largest mean "
        "disagreement.",
    ),
    "max_latency_s": ("--max-latency-ms", 1e-3, "Largest mean latency in milliseconds, or with a unit: 800us."),
    "deadline_s": ("--deadline-ms", 1e-3, "A deadline in milliseconds ..."),
    "max_late": ("--max-late", 1.0, "... and the largest share of inputs that may miss it. Default: 0.01."),
    "link_j_per_byte": (
        "--link-nj-per-byte",
        1e-9,
        "Price of a byte to a stage on a server in nanojoules, in energies.",
    ),
    "max_energy_j": ("--max-energy-mj", 1e-3, "Largest mean energy per inference in millijoules."),
}
"""By limit of a target: its flag, the factor from the flag's unit to the limit's, and its help."""


def with_target(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for a goal and its limits. The command gets `read_targets`, which returns what `calibrate` takes."""

    @functools.wraps(command)
    def gather(goal: Any, by: Any, target_file: str | None, **values: Any) -> Any:
        limits = {name: values.pop(name) for name in LIMITS}
        return command(read_targets=functools.partial(_read_targets, goal, by, limits, target_file), **values)

    options = [
        click.option("--goal", help="What to optimise: latency, energy or accuracy."),
        *(click.option(flag, name, help=text) for name, (flag, _, text) in LIMITS.items()),
        click.option(
            "--by", help="class or group: what may be lost is limited in each class, or in each of the --groups."
        ),
        click.option(
            "--target",
            "target_file",
            help="A YAML file with a target, or with several, each under the name of its point.",
        ),
    ]
    for option in reversed(options):
        gather = option(gather)
    return gather


def _read_targets(
    goal: Any, by: Any, limits: Mapping[str, str | None], file: str | None
) -> "Target | dict[str, Target] | None":
    """Return the target that options or a file ask for; None if there are none. A limit is a number, or has a unit: `5ms`."""
    from ..bundle import Target
    from ..calibrate import read_targets
    from ..calibrate.target_file import read_limit

    given = {
        name: read_limit(LIMITS[name][0], text, limit=name, factor=LIMITS[name][1])
        for name, text in limits.items()
        if text is not None
    }
    if file is None:
        return Target(goal=goal, by=by, counts="labels", **given) if given or goal or by else None
    if given or goal or by:
        raise UsageError("--target names a file that states goal and limits: leave --goal, --by and the limits out.")
    return read_targets(file)


with_meter = click.option(
    "--meter",
    default="auto",
    show_default=True,
    help="A meter: a name that offramp doctor lists, auto, or file.py:function.",
)
with_seed = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed for everything random: which samples are drawn, and the order of measurement or training.",
)


with_metric = click.option(
    "--metric",
    help="Your own metric of all samples, shown and never promised: file.py:function, metric(answers, truth).",
)


with_weights = click.option(
    "--weights",
    help="A file with the network's parameters: of offramp attach or train, whose exits are attached again, or a state_dict.",
)

with_groups = click.option(
    "--groups",
    help="Which samples belong together, as of one clip or person: a column or array of the samples, the level of folders (1 or "
    "2), or a file (.npy, .txt) or file.py:function with the group of each sample. Figures and promises are then over groups.",
)


def with_loss(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how wrong the answers of a network are that does not classify."""
    loss = click.option(
        "--loss", help="For a network that does not classify, how wrong an answer is, as for calibrate."
    )
    far = click.option("--disagreement", help="How far an answer is from the whole network's, likewise.")
    return loss(far(command))


def parse_seconds(option: str, text: str, *, least: float = 0.01) -> float:
    """Return `10s`, `500ms`, `800us`, `2m` or `10` in seconds."""
    for unit, seconds in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit)) * seconds
            except ValueError:
                break
            if least <= value < float("inf"):
                return value
            break
    raise UsageError(f"{option} takes a time of at least {least:g} s, such as 10s, 500ms or 2m, not {text!r}.")


with_pace = click.option(
    "--every",
    help="Measure at the product's pace, from the start of one call to the start of the next: 100ms. Default: back to back.",
)
"""The option `--every`, which `parse_pace` reads."""


with_replace = click.option(
    "--replace",
    is_flag=True,
    help="Let another network take the place of the bundle's, whose variants and calibrations go; or of --beside.",
)
"""The option of commands that write a bundle."""


def with_plot(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the option `--plot`, the file of a picture of something; `pictures.check_picture` checks it."""
    return click.option("--plot", metavar="FILE", help=f"Write a picture of {what}: FILE.svg, .png or .pdf.")


def parse_pace(text: str | None) -> float | None:
    """Return the seconds of `--every`; None without it."""
    return None if text is None else parse_seconds("--every", text, least=0.0001)


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the axes of `3x32x32`."""
    try:
        shape = tuple(int(axis) for axis in text.replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--shape takes the axes of one sample, such as 3x32x32, not {text!r}.")
    return shape


def split_names(text: str | None) -> list[str] | None:
    """Return the names in `a,b`."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers in `0.5,0.25`."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes numbers joined by commas, such as 0.5,0.25, not {text!r}.") from None


def parse_preprocess(
    mean: str | None, std: str | None, *, resize: Any, crop: float, interpolation: Any
) -> "Preprocess | None":
    """Return the preprocessing that --mean and --std ask for, None without both; a missing mean is 0, a missing std 1.

    A single number counts for every channel.
    """
    from ..bundle import Preprocess

    means, stds = parse_numbers("--mean", mean), parse_numbers("--std", std)
    if means is None and stds is None:
        return None
    means, stds = means or (0.0,), stds or (1.0,)
    for option, values in (("--mean", means), ("--std", stds)):
        if max(values) > 1:
            raise UsageError(
                f"{option} is of pixels scaled to 0 to 1, and {max(values):g} is more than 1: divide it by 255."
            )
    channels = max(len(means), len(stds))
    return Preprocess(
        mean=means * channels if len(means) == 1 else means,
        std=stds * channels if len(stds) == 1 else stds,
        resize=resize,
        crop=crop,
        interpolation=interpolation,
    )


def fit_channels(preprocess: "Preprocess | None", example: Any) -> "Preprocess | None":
    """Return preprocessing of a single number for all channels of an example, images (N, height, width, channel)."""
    axes: tuple[int, ...] = getattr(example, "shape", ())
    if preprocess is None or len(preprocess.mean) > 1 or len(axes) != 4 or axes[3] > 4:
        return preprocess
    return msgspec.structs.replace(preprocess, mean=preprocess.mean * axes[3], std=preprocess.std * axes[3])


def check_image_shape(shape: tuple[int, ...]) -> None:
    """See that the shape of an image has its channels last.

    Raises:
        UsageError: it has them first.
    """
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] > 4:
        given, fits = ("x".join(map(str, axes)) for axes in (shape, (*shape[1:], shape[0])))
        raise UsageError(
            f"With --mean or --std the shape is that of images (height, width, channel): --shape {fits}, not {given}."
        )


def parse_axes(texts: Sequence[str]) -> Any:
    """Return the names of axes in `batch,time`, or by input in several `input=batch,time`; `-` is a fixed axis."""
    named: dict[str, list[str | None]] = {}
    for text in texts:
        name, _, listed = text.rpartition("=")
        named[name] = [None if part.strip() == "-" else part.strip() for part in listed.split(",")]
    if "" in named and len(named) > 1:
        raise UsageError("With several inputs each --axes begins with the name of its input: tokens=batch,time.")
    return named.get("", named or None)


def take_first(example: Any, count: int) -> Any:
    """Return the first samples of an example, an array or several by name or in a tuple."""
    if isinstance(example, dict):
        return {name: part[:count] for name, part in example.items()}
    return tuple(part[:count] for part in example) if isinstance(example, tuple) else example[:count]


def random_example(shape: tuple[int, ...], *, images: bool) -> Any:
    """Return three random samples: uint8 images, or float32 of the standard normal distribution."""
    import numpy as np

    rng = np.random.default_rng(0)
    try:
        if images:
            return rng.integers(0, 256, (3, *shape), np.uint8)
        return rng.standard_normal((3, *shape), np.float32)
    except (MemoryError, ValueError) as error:
        raise UsageError(f"Three samples of the shape {shape} do not fit into memory.") from error
