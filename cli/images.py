"""The options that say which images a network takes, and what of samples is read by them."""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from ..progress import Progress, no_progress
from .options import check_image_shape, fit_channels, parse_preprocess, parse_shape, random_example

if TYPE_CHECKING:
    from ..bundle import Manifest, Preprocess

__all__ = ["Images", "Prepared", "with_images"]

OPTIONS = (
    click.option("--shape", help="Shape of one sample, such as 3x32x32; with --mean or --std that of images, 32x32x3."),
    click.option(
        "--mean",
        help="Take uint8 images; subtract this from each channel, scaled to 0 to 1: 0.485,0.456,0.406, or one number for all "
        "channels.",
    ),
    click.option("--std", help="Take uint8 images; then divide each channel by this: 0.229,0.224,0.225."),
    click.option(
        "--resize", default="stretch", show_default=True, help="How images are resized: stretch, crop or pad."
    ),
    click.option(
        "--crop",
        default=1.0,
        show_default=True,
        help="With --resize crop: the share of each side to keep, 0.875 is 224 of 256.",
    ),
    click.option("--interpolation", default="bilinear", show_default=True, help="bilinear, bicubic or nearest."),
)


class Images(Struct, frozen=True, kw_only=True):
    """Values of the options that say which images a network takes.

    Attributes:
        shape: --shape, of one sample.
        preprocess: --mean, --std and how images are resized; None for a network that takes floats.
    """

    shape: tuple[int, ...] | None = None
    preprocess: "Preprocess | None" = None

    @property
    def options(self) -> dict[str, str]:
        """The options that say the same, without their dashes."""
        from ..bundle import Preprocess

        named = {} if self.shape is None else {"shape": "x".join(map(str, self.shape))}
        if self.preprocess is None:
            return named
        named |= {name: ",".join(f"{value:g}" for value in getattr(self.preprocess, name)) for name in ("mean", "std")}
        others = ("resize", "crop", "interpolation")
        defaults = Preprocess(mean=(0.0,), std=(1.0,))
        changed = [name for name in others if getattr(self.preprocess, name) != getattr(defaults, name)]
        return named | {name: str(getattr(self.preprocess, name)) for name in changed}

    @property
    def words(self) -> list[str]:
        """The options as a command line has them."""
        return [word for name, text in self.options.items() for word in (f"--{name}", text)]

    @property
    def manifest(self) -> "Manifest | None":
        """What of a manifest says how images are read, before there is a bundle; None without --shape."""
        if self.shape is None:
            return None
        from .. import __version__
        from ..bundle import Manifest, Tensor
        from ..bundle.manifest import SCHEMA

        shape = (None, *self.shape)
        images = Tensor(name="x", dtype="float32" if self.preprocess is None else "uint8", shape=shape)
        return Manifest(
            schema=SCHEMA,
            offramp=__version__,
            network="",
            captured="dynamo",
            classes=2,  # it classifies; how many classes there are nobody knows yet
            class_names=None,
            preprocess=self.preprocess,
            inputs=(images,),
            variants=(),
        )

    def load_example(self, data: str | None) -> Any:
        """Return samples of a file or folder, or three random ones of --shape; None with neither."""
        if data is not None:
            from .inputs import load_samples

            return load_samples(data, self.manifest)[0]
        return None if self.shape is None else random_example(self.shape, images=self.preprocess is not None)

    def as_trained(self, x: Any) -> Any:
        """Return uint8 images (N, height, width, channel) as the network behind the preprocessing takes them, a torch tensor of
        floats (N, channel, height, width); everything else as it is.
        """
        preprocess = fit_channels(self.preprocess, x)
        if preprocess is None:
            return x
        import torch

        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
        return (torch.as_tensor(x).permute(0, 3, 1, 2).float() / 255 - mean) / std


def with_images(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options, and give the command one record of their values, `images`."""

    @functools.wraps(command)
    def with_record(
        *,
        shape: str | None,
        mean: str | None,
        std: str | None,
        resize: str,
        crop: float,
        interpolation: str,
        **others: Any,
    ) -> Any:
        preprocess = parse_preprocess(mean, std, resize=resize, crop=crop, interpolation=interpolation)
        images = Images(shape=parse_shape(shape) if shape else None, preprocess=preprocess)
        if preprocess is not None and images.shape is not None:
            check_image_shape(images.shape)
        return command(images=images, **others)

    for option in reversed(OPTIONS):
        with_record = option(with_record)
    return with_record


class Prepared:
    """Batches whose images are prepared as the network takes them."""

    def __init__(self, batches: Any, images: Images, progress: Progress = no_progress) -> None:
        self._batches, self._images, self._progress = batches, images, progress
        self.generator = getattr(batches, "generator", None)  # whose state a checkpoint saves

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for k, batch in enumerate(self._batches):  # of any form: training refuses what is no (inputs, labels)
            self._progress("training", k, len(self))
            yield (self._images.as_trained(batch[0]), *batch[1:]) if isinstance(batch, (tuple, list)) else batch
