"""Image files, decoded and resized into a network's input."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Manifest, Preprocess, Tensor
from ..errors import DataError, require

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")

STRETCH_ONLY = Preprocess(mean=(0.0,), std=(1.0,))
"""Default for bundles without preprocessing: images are stretched to the size, by bilinear interpolation."""


def load_images(files: Sequence[Path], manifest: Manifest) -> np.ndarray:
    """Decode images and resize them as the bundle's preprocessing says.

    Returns:
        uint8 (N, height, width, channel) if the bundle preprocesses. Otherwise the network's own layout, (N, channel, height,
        width) or (N, height, width, channel); for float inputs pixels are scaled to 0..1, and nothing else is done to them.

    Raises:
        DataError: the network does not take images of 1 or 3 channels and a fixed size, or a file is not a readable image.
        MissingError: Pillow is not installed.
    """
    pil = require("PIL.Image", extra="calibrate")
    tensor = manifest.inputs[0]
    channels, height, width, channels_first = find_layout(manifest.inputs)
    x = np.empty((len(files), height, width, channels), np.uint8)
    for i, file in enumerate(files):
        try:
            with pil.open(file) as image:
                colours = image.convert("L" if channels == 1 else "RGB")
                small = resize(colours, width, height, manifest.preprocess or STRETCH_ONLY)
        except PermissionError:
            raise
        except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
            raise DataError(f"{file} is not a readable image: {error}", path=file) from error
        x[i] = np.asarray(small).reshape(height, width, channels)
    x = x.transpose(0, 3, 1, 2) if channels_first else x
    return np.ascontiguousarray(x if tensor.dtype == "uint8" else x.astype(tensor.dtype) / 255)


def resize(image: "Image", width: int, height: int, preprocess: Preprocess) -> "Image":
    """Return an image of a given size: stretched, its middle cut out, or padded with black."""
    from PIL import Image

    resample: Any = Image.Resampling[preprocess.interpolation.upper()]
    if preprocess.resize == "stretch":
        return image.resize((width, height), resample)
    if preprocess.resize == "crop":
        # As torchvision's Resize and CenterCrop do: one side fits exactly, the other is rounded down.
        wide, high = round(width / preprocess.crop), round(height / preprocess.crop)
        if wide * image.height >= high * image.width:
            high = max(height, wide * image.height // image.width)
        else:
            wide = max(width, high * image.width // image.height)
        resized = image.resize((wide, high), resample)
        left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
        return resized.crop((left, top, left + width, top + height))
    scale = min(width / image.width, height / image.height)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
    padded = Image.new(image.mode, (width, height))
    padded.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    return padded


def find_layout(inputs: Sequence[Tensor]) -> tuple[int, int, int, bool]:
    """Return channels, height, width, and whether the channels come first.

    Raises:
        DataError: the network takes no images of 1 or 3 channels and a fixed size.
    """
    shape = inputs[0].shape[1:]
    if (
        len(inputs) == 1
        and inputs[0].shape[0] is None
        and len(shape) == 3
        and all(isinstance(axis, int) for axis in shape)
    ):
        sizes = [int(axis) for axis in shape if axis is not None]
        if sizes[0] in (1, 3):
            return sizes[0], sizes[1], sizes[2], True
        if sizes[2] in (1, 3):
            return sizes[2], sizes[0], sizes[1], False
    if len(inputs) == 1 and not inputs[0].is_sized:
        raise DataError(f"The network takes images of any size, {shape}: give arrays (.npz) of the size you want.")
    takes = ", ".join(str(shape if len(inputs) == 1 else tensor.shape) for tensor in inputs)
    raise DataError(
        f"The network takes samples of shape {takes}, which are no images with 1 or 3 channels: give arrays (.npz)."
    )
