"""Images in files made into a network's input."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Manifest, Preprocess, Tensor
from ..errors import DataError, require

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")

PLAIN = Preprocess(mean=(0.0,), std=(1.0,))
"""How images are resized for a network that says nothing of it: stretched, by bilinear interpolation."""


def load_images(files: Sequence[Path], manifest: Manifest) -> np.ndarray:
    """Decode images and resize them as the bundle says.

    Returns:
        uint8 (N, height, width, channel) where the bundle preprocesses. Otherwise the network's layout, (N, channel, height,
        width) or (N, height, width, channel), for float inputs with pixels scaled to 0..1 and nothing else.

    Raises:
        DataError: the network takes no images of 1 or 3 channels and a fixed size, or a file is no readable image.
        MissingError: Pillow is not installed.
    """
    pil = require("PIL.Image", extra="calibrate")
    tensor = manifest.inputs[0]
    channels, height, width, first = find_layout(manifest.inputs)
    x = np.empty((len(files), height, width, channels), np.uint8)
    for i, file in enumerate(files):
        try:
            with pil.open(file) as image:
                colours = image.convert("L" if channels == 1 else "RGB")
                small = resize(colours, width, height, manifest.preprocess or PLAIN)
        except PermissionError:
            raise
        except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
            raise DataError(f"{file} is not a readable image: {error}") from error
        x[i] = np.asarray(small).reshape(height, width, channels)
    x = x.transpose(0, 3, 1, 2) if first else x
    return np.ascontiguousarray(x if tensor.dtype == "uint8" else x.astype(tensor.dtype) / 255)


def resize(image: "Image", width: int, height: int, how: Preprocess) -> "Image":
    """Bring an image to a size by stretching it, by cutting its middle out, or by padding it with black."""
    from PIL import Image

    resample: Any = Image.Resampling[how.interpolation.upper()]
    if how.resize == "stretch":
        return image.resize((width, height), resample)
    if how.resize == "crop":
        # As torchvision's Resize and CenterCrop: one side fits exactly, the other one is truncated.
        wide, high = round(width / how.crop), round(height / how.crop)
        if wide * image.height >= high * image.width:
            high = max(height, wide * image.height // image.width)
        else:
            wide = max(width, high * image.width // image.height)
        big = image.resize((wide, high), resample)
        left, top = round((big.width - width) / 2), round((big.height - height) / 2)
        return big.crop((left, top, left + width, top + height))
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
